"""A prompt's clean and corrupted run, small, and the cells that are restored between them."""

import torch

from core.models.model import Model
from core.patching.clean_and_corrupted import run_base, run_source
from core.patching.readout import Readout
from core.patching.restore import restore
from core.patching.sites import KINDS

IDS = [5, 80, 41, 200, 7, 33, 120, 64, 9]
WORDS = [17, 290]
READOUT = Readout((17, 290))
SPAN = [2, 3, 5]
WORD_SPANS = {1: range(2), 4: range(2, 5), 5: range(5, 6), len(IDS) - 1: range(6, len(IDS))}
"""The corrupted span begins inside a word, and the last word is of several tokens."""


def embeddings(model: Model, samples: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    clean = model.embed(IDS)
    noise = torch.randn(samples, len(SPAN), model.width, generator=torch.Generator().manual_seed(1))
    corrupted = clean.repeat(samples, 1, 1)
    corrupted[:, SPAN] += 0.5 * noise.to(clean)
    return clean, corrupted


def run(model: Model, *, kinds=KINDS, window=1, samples=2, **options):
    clean_embeddings, corrupted_embeddings = embeddings(model, samples)
    clean = run_source(model, clean_embeddings[None], READOUT)
    corrupted = run_base(model, corrupted_embeddings, READOUT, clean, kinds)
    found = restore(
        model, clean, corrupted, READOUT, kinds=kinds, window=window, first=min(SPAN), **options
    )
    return clean, corrupted, found
