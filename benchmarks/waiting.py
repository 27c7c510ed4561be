"""What does it cost when OpenMP's threads spin while they wait, alone and beside another process?

Run: python -m benchmarks.waiting

Measures seconds of one hidden, mlp and attn trace (GPT-2's shape, 12 tokens, 1 sample), median of
five, with `OMP_WAIT_POLICY` active (the default of most builds) and passive (what `core` sets), on
a machine that is otherwise idle and beside a process that keeps one core busy.

Writes benchmarks/results/waiting.json.
"""

import json
import os
import statistics
import subprocess
import sys

from benchmarks.machine import RESULTS, describe, save, say

TRACE = """
import json, time
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from core.patching.readout import Readout
from core.patching.restore import restore
from core.patching.clean_and_corrupted import run_base, run_source
from core.models.model import Model
network = GPT2LMHeadModel(GPT2Config()).requires_grad_(False)
model = Model(network, None, name="gpt2's shape", identity="gpt2's shape")
readout = Readout((100, 200))
embeddings = model.embed(torch.arange(1000, 1012))
clean = run_source(model, embeddings[None], readout)
noisy = (embeddings + 0.3 * torch.randn_like(embeddings))[None]
corrupted = run_base(model, noisy, readout, clean)
seconds = []
for _ in range(6):
    began = time.perf_counter()
    restore(model, clean, corrupted, readout, window=2)
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds[1:]))
"""


def seconds_of_a_trace(policy: str, busy: bool) -> float:
    """Median seconds in a fresh process, with or without a neighbour that uses one core."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        run = subprocess.run(
            [sys.executable, "-c", TRACE],
            env={**os.environ, "OMP_WAIT_POLICY": policy},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
    return statistics.median(json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and write."""
    found = {
        policy: {
            neighbour: seconds_of_a_trace(policy, busy)
            for neighbour, busy in (("none", False), ("one busy core", True))
        }
        for policy in ("active", "passive")
    }
    for policy, seconds in found.items():
        say(f"{policy}: {seconds}")
    save(RESULTS / "waiting.json", {"machine": describe(), "seconds": found})


if __name__ == "__main__":
    main()
