"""A recipe makes the same numbers again; what is no recipe, or an old one, gets one sentence."""

import functools
import io
import json
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from shell import run
from tiny_models import save_folder
from tiny_probes import make_probe

from core.charts import figures
from core.exporting import embedded_settings
from core.exporting.figure_files import MIME, figure_bytes
from core.exporting.recipe import Recipe, Recipes, open_recipes, read_recipes
from core.exporting.table_files import TABLE_MIME, table_bytes
from core.models.loading import load_model
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace, trace_progressively

TWEET = "terrible service, bad day \U0001f600"
SETTINGS = [
    TraceSettings(samples=3, seed=5, noise_scale=2.5, window=2, corrupt="word:0"),
    TraceSettings(kinds=("mlp",), samples=2, corruption="uniform", every=2, proxy="log_ratio"),
    TraceSettings(kinds=("hidden",), corruption="mean", severed="mlp", corrupt=(1, 2)),
    TraceSettings(
        samples=2,
        corruption="counterfactual",
        counterfactual="wonderful service, bad day \U0001f600",
    ),
    TraceSettings(kinds=("hidden", "attn"), samples=2, direction="corrupt"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("tiny-gpt2"), "gpt2", layers=3)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder))


@pytest.fixture(scope="module")
def probe(model):
    return make_probe(model)


@pytest.fixture(scope="module")
def result(model, probe):
    return trace(model, probe, TWEET, TraceSettings(samples=3, seed=1))


@pytest.fixture
def recipe(result):
    return Recipe.of(result)


def same_numbers(one, other):
    assert one.settings.kinds == other.settings.kinds
    for kind in one.settings.kinds:
        np.testing.assert_array_equal(one.sample_effects[kind], other.sample_effects[kind])
    assert (one.high, one.low, one.tokens) == (other.high, other.low, other.tokens)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.corruption)
def test_every_setting_survives_and_the_numbers_are_equal(model, probe, own_home, settings):
    if settings.counterfactual is not None:
        lengths = {
            len(model.tokenizer(text).input_ids) for text in (TWEET, settings.counterfactual)
        }
        if len(lengths) > 1:
            settings = replace(settings, counterfactual=TWEET.replace("bad", "day"))
    first = trace(model, probe, TWEET, settings)
    recipe = Recipe.from_json(Recipe.of(first).to_json())
    assert recipe.settings == replace(settings, window=first.window)
    assert recipe.probe == probe
    again = recipe.run()  # loads the folder by itself
    same_numbers(again, first)
    assert again.frame().equals(first.frame())
    assert recipe.difference(again) == ""


def test_a_trace_that_was_stopped_is_repeated_as_far_as_it_came(model, probe, own_home):
    settings = TraceSettings(samples=10, seconds=1e9, stable_for=9)
    partial = trace_progressively(model, probe, TWEET, settings)
    stopped = [next(partial) for _ in range(2)][-1]
    recipe = Recipe.of(stopped)
    assert (recipe.settings.samples, recipe.settings.seconds) == (2, None)
    assert recipe.settings.stable_for is None
    same_numbers(recipe.run(), stopped)


def test_a_twin_is_repeated_as_a_twin(folder, probe, own_home):
    twin = load_model(str(folder), untrained=True)
    first = trace(twin, probe, TWEET, TraceSettings(samples=2))
    recipe = Recipe.from_json(Recipe.of(first).to_json())
    assert (recipe.model.untrained, recipe.model.name) == (True, str(folder))
    same_numbers(recipe.run(), first)


def test_kept_samples_are_found_again(result, recipe, model, own_home):
    recipe.run()
    calls = model.block_calls
    same_numbers(recipe.run(model=model), result)
    assert model.block_calls == calls


def test_other_weights_are_refused(recipe, tmp_path, own_home):
    other = load_model(str(save_folder(tmp_path / "other", "gpt2", layers=3, seed=1)))
    with pytest.raises(ValueError, match=r"the weights here are others, or"):
        recipe.run(model=other)


