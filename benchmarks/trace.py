"""How long does a trace take, beside the other ways to get the same numbers?

    python -m benchmarks.trace [--quick] [--shapes gpt2 ...] [--tokens 20 ...] [--ways plain ...]

Every way gets the same model (random weights in the shape of a real one, saved as safetensors),
token ids, noise and samples, and runs alone in a fresh process:

- `ours`: SentiTrace;
- `plain`: one full forward pass per cell, which carries all samples (the ROME code's way);
- `batched`: full forward passes of 32 rows, the last position's logits only;
- `causal-tracer`: the package, in batches of 32;
- `transformer-lens`: TransformerLens `patching`, one corrupted sample at a time;
- `transformer-lens-batched`: the same with all samples as its batch.

Ours is measured on all cells, as the median of some repetitions; on the longest cases with the
first samples only, as many as take about `--our-budget` operations (at least 2), and scaled to all.
The others take minutes to hours, and each of their passes costs the same whatever the cell; so they
are measured on cells evenly spaced over the (layer, position) grid of every kind, as many as take
about `--budget` operations, and scaled to all cells; `transformer-lens` also on one of the samples.
The output says how many of both. What all cells share (the clean run, the corrupted run) is
measured whole. A way's difference is the largest one, over the cells, samples and words that both
measured, between its and our log P after restoration (causal-tracer tells the mean of P over
samples only: the log of that, where ours has all samples).

Peak memory is the process's VmHWM; from it the weights' own size is subtracted. What is left holds
Python and its libraries too, so the rise during tracing alone is given as well.

Share of the peak
-----------------
The minimal operation count, matrix products only, an addition and a multiplication counting as two.
With D width, V vocabulary, P the matrices' elements of a block, P_kv those of its keys' and
values' projections, H = heads * head size, L layers, T tokens, f the first corrupted position:

- a block on n positions t .. T-1, all states needed:
  B(n) = 2 n P + 4 H * sum of (position + 1)  [scores and weighted values, causal]
- the last block on them, only the last state needed: B_last(n) = 2 n P_kv + 2 (P - P_kv) + 4 H T
- the read-out at one position: R = 2 D V
- the clean run, from position 0, and each sample's corrupted run, from f: (L-1) B + B_last + R
- a restored run (cell) at position t that is known after block e: (L-2-e) B + B_last + R, from t;
  for e = L-1 nothing before the last position, and R at it (the hidden state there is the clean
  answer: nothing).
  `hidden` at layer l: e = l. `mlp` and `attn` with a window that begins at layer a: e = a; where
  the neighbouring cell's window begins at the same layer and ends before layer z, the two runs are
  one up to there: e = z - 1. `attn` also takes the MLP's matrices at one position to get there.

This is what DESIGN, section 5, calls needed. (A little less is possible: in the first block that a
restored run meets, only position t has new queries, keys and values.) The peak is measured by
`benchmarks.kernels` before and after the traces: torch's plain product and the packed one. The
share of the larger is the honest one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kernels import peak
from benchmarks.machine import RESULTS, ROOT, describe, physical_cores, save, say
from benchmarks.ways.job import Job
from core.models.registry import EMBEDDED, is_on_disk, model_folder
from core.patching.sites import KINDS, window_layers
from core.prompts.prompt import DEFAULT_SUFFIX, DEFAULT_WORDS
from core.tracing.corruption import default_window

PEERS = ROOT / ".venv-peers"
WAYS: dict[str, tuple[str | None, list[str]]] = {  # environment of its own, module and arguments
    "ours": (None, ["ours"]),
    "plain": (None, ["full_passes", "plain"]),
    "batched": (None, ["full_passes", "batched"]),
    "causal-tracer": ("causal-tracer", ["causal_tracer"]),
    "transformer-lens": ("transformer-lens", ["transformer_lens", "single"]),
    "transformer-lens-batched": ("transformer-lens", ["transformer_lens", "batched"]),
}
NOISE_SCALE = 3.0
FEWEST_CELLS = 6
WORDS = "the flight was late and I had to wait for hours with my bags in the rain again"


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    family: str
    layers: int
    width: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def mlp_elements(self) -> int:
        """Elements of an MLP's matrices; a gated one has three."""
        return (3 if self.family == "llama" else 2) * self.width * self.inner

    @property
    def key_value_elements(self) -> int:
        """Elements of the projections to keys and values."""
        return 2 * self.width * self.key_heads * self.head_size

    @property
    def block_elements(self) -> int:
        """Elements of a block's matrices."""
        return 2 * self.width**2 + self.key_value_elements + self.mlp_elements

    def config(self) -> Any:
        """A transformers configuration of this shape."""
        from transformers import GPT2Config, LlamaConfig

        if self.family == "gpt2":
            return GPT2Config(
                vocab_size=self.vocabulary,
                n_embd=self.width,
                n_layer=self.layers,
                n_head=self.heads,
                n_inner=self.inner,
            )
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )


