"""How fast are tweets encoded? A plain script's way against `core.probes.encoding.encode`.

    python -m benchmarks.encode [--tweets N] [--output FILE]

The plain way: the transformers model as it is loaded, batches of 32 tweets in the data set's order,
padded on the right, logits of the whole vocabulary at all positions, hidden states of all layers;
of these the last position's are kept. Both ways run in one process, one after the other, and must
give the same log P(good) and log P(bad). CPU seconds are given too: on a busy machine they say
more.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import RESULTS, describe, save, say
from core.data.datasets import load_dataset
from core.models.loading import load_model
from core.models.registry import EMBEDDED, is_on_disk, model_folder
from core.probes.encoding import encode
from core.prompts.prompt import DEFAULT_SUFFIX, DEFAULT_WORDS, word_token

BATCH = 32


@torch.inference_mode()
def encode_plainly(texts: Sequence[str], words: Sequence[int]) -> np.ndarray:
    """log P of the words after each text, (texts, words), as a plain script finds it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_folder(EMBEDDED)
    network = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", local_files_only=True)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    found, states = [], []
    for start in range(0, len(texts), BATCH):
        prompts = [text.strip() + DEFAULT_SUFFIX for text in texts[start : start + BATCH]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        output = network(**batch, output_hidden_states=True)
        rows, last = torch.arange(len(prompts)), batch["attention_mask"].sum(1) - 1
        found.append(output.logits[rows, last].log_softmax(-1)[:, list(words)])
        states.append(torch.stack([layer[rows, last] for layer in output.hidden_states]))
    return torch.cat(found).numpy()


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
    """What a piece of work gives, and its seconds on the clock and on the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, {
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - processor,
    }


def main() -> None:
    """Measure, compare and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tweets", type=int, help="Only the first N tweets.")
    parser.add_argument("--output", type=Path, default=RESULTS / "encode.json")
    options = parser.parse_args()
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    texts = list(load_dataset("vader-tweets")["text"][: options.tweets])
    model = load_model(EMBEDDED)
    words = [word_token(model, word) for word in DEFAULT_WORDS]
    expected, plain = timed(lambda: encode_plainly(texts, words))
    say(f"plain script: {plain['seconds']:.1f} s, {plain['cpu_seconds']:.1f} s of processor")
    with tempfile.TemporaryDirectory() as nothing_kept:
        os.environ["SENTITRACE_HOME"] = nothing_kept
        found, ours = timed(lambda: encode(model, texts).log_probs(model, words))
    say(f"SentiTrace:   {ours['seconds']:.1f} s, {ours['cpu_seconds']:.1f} s of processor")
    difference = float(np.abs(found - expected).max())
    ratio = {name: plain[name] / ours[name] for name in plain}
    say(
        f"{len(texts):,} tweets: {ratio['seconds']:.2f} times as fast "
        f"({ratio['cpu_seconds']:.2f} of processor), largest difference {difference:.1g} nats"
    )
    save(
        options.output,
        {
            "machine": describe(),
            "tweets": len(texts),
            "plain": plain,
            "ours": ours,
            "ratio": ratio,
            "largest_difference": difference,
        },
    )
    if difference > 1e-3:
        raise SystemExit("The two ways do not agree.")


if __name__ == "__main__":
    main()
