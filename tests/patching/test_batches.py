"""A trace stays within its memory budget, measured by the operating system."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

MEASURE = """
import json, sys
sys.path[:0] = ["tests/support"]
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from tiny_models import make_tokenizer
from core.patching.batches import TOKENS_PER_CALL, TOKENS_PER_PASS
from core.patching.restore import restore
from core.patching.clean_and_corrupted import run_base, run_source
from core.models.model import Model
from core.patching.batches import Batches
from core.patching.readout import Readout

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

class Enough(Exception):
    pass

def stop(_share):
    raise Enough

config = GPT2Config(vocab_size=400, n_embd=1024, n_layer=6, n_head=16, n_positions=128)
network = GPT2LMHeadModel(config).requires_grad_(False)
model = Model(network, make_tokenizer(), name="wide", identity="wide")
readout = Readout((1, 2))

def trace(positions, samples, budget):
    batches = Batches.within(model, positions, window=2, samples=samples, budget=budget)
    clean_embeddings = model.embed(list(range(positions)))
    clean = run_source(model, clean_embeddings[None], readout)
    noisy = clean_embeddings + 0.1 * torch.randn(batches.samples, positions, model.width)
    corrupted = run_base(model, noisy, readout, clean)
    try:  # the first position has the most rows and states: nothing later needs more
        restore(model, clean, corrupted, readout, window=2, batches=batches, progress=stop)
    except Enough:
        pass
    return batches.samples

trace(8, 1, 2**40)  # what the libraries take once
TOKENS_PER_CALL["cpu"] = TOKENS_PER_PASS["cpu"] = 2**40  # the budget alone decides
measured = {}
for budget in map(int, sys.argv[1:]):
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = status("VmRSS")
    samples = trace(96, 8, budget)
    measured[budget] = [status("VmHWM") - before, samples]
print(json.dumps(measured))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_stays_within_the_budget():
    mega = 2**20
    budgets = [100 * mega, 400 * mega, 4000 * mega]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, budgets)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    measured = {int(budget): found for budget, found in json.loads(run.stdout).items()}
    print({budget // mega: (peak // mega, n) for budget, (peak, n) in measured.items()})
    for budget in budgets:
        assert measured[budget][0] <= budget
    # ... and a larger budget is used: the test would see a batch that is not bounded.
    assert measured[budgets[-1]][0] > budgets[-2]
    assert measured[budgets[-1]][1] > measured[budgets[0]][1]
