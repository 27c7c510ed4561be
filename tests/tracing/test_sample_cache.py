"""Traces on disk: found again, gone on with, never mixed up, never more than the bound."""

import dataclasses
import os

import numpy as np
import pytest
from processes import start
from tiny_models import make_model
from tiny_probes import make_probe

import core
from core.tracing import sample_cache
from core.tracing.result import TraceSettings

TWEET = "terrible service, my flight got cancelled"


@pytest.fixture
def model(own_home):
    return make_model("gpt2", layers=2)


def trace(model, *, text=TWEET, probe=None, **options):
    return core.trace(model, probe or make_probe(model), text, TraceSettings(**options), keep=True)


def test_a_repeated_question_is_answered_without_the_model(model):
    first = trace(model, samples=2)
    model.block_calls = 0
    again = trace(model, samples=2)
    other_proxy = trace(model, samples=2, proxy="log_ratio")
    assert model.block_calls == 0
    for kind in first.effects:
        np.testing.assert_array_equal(again.sample_effects[kind], first.sample_effects[kind])
    assert other_proxy.total_effect == first.under("log_ratio").total_effect


def test_a_trace_of_a_changed_model_is_not_kept(model):
    before = trace(model, samples=1)
    with model.with_mlp_weight(0, 2 * model.mlp_weight(0)):
        with pytest.raises(ValueError, match="keep=False"):
            trace(model, samples=1)
        changed = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=1))
    assert changed.high != before.high
    assert trace(model, samples=1).high == before.high


def test_a_stopped_trace_goes_on_from_its_samples(model):
    whole = core.trace(model, make_probe(model), TWEET, TraceSettings(samples=4))
    partial = core.trace_progressively(
        model, make_probe(model), TWEET, TraceSettings(samples=4), keep=True
    )
    next(partial)
    partial.close()  # stopped after the first sample
    model.block_calls = 0
    rest = list(
        core.trace_progressively(
            model, make_probe(model), TWEET, TraceSettings(samples=4), keep=True
        )
    )
    assert [picture.samples_done for picture in rest] == [1, 2, 3, 4]
    for kind in whole.effects:
        np.testing.assert_allclose(rest[-1].effects[kind], whole.effects[kind], atol=1e-5)
    fewer = trace(model, samples=3)
    assert fewer.samples_done == 3
    np.testing.assert_array_equal(fewer.sample_effects["mlp"], rest[-1].sample_effects["mlp"][:3])


def test_whatever_changes_the_numbers_changes_the_key(model):
    trace(model, samples=1)

    def is_computed(traced=model, **options) -> bool:
        traced.block_calls = 0
        trace(traced, samples=1, **options)
        return traced.block_calls > 0

    assert not is_computed()
    assert is_computed(text=TWEET + "!")
    assert is_computed(seed=1)
    assert is_computed(noise_scale=2.0)
    assert is_computed(window=2)
    assert is_computed(corrupt="word:0")
    assert is_computed(kinds=("hidden",))
    probe = make_probe(model)
    assert is_computed(probe=dataclasses.replace(probe, suffix=" I am"))
    assert is_computed(probe=dataclasses.replace(probe, words_positive=(" happy",)))
    assert not is_computed(probe=dataclasses.replace(probe, intercept=9.0))  # read afterwards
    assert is_computed(make_model("gpt2", layers=2, seed=1))
    assert is_computed(make_model("gpt2", layers=2, dtype="float64"))


def test_a_damaged_file_is_computed_again(model, own_home):
    expected = trace(model, samples=1)
    (path,) = (own_home / "traces").glob("*.safetensors")
    for damage in (b"", path.read_bytes()[:100], b"x" * 1000):
        path.write_bytes(damage)
        np.testing.assert_array_equal(
            trace(model, samples=1).effects["attn"], expected.effects["attn"]
        )


def test_the_longest_unused_go_first(model, own_home, monkeypatch):
    for seed in range(3):
        trace(model, samples=1, seed=seed)
    files = sorted((own_home / "traces").glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
    for age, path in enumerate(files):
        os.utime(path, (1000 + age, 1000 + age))
    trace(model, samples=1, seed=0)  # asked for again: now the newest
    monkeypatch.setattr(sample_cache, "MOST_BYTES", 2 * files[0].stat().st_size)
    trace(model, samples=1, seed=9)
    assert {path.name for path in (own_home / "traces").glob("*")} >= {files[0].name}
    assert len(list((own_home / "traces").glob("*"))) == 2


def trace_six(home) -> None:
    os.environ["SENTITRACE_HOME"] = str(home)
    model = make_model("gpt2", layers=2)
    for seed in range(6):
        trace(model, samples=2, seed=seed)


def test_two_processes_share_the_folder(model, own_home):
    both = [start(trace_six, own_home) for _ in range(2)]
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    files = list((own_home / "traces").iterdir())
    assert len(files) == 6  # and nothing half-written beside them
    model.block_calls = 0
    for seed in range(6):
        assert trace(model, samples=2, seed=seed).samples_done == 2
    assert model.block_calls == 0
