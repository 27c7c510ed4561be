"""The engine against the plain reference on random models, lengths, spans, windows and kinds."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import restored
from tiny_models import VARIANTS, make_model

from core.patching.batches import Batches
from core.patching.clean_and_corrupted import run_base, run_source
from core.patching.readout import Readout
from core.patching.restore import restore
from core.patching.sites import KINDS

WORDS = (17, 290)
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the effects' scale


@st.composite
def cases(draw):
    length = draw(st.integers(1, 12))
    span = draw(st.sets(st.integers(0, length - 1), min_size=1))
    return {
        "variant": draw(st.sampled_from(VARIANTS)),
        "layers": draw(st.integers(1, 4)),
        "dtype": draw(st.sampled_from(list(TOLERANCE))),
        "ids": draw(st.lists(st.integers(0, 300), min_size=length, max_size=length)),
        "span": sorted(span),
        "window": draw(st.integers(1, 6)),
        "kinds": tuple(draw(st.permutations(KINDS)))[: draw(st.integers(1, 3))],
        "samples": draw(st.integers(1, 3)),
        "tokens": draw(st.sampled_from([1, 7, 64, 4096])),
    }


@settings(max_examples=40)
@given(cases())
def test_every_cell_of_any_trace_equals_one_full_forward_pass(case):
    model = make_model(case["variant"], layers=case["layers"], dtype=case["dtype"])
    clean_embeddings = model.embed(case["ids"])
    noise = torch.randn(
        case["samples"], len(case["span"]), model.width, generator=torch.Generator().manual_seed(0)
    )
    corrupted_embeddings = clean_embeddings.repeat(case["samples"], 1, 1)
    corrupted_embeddings[:, case["span"]] += 0.5 * noise.to(clean_embeddings)
    readout = Readout(WORDS)
    clean = run_source(model, clean_embeddings[None], readout)
    corrupted = run_base(model, corrupted_embeddings, readout, clean, case["kinds"])
    found = restore(
        model,
        clean,
        corrupted,
        readout,
        kinds=case["kinds"],
        window=case["window"],
        first=case["span"][0],
        batches=Batches(case["samples"], tokens=case["tokens"], bytes=2**40),
    )
    sample = case["samples"] - 1
    low = corrupted.read[sample].double().numpy()
    for kind in case["kinds"]:
        expected = restored(
            model,
            kind,
            clean_embeddings,
            corrupted_embeddings[sample],
            WORDS,
            window=case["window"],
        )
        # The scale is at least that of the total effect, so that it is not rounding itself.
        scale = max(np.abs(expected - low).max(), np.abs(clean.read.double().numpy() - low).max())
        error = np.abs(found.read[kind][sample] - expected).max()
        assert error <= TOLERANCE[case["dtype"]] * max(scale, 0.1)
