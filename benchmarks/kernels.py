"""What are packed weights worth? torch's own linear layer against `PackedLinear`.

    python -m benchmarks.kernels [--quick] [--output FILE]

For the weights of the models that are traced, 1 and all threads, and 1 to 2000 rows (a row is one
position of one restored run): GFLOP/s of both, their ratio, and the largest difference relative to
the largest product. A product of (rows, in) and (out, in) takes 2 * rows * in * out operations.

`peak` is what `benchmarks.trace` holds a trace against: the fastest that this machine multiplies
float32 matrices by torch's plain product, and by a packed one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import RESULTS, describe, physical_cores, save, say
from core.models.packed_weights import PackedLinear, can_pack

WEIGHTS = {  # (out, in)
    "GPT-2 attention in": (2304, 768),
    "GPT-2 attention out": (768, 768),
    "GPT-2 MLP in": (3072, 768),
    "GPT-2 MLP out": (768, 3072),
    "GPT-2 vocabulary": (50257, 768),
    "GPT-2 medium MLP in": (4096, 1024),
    "SmolLM2 queries": (576, 576),
    "SmolLM2 keys": (192, 576),
    "SmolLM2 MLP in": (1536, 576),
    "SmolLM2 MLP out": (576, 1536),
}
ROWS = (1, 4, 16, 64, 200, 500, 1000, 2000)
PEAK_ROWS = (256, 512, 1024, 2048)
PEAK_WEIGHTS = ((3072, 768), (768, 3072), (4096, 1024), (2048, 2048))


def seconds_of(work: Callable[[], object], at_least: float) -> float:
    """Seconds of one call: the fastest of at least 3, and of `at_least` seconds of calls."""
    work()
    fastest, spent, calls = float("inf"), 0.0, 0
    while spent < at_least or calls < 3:
        began = time.perf_counter()
        work()
        once = time.perf_counter() - began
        fastest, spent, calls = min(fastest, once), spent + once, calls + 1
    return fastest


@torch.inference_mode()
def compare(name: str, rows: int, threads: int, at_least: float) -> dict[str, Any]:
    """GFLOP/s of both layers on one shape."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    out, inside = WEIGHTS[name]
    weight = torch.randn(out, inside, generator=generator)
    bias = torch.randn(out, generator=generator)
    inputs = torch.randn(rows, inside, generator=generator)
    packed = PackedLinear(weight, bias)
    operations = 2 * rows * out * inside
    plain = torch.nn.functional.linear(inputs, weight, bias)
    difference = (packed(inputs) - plain).abs().max() / plain.abs().max()
    of_plain = seconds_of(lambda: torch.nn.functional.linear(inputs, weight, bias), at_least)
    of_packed = seconds_of(lambda: packed(inputs), at_least)
    return {
        "weight": name,
        "out": out,
        "in": inside,
        "rows": rows,
        "threads": threads,
        "plain": operations / of_plain / 1e9,
        "packed": operations / of_packed / 1e9,
        "ratio": of_plain / of_packed,
        "difference": float(difference),
    }


@torch.inference_mode()
def peak(threads: int, at_least: float = 0.3) -> dict[str, float]:
    """The most GFLOP/s of float32 products: `plain` and, where weights can be packed, `packed`."""
    torch.set_num_threads(threads)
    best: dict[str, float] = {}
    for out, inside in PEAK_WEIGHTS:
        weight = torch.randn(out, inside)
        layers: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "plain": lambda inputs, weight=weight: inputs @ weight.t()
        }
        if can_pack(weight.device, weight.dtype):
            layers["packed"] = PackedLinear(weight, None)
        for rows in PEAK_ROWS:
            inputs = torch.randn(rows, inside)
            for name, layer in layers.items():
                once = seconds_of(lambda layer=layer, inputs=inputs: layer(inputs), at_least)
                best[name] = max(best.get(name, 0.0), 2 * rows * out * inside / once / 1e9)
    return best


def main() -> None:
    """Measure all shapes and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few shapes, in seconds")
    parser.add_argument("--output", type=Path, default=RESULTS / "kernels.json")
    options = parser.parse_args()
    if not can_pack(torch.device("cpu"), torch.float32):
        raise SystemExit("Weights cannot be packed on this processor: nothing to compare.")
    names = ["GPT-2 MLP in", "SmolLM2 MLP in"] if options.quick else list(WEIGHTS)
    at_least = 0.02 if options.quick else 0.2
    rows = []
    for threads in sorted({1, physical_cores()}):
        for name in names:
            for count in ROWS[::3] if options.quick else ROWS:
                row = compare(name, count, threads, at_least)
                rows.append(row)
                say(
                    f"{name:20} {count:5} rows {threads} threads: plain {row['plain']:6.1f}, "
                    f"packed {row['packed']:6.1f} GFLOP/s, {row['ratio']:.2f} times, "
                    f"difference {row['difference']:.1e}"
                )
    save(options.output, {"machine": describe(), "quick": options.quick, "rows": rows})


if __name__ == "__main__":
    main()