SHAPES = {
    "gpt2": Shape("gpt2", 12, 768, 12, 12, 3072, 50257),
    "gpt2-medium": Shape("gpt2", 24, 1024, 16, 16, 4096, 50257),
    "gpt2-large": Shape("gpt2", 36, 1280, 20, 20, 5120, 50257),
    "gpt2-xl": Shape("gpt2", 48, 1600, 25, 25, 6400, 50257),
    "smollm2-135m": Shape("llama", 30, 576, 9, 3, 1536, 49152),
}


def find_shape(name: str) -> Shape:
    """A shape by its name; "gpt2@24" is gpt2 with 24 layers."""
    base, _, layers = name.partition("@")
    if base not in SHAPES or (layers and not layers.isdigit()):
        raise SystemExit(
            f"The shape {name!r} is not known; choose one of {', '.join(SHAPES)}, "
            "with @ and a number of layers if it is to have others."
        )
    return replace(SHAPES[base], layers=int(layers)) if layers else SHAPES[base]


# --- the minimal operation count -----------------------------------------------------------------


def _block(shape: Shape, first: int, tokens: int) -> int:
    seen = sum(range(first + 1, tokens + 1))
    return 2 * (tokens - first) * shape.block_elements + 4 * shape.width * seen


def _last_block(shape: Shape, first: int, tokens: int) -> int:
    rest = shape.block_elements - shape.key_value_elements
    return 2 * (tokens - first) * shape.key_value_elements + 2 * rest + 4 * shape.width * tokens


def _run(shape: Shape, blocks: int, first: int, tokens: int) -> int:
    """Operations of a run through the last `blocks` blocks, at least one, and the read-out."""
    return (
        (blocks - 1) * _block(shape, first, tokens)
        + _last_block(shape, first, tokens)
        + 2 * shape.width * shape.vocabulary
    )


def _entries(kind: str, layers: int, window: int) -> list[int]:
    """Per cell, the layer after which its own run begins."""
    if kind == "hidden":
        return list(range(layers))
    entries = []
    for layer in range(layers):
        covered = window_layers(layer, window, layers)
        before = window_layers(layer - 1, window, layers) if layer else range(-1, -1)
        entries.append(before.stop - 1 if covered.start == before.start else covered.start)
    return entries


def minimal_operations(
    shape: Shape, tokens: int, first: int, samples: int, kinds: list[str], window: int
) -> int:
    """Operations that a trace cannot do without; the formula is this module's docstring."""
    layers = shape.layers
    per_sample = _run(shape, layers, first, tokens)
    for kind in kinds:
        entries = _entries(kind, layers, window)
        for position in range(first, tokens):
            for entered in entries:
                if entered < layers - 1:
                    per_sample += _run(shape, layers - 1 - entered, position, tokens)
                elif position == tokens - 1 and kind != "hidden":
                    per_sample += 2 * shape.width * shape.vocabulary
            if kind == "attn":
                starts = {window_layers(layer, window, layers).start for layer in range(layers)}
                per_sample += 2 * len(starts) * shape.mlp_elements
    return _run(shape, layers, 0, tokens) + samples * per_sample


# --- models, prompts, jobs -----------------------------------------------------------------------


def make_model(shape: Shape, folder: Path) -> None:
    """Save a random model of a shape with the embedded model's tokenizer."""
    import shutil

    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(shape.config(), trust_remote_code=False)
    network.float().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder(EMBEDDED) / name, folder / name)