def test_a_folder_that_is_not_here_is_named(recipe, own_home):
    moved = replace(recipe, model=replace(recipe.model, name="/nowhere/model"))
    with pytest.raises(ValueError, match="local folder '/nowhere/model', which is not here"):
        moved.run()


def test_a_different_outcome_is_told_with_the_versions(recipe, result):
    assert recipe.difference(result) == ""
    found = replace(recipe.found, low=recipe.found.low + 1)
    elsewhere = replace(recipe, found=found, versions={**recipe.versions, "torch": "1.0"})
    told = elsewhere.difference(result)
    assert told.startswith("The corrupted proxy is ")
    assert "torch 1.0 (here " in told
    assert "numpy" not in told


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(result):
    """A figure in every form, saved with its recipe."""
    chart, text = figures.trace_heatmaps(result), Recipe.of(result).to_json()
    return {form: figure_bytes(chart, form, recipe=text) for form in MIME}


@pytest.mark.parametrize("form", MIME)
def test_every_figure_holds_its_recipe(saved, recipe, form):
    assert read_recipes(saved[form]) == (recipe,)


@pytest.mark.parametrize("form", [form for form in TABLE_MIME if form != "csv"])
def test_every_table_but_csv_holds_its_recipe(result, recipe, form):
    content = table_bytes(result.frame(), form, recipe=recipe.to_json())
    assert read_recipes(content) == (recipe,)


def test_several_traces_stay_several(result, recipe, model, probe):
    other = trace(model, probe, "good day", TraceSettings(samples=2))
    both = Recipes.of([result, other]).to_json()
    assert read_recipes(both.encode()) == (recipe, Recipe.of(other))
    chart = figures.trace_heatmaps(result)
    assert len(read_recipes(figure_bytes(chart, "svg", recipe=both))) == 2


@pytest.mark.parametrize("form", ["png", "svg", "pdf", "json"])
def test_a_file_without_a_recipe_is_told_so(result, form):
    with pytest.raises(ValueError, match=r"The file x holds no recipe; give a settings file"):
        read_recipes(figure_bytes(figures.trace_heatmaps(result), form), "x")


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_a_file_that_was_cut_off_ends_in_one_sentence(saved, form):
    for kept in (0.9, 0.02):
        with pytest.raises(ValueError, match=r"^[^\n]*\.$"):
            read_recipes(saved[form][: int(len(saved[form]) * kept)])


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x01", b"GIF89a", b"[1]", b"null", b"PK\x03\x04", b"PAR1", b"<svg", b"[" * 99_999],
)
def test_what_is_no_file_of_ours_ends_in_one_sentence(content):
    with pytest.raises(ValueError, match=r"\.$"):
        read_recipes(content)


def test_entities_of_an_svg_are_not_read():
    bomb = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><svg>&b;</svg>'
    with pytest.raises(ValueError, match="defines entities"):
        read_recipes(bomb)


# --- what is refused -----------------------------------------------------------------------------


