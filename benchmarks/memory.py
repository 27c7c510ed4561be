"""How much memory does a trace need beyond the model's own weights?

    python -m benchmarks.memory [--shape gpt2-xl] [--tokens 70] [--budget GB] [--output FILE]

A model with random weights in a real one's shape; one pass of the engine, all three kinds, from the
first corrupted position, which has the most states and rows (nothing later needs more). 70 tokens
are about 280 characters. The peak is the rise of the process's VmHWM while tracing, so that the
weights do not count; Linux only. How many samples share the pass is decided by the engine from the
budget.
"""

from __future__ import annotations

import argparse
import gc
import time
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.machine import RESULTS, describe, save, say
from benchmarks.trace import SHAPES
from core.models.model import Model
from core.patching.batches import Batches
from core.patching.clean_and_corrupted import run_base, run_source
from core.patching.readout import Readout
from core.patching.restore import restore
from core.tracing.corruption import default_window

STATUS = Path("/proc/self/status")


class _FirstPositionDone(Exception):
    pass


def _bytes(name: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def _model(shape: str) -> Model:
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(SHAPES[shape].config())
    network = network.to_empty(device="cpu").requires_grad_(False)
    for weight in network.parameters():
        weight.normal_(0, 0.02)
    network.tie_weights()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel()))
    return Model(network, tokenizer, name=shape, identity=shape)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-xl")
    parser.add_argument("--tokens", type=int, default=70)
    parser.add_argument("--budget", type=float, default=3.0, help="in GB")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    options = parser.parse_args()
    model = _model(options.shape)
    gc.collect()
    readout = Readout((1, 2))
    window = default_window(model.layers)
    batches = Batches.within(
        model, options.tokens, window=window, samples=10, budget=int(options.budget * 1e9)
    )
    say(f"{options.shape}: weights {4e-9 * model.parameters:.2f} GB, {batches.samples} samples")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins anew
    before, began = _bytes("VmRSS"), time.perf_counter()
    embeddings = model.embed(list(range(options.tokens)))
    clean = run_source(model, embeddings[None], readout)
    noise = 0.1 * torch.randn(batches.samples, options.tokens, model.width)
    base = run_base(model, embeddings + noise, readout, clean)

    def stop(_share: float) -> None:
        raise _FirstPositionDone

    with suppress(_FirstPositionDone):
        restore(model, clean, base, readout, window=window, batches=batches, progress=stop)
    peak = _bytes("VmHWM") - before
    say(f"peak {peak / 1e9:.2f} GB beyond the weights, {time.perf_counter() - began:.0f} s")
    save(
        options.output,
        {
            "machine": describe(),
            "shape": options.shape,
            "tokens": options.tokens,
            "budget": options.budget * 1e9,
            "samples": batches.samples,
            "weights": 4 * model.parameters,
            "peak": peak,
        },
    )


if __name__ == "__main__":
    main()