def make_tweet(tokenizer: Any, tokens: int) -> tuple[str, list[int], int]:
    """A tweet that is `tokens` long with the suffix, the ids of both, the tweet's own tokens."""
    tweet = "My"
    for word in WORDS.split() * tokens:
        ids = list(tokenizer(tweet + DEFAULT_SUFFIX)["input_ids"])
        if len(ids) >= tokens:
            break
        tweet += " " + word
    suffix = len(tokenizer(DEFAULT_SUFFIX)["input_ids"])
    if len(ids) != tokens:
        raise SystemExit(f"No prompt of {tokens} tokens can be made; choose more than {suffix}.")
    return tweet, ids, tokens - suffix


def spaced_cells(layers: int, tokens: int, count: int) -> list[tuple[int, int]]:
    """Cells evenly spaced over the (layer, position) grid; all of them when `count` is that."""
    chosen = np.unique(np.linspace(0, layers * tokens - 1, count).round().astype(int))
    return [divmod(int(index), tokens) for index in chosen]


def make_job(name: str, folder: Path, tokens: int, kinds: list[str], options: Any) -> Job:
    """The job of one shape and length, with all cells."""
    from transformers import AutoTokenizer

    shape = find_shape(name)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    tweet, ids, own = make_tweet(tokenizer, tokens)
    return Job(
        model=str(folder),
        tweet=tweet,
        suffix=DEFAULT_SUFFIX,
        ids=ids,
        span=list(range(own)),
        words=list(DEFAULT_WORDS),
        word_ids=[tokenizer(word)["input_ids"][0] for word in DEFAULT_WORDS],
        embedding_std=0.02,
        noise_scale=NOISE_SCALE,
        seed=0,
        samples=options.samples,
        window=default_window(shape.layers),
        cells={kind: spaced_cells(shape.layers, tokens, shape.layers * tokens) for kind in kinds},
        threads=options.threads,
        repeat=options.repeat,
        device=options.device,
        dtype=options.dtype,
    )


def draw_noise(job: Job, width: int) -> np.ndarray:
    """The noise that `core.tracing.tracer` draws: (samples, span, width), in embedding units."""
    drawn = [
        np.random.default_rng([job.seed, sample]).standard_normal((len(job.span), width))
        for sample in range(job.samples)
    ]
    return (job.noise_scale * job.embedding_std * np.array(drawn)).astype(np.float32)


# --- one way in one process ----------------------------------------------------------------------