def changed(recipe, **changes):
    return json.dumps({**json.loads(recipe.to_json()), **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema": "something else"}, "is no recipe of a trace"),
        ({"version": 0}, "has the version 0, and this SentiTrace reads version 1; trace the text"),
        ({"version": 2}, "has the version 2, .*; update SentiTrace"),
        ({"version": None}, "has the version None"),
        ({"settings": {"samples": 0}}, "damaged at settings: The number of samples must be"),
        ({"settings": {"samples": "3"}}, r"damaged at settings\.samples"),
        ({"settings": {"proxy": "mood"}}, r"damaged at settings\.proxy"),
        ({"settings": {"teleport": True}}, "asks for 'teleport', which this SentiTrace does not"),
        ({"text": 3}, "damaged at text"),
        ({"probe": {}}, r"damaged at probe\."),
        ({"suffix": "other"}, "the suffix 'other' is not the probe's"),
        ({"words": [[" fine"], [" bad"]]}, "the words are not the probe's"),
        ({"model": {"name": "gpt2"}}, r"damaged at model\.identity"),
        ({"found": {"high": float("nan"), "low": 0.0, "noise": 1.0}}, r"damaged at found\.high"),
    ],
)
def test_a_broken_recipe_ends_in_one_sentence(recipe, changes, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        Recipe.from_json(changed(recipe, **changes), "r.json")
    assert str(caught.value).startswith("The recipe r.json ")
    assert "\n" not in str(caught.value)


def test_settings_that_an_earlier_recipe_did_not_have_take_their_defaults(recipe):
    held = json.loads(recipe.to_json())
    del held["settings"]["severed"], held["settings"]["every"]
    assert Recipe.from_json(json.dumps(held)) == recipe


def test_a_probe_is_no_recipe(probe):
    with pytest.raises(ValueError, match="is no recipe of a trace"):
        read_recipes(probe.to_json())


# --- addresses -----------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """A web server of one folder; yields its address and the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_recipe_behind_an_address_is_fetched(site, recipe):
    address, folder = site
    (folder / "settings.json").write_text(recipe.to_json())
    assert open_recipes(f"{address}/settings.json", allow_private=True) == (recipe,)


def test_an_address_that_has_none_is_told(site, monkeypatch):
    address, folder = site
    with pytest.raises(ValueError, match="the server answered 404"):
        open_recipes(f"{address}/missing.json", allow_private=True)
    with pytest.raises(ValueError, match="cannot be fetched: "):
        open_recipes("http://127.0.0.1:9/settings.json", allow_private=True)
    with pytest.raises(ValueError, match="cannot be fetched: "):
        open_recipes("http://[bad/settings.json", allow_private=True)
    (folder / "large").write_bytes(b"x" * 2000)
    monkeypatch.setattr(embedded_settings, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="has more than"):
        open_recipes(f"{address}/large", allow_private=True)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'nothing.json' cannot be read: No such file"):
        open_recipes("nothing.json")


# --- the command ---------------------------------------------------------------------------------


def test_the_command_makes_the_exported_numbers_again(result, recipe, tmp_path, own_home):
    figure = tmp_path / "trace.pdf"
    figure.write_bytes(figure_bytes(figures.trace_heatmaps(result), "pdf", recipe=recipe.to_json()))
    out, drawn = tmp_path / "cells.parquet", tmp_path / "again.svg"
    done = run("run", figure, "--out", out, "--out", drawn)
    assert done.exit_code == 0, done.output
    assert "Equal to the numbers in the recipe." in done.stdout
    exported = pd.read_parquet(io.BytesIO(table_bytes(result.frame(), "parquet")))
    pd.testing.assert_frame_equal(pd.read_parquet(out), exported, check_exact=True)
    assert read_recipes(out.read_bytes()) == read_recipes(drawn.read_bytes()) == (recipe,)


def test_the_command_runs_several_traces(result, model, probe, tmp_path, own_home):
    other = trace(model, probe, "good day", TraceSettings(samples=2))
    settings = tmp_path / "settings.json"
    settings.write_text(Recipes.of([result, other]).to_json())
    out = tmp_path / "cells.json"
    done = run("run", settings, "--out", out, "--out", tmp_path / "f.png")
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == len(result.frame()) + len(other.frame())
    assert (tmp_path / "f.png").is_file()
    assert (tmp_path / "f-2.png").is_file()


def test_the_command_takes_the_same_weights_from_another_place(
    result, recipe, tmp_path, own_home, folder
):
    moved = replace(recipe, model=replace(recipe.model, name="/nowhere/model"))
    settings = tmp_path / "settings.json"
    settings.write_text(moved.to_json())
    done = run("run", settings)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    done = run("run", settings, "--model", folder)
    assert done.exit_code == 0, done.output