def run_way(way: str, job: Job, noise: np.ndarray, scratch: Path) -> tuple[dict[str, Any], Any]:
    """Run a way in a process of its own: what it wrote, and its arrays."""
    import json

    environment, (module, *arguments) = WAYS[way]
    folder = scratch / f"{way}-{len(list(scratch.iterdir()))}"
    job.save(folder, noise)
    python = sys.executable if environment is None else PEERS / environment / "bin" / "python"
    if not Path(python).exists():
        raise SystemExit(f"{way} is not installed: run `make bench-peers` first.")
    done = subprocess.run(
        [str(python), "-m", f"benchmarks.ways.{module}", *arguments, str(folder)],
        cwd=ROOT,
        env=os.environ
        | {
            "SENTITRACE_HOME": str(folder / "home"),  # nothing is found there
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(job.threads),
            "MKL_NUM_THREADS": str(job.threads),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    with np.load(folder / "result.npz", allow_pickle=False) as arrays:
        return found, {name: arrays[name] for name in arrays.files}


def full_pass_operations(shape: Shape, tokens: int) -> int:
    """Operations of one full forward pass with the vocabulary at every position."""
    blocks = shape.layers * _block(shape, 0, tokens)
    return blocks + 2 * tokens * shape.width * shape.vocabulary


def largest_difference(
    kind: str,
    cells: list[tuple[int, int]],
    theirs: dict[str, np.ndarray],
    ours: np.ndarray,
    samples: int,
) -> float | None:
    """Largest |log P - our log P| of a kind over the cells that a way measured; None: not told.

    Args:
        ours: (layers, positions, samples that ours measured, words).
        samples: all samples of the trace.
    """
    layers, positions = zip(*cells, strict=True)
    expected = ours[list(layers), list(positions)]
    if f"log_probs/{kind}" in theirs:
        found = theirs[f"log_probs/{kind}"]
        both = min(found.shape[1], expected.shape[1])
        return float(np.abs(found[:, :both] - expected[:, :both]).max())
    if f"mean_log_probs/{kind}" in theirs and expected.shape[1] == samples:
        mean = np.log(np.exp(expected[..., 0]).mean(axis=1))
        return float(np.abs(theirs[f"mean_log_probs/{kind}"] - mean).max())
    return None


def measure_case(
    name: str, folder: Path, tokens: int, options: Any, scratch: Path
) -> list[dict[str, Any]]:
    """All ways on one shape and length: one row per way and set of kinds."""
    shape = find_shape(name)
    kinds = list(KINDS) if "all" in options.kinds else ["hidden"]
    job = make_job(name, folder, tokens, kinds, options)
    noise = draw_noise(job, shape.width)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    grid = shape.layers * tokens
    common = {"shape": name, "layers": shape.layers, "width": shape.width, "tokens": tokens}
    common |= {"samples": job.samples, "window": job.window, "weights": weights, "cells": grid}
    rows: list[dict[str, Any]] = []
    ours: dict[str, np.ndarray] = {}
    seconds_of_ours: dict[str, float] = {}
    for label, chosen in _kind_sets(options, kinds):
        operations = minimal_operations(shape, tokens, job.span[0], job.samples, chosen, job.window)
        affordable = round(options.our_budget * 1e12 * job.samples / operations)
        samples = min(job.samples, max(2, affordable))
        part = replace(job, samples=samples, cells={kind: job.cells[kind] for kind in chosen})
        found, arrays = run_way("ours", part, noise, scratch)
        (measured,) = found["seconds"].values()
        scale = job.samples / samples
        seconds = measured * scale
        seconds_of_ours[label] = seconds
        for kind in chosen:
            ours[kind] = arrays[f"log_probs/{kind}"].reshape(shape.layers, tokens, samples, -1)
        rows.append(
            common
            | {
                "way": "ours",
                "kinds": label,
                "seconds": seconds,
                "ratio": 1.0,
                "difference": None,
                "measured_cells": grid,
                "measured_samples": samples,
                "operations": operations,
                "gflops": operations / seconds / 1e9,
                "first_picture": found["notes"]["first_picture"] / seconds,
                "fastest": found["notes"]["fastest"] * scale,
                "slowest": found["notes"]["slowest"] * scale,
                "memory": found["memory"],
                "versions": found["versions"],
            }
        )
        _say_row(rows[-1])
    per_cell = job.samples * full_pass_operations(shape, tokens)
    count = min(grid, max(FEWEST_CELLS, round(options.budget * 1e12 / per_cell)))
    cells = spaced_cells(shape.layers, tokens, count)
    part = replace(job, cells=dict.fromkeys(kinds, cells))
    for way in options.ways:
        if way == "ours":
            continue
        found, arrays = run_way(way, part, noise, scratch)
        scale = job.samples / found["samples"]
        for label, chosen in _kind_sets(options, kinds):
            seconds = sum(
                scale * (found["fixed_seconds"][kind] + found["seconds"][kind] * grid / len(cells))
                for kind in chosen
            )
            told = [
                largest_difference(kind, cells, arrays, ours[kind], job.samples) for kind in chosen
            ]
            rows.append(
                common
                | {
                    "way": way,
                    "kinds": label,
                    "seconds": seconds,
                    "ratio": seconds / seconds_of_ours[label],
                    "difference": max((each for each in told if each is not None), default=None),
                    "measured_cells": len(cells),
                    "measured_samples": found["samples"],
                    "memory": found["memory"],
                    "versions": found["versions"],
                }
            )
            _say_row(rows[-1])
    return rows


def _kind_sets(options: Any, kinds: list[str]) -> list[tuple[str, list[str]]]:
    # `hidden` first: the slow ways' difference of it is taken against the same run of ours.
    sets = {"hidden": ["hidden"], "all": kinds}
    return [(label, sets[label]) for label in ("hidden", "all") if label in options.kinds]


def _say_row(row: dict[str, Any]) -> None:
    difference = "" if row["difference"] is None else f", difference {row['difference']:.1e}"
    above = (row["memory"]["peak"] - row["weights"]) / 1e6
    speed = f", {row['gflops']:.0f} GFLOP/s needed ones" if "gflops" in row else ""
    say(
        f"{row['shape']:14} {row['tokens']:3} tokens {row['kinds']:6} {row['way']:24} "
        f"{row['seconds']:9.2f} s  {row['ratio']:6.1f} times  "
        f"({row['measured_cells']} of {row['cells']} cells, {row['measured_samples']} samples"
        f"{difference}, {above:.0f} MB above the weights{speed})"
    )


def arguments() -> Any:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--shapes", nargs="+", default=["gpt2", "gpt2-medium", "smollm2-135m"])
    add("--tokens", nargs="+", type=int, default=[10, 20, 40, 64])
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    add("--kinds", nargs="+", choices=["hidden", "all"], default=["hidden", "all"])
    add("--samples", type=int, default=10)
    add(
        "--layers",
        nargs="*",
        type=int,
        default=[6, 12, 24, 48],
        metavar="L",
        help="GPT-2's width with so many layers, 20 tokens, full passes and ours only",
    )
    add("--repeat", type=int, default=3, help="repetitions of ours; the median counts")
    add(
        "--budget",
        type=float,
        default=1.0,
        help="million million operations of a slow way's measured cells, for each kind",
    )
    add(
        "--our-budget",
        type=float,
        default=40.0,
        help="the same for ours, for all kinds together; longer ones get fewer samples",
    )
    add("--threads", type=int, default=physical_cores())
    add("--device", default="cpu")
    add("--dtype", default="float32")
    add("--quick", action="store_true", help="GPT-2's shape, 10 tokens, 2 samples: a minute")
    add("--output", type=Path, default=RESULTS / "trace.json")
    options = parser.parse_args()
    if options.quick:
        options.shapes, options.tokens, options.samples = ["gpt2"], [10], 2
        options.layers, options.repeat, options.budget = [], 1, 0.05
    if options.device != "cpu":
        # The peers' environments hold torch for the processor.
        options.ways = [way for way in options.ways if WAYS[way][0] is None]
    return options


def main() -> None:
    """Measure every case; what is measured is saved after each."""
    options = arguments()
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    began = time.time()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    if load > 0.5:
        say(f"Other work is under way (load {load:.1f}): the times will be too long.")
    at_least = 0.05 if options.quick else 0.3
    peaks = [peak(options.threads, at_least)]
    say(f"matrix peak, GFLOP/s: {peaks[0]}")
    found: dict[str, Any] = {
        "machine": describe(),
        "load": load,
        "date": time.strftime("%Y-%m-%d"),
        "options": {name: value for name, value in vars(options).items() if name != "output"},
        "rows": [],
        "growth": [],
    }
    # Growth with layers: the same width, so that only their number changes.
    growth = argparse.Namespace(**vars(options))
    growth.kinds, growth.ways = ["hidden"], [w for w in ("ours", "plain") if w in options.ways]
    cases = [(shape, options.tokens, options, "rows") for shape in options.shapes]
    cases += [(f"gpt2@{layers}", [20], growth, "growth") for layers in options.layers]
    for name, lengths, chosen, table in cases:
        with tempfile.TemporaryDirectory(prefix="sentitrace-benchmark-") as folder:
            model = Path(folder) / "model"
            make_model(find_shape(name), model)
            scratch = Path(folder) / "jobs"
            scratch.mkdir()
            for tokens in lengths:
                found[table] += measure_case(name, model, tokens, chosen, scratch)
                save(options.output, found | {"peaks": peaks})
    peaks.append(peak(options.threads, at_least))
    found["peaks"] = peaks
    found["minutes"] = (time.time() - began) / 60
    save(options.output, found)
    say(f"{found['minutes']:.1f} minutes; `python -m benchmarks.results` writes the report.")


if __name__ == "__main__":
    main()
