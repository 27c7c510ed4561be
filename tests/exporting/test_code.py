"""Code that makes a result again: read back by the commands, and run."""

import json
import shlex
from dataclasses import fields, replace
from typing import get_args

import pandas as pd
import pytest
from copied import as_a_shell_reads, run_commands, run_python
from hypothesis import given
from hypothesis import strategies as some
from tiny_held import tweets_with_neutral_ones
from tiny_models import save_folder
from tiny_world import keep_model, keep_probe, keep_tweets

import core
from core.__main__ import main
from core.data.datasets import load_dataset
from core.exporting import code
from core.exporting.displays import Beside
from core.exporting.recipe import Recipe
from core.exporting.settings_files import read_settings, repeat
from core.exporting.sweep_recipe import SweepRecipe, SweepRecipes
from core.interventions.plan import Plan
from core.models.loading import load_model
from core.probes.library import probe_for
from core.settings import arguments
from core.sweeps.average import Towards
from core.sweeps.study import Options
from core.sweeps.sweep import Selection
from core.tracing.result import PROXIES, TraceSettings
from core.tracing.view import View

TWEET = 'terrible day, it\'s "bad" $(false) `x` \\n\n-- awful'
QUICK = {"samples": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTITRACE_HOME", str(tmp_path_factory.mktemp("home")))
        keep_model(layers=3)
        keep_tweets(*tweets_with_neutral_ones())
        keep_probe()
        yield load_model("gpt2"), load_dataset("vader-tweets")


def traced(model, tweets, text=TWEET, **settings):
    return core.trace(
        model,
        probe_for(model, tweets, dataset="vader-tweets"),
        text,
        TraceSettings(**{**QUICK, **settings}),
    )


def equal(first: pd.DataFrame, second: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(first, second, check_dtype=False, rtol=1e-5, atol=1e-7)


# --- what commands read back ---------------------------------------------------------------------

WORDS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def read_back(command: str, prefix: str, said: list[str], *places: str) -> dict[str, object]:
    """Fields of settings as a command reads them."""
    line = shlex.split(shlex.join([*said, "--", *places]))
    given = main.commands[command].make_context(command, line).params
    return {
        name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)
    }


@given(
    some.builds(
        TraceSettings,
        kinds=some.permutations(["hidden", "mlp", "attn"]).map(lambda k: tuple(k[:2])),
        samples=some.integers(1, 40),
        noise_scale=some.floats(0.1, 9),
        seed=some.integers(0, 9),
        window=some.none() | some.integers(1, 9),
        corrupt=some.sampled_from(["tweet", "word:3", (2, 5), (4,)]),
        corruption=some.sampled_from(["noise", "uniform", "mean"]),
        direction=some.sampled_from(["restore", "corrupt"]),
        rows=some.sampled_from(["tokens", "words"]),
        every=some.integers(1, 4),
        proxy=some.sampled_from(list(PROXIES)),
        until=some.sampled_from(["settled", "all"]),
    )
)
def test_a_command_reads_the_settings_of_a_trace_back(settings):
    found = read_back("trace", "settings__", arguments(settings), "text")
    found["kinds"] = found["kinds"] or settings.kinds
    assert TraceSettings(**found) == settings


@given(
    some.builds(
        Selection,
        which=some.sampled_from(["all", "correct"]),
        label=some.sampled_from([None, 0, 1]),
        shortest=some.integers(1, 4),
        longest=some.none() | some.integers(5, 9),
        containing=WORDS,
        n=some.none() | some.integers(1, 99),
    ),
    some.builds(
        Options,
        roles=some.sampled_from(["tweet", "paper"]),
        interval=some.sampled_from(["bootstrap", "normal"]),
        normalised=some.booleans(),
        proxy=some.sampled_from(list(PROXIES)),
        towards=some.sampled_from(get_args(Towards)),
    ),
)
def test_commands_read_a_selection_and_options_back(selection, options):
    assert Selection(**read_back("sweep", "selection__", arguments(selection))) == selection
    assert Options(**read_back("average", "options__", arguments(options), "id")) == options


PLANS = [
    Plan("edit", TWEET, model="gpt2", prefixes=1, steps=3, controls=1, texts=2, samples=2),
    Plan("steer", TWEET, model="gpt2", strength=-0.5, layer=1, controls=1, texts=2, samples=2),
    Plan(
        "exchange",
        TWEET,
        other="great day",
        model="gpt2",
        positions="last",
        controls=1,
        texts=2,
        samples=2,
        source="words",
    ),
    Plan(
        "ablate",
        TWEET,
        model="gpt2",
        fill="mean",
        onwards=True,
        controls=0,
        texts=2,
        samples=2,
        features="hidden:1",
        good=(" day",),
        bad=(" bad",),
        prompt="Review: {tweet} I am",
    ),
    Plan(
        "steer",
        TWEET,
        model="gpt2",
        layer=1,
        controls=0,
        texts=2,
        samples=2,
        features="contrast",
        good=(" day",),
        bad=(" bad",),
        prompt=" I am",
    ),
    Plan("replace", TWEET, model="gpt2", kind="mlp", count=2, controls=1, texts=2, samples=2),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.what} {plan.features}")
def test_a_command_reads_a_plan_back(plan):
    ((_, _, name, *said),) = as_a_shell_reads(code.of_intervention(plan).command)
    found = main.commands[name].make_context(name, said).params
    changes = {
        field.removeprefix("changes__"): value
        for field, value in found.items()
        if field.startswith("changes__") and value is not None
    }
    assert found["text"] == plan.text
    assert Plan(what=plan.what, text=plan.text, model=found["name"], **changes) == plan


# --- what is run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_scale": 2.5, "seed": 3, "until": "settled", "total_samples": 4},
        {"direction": "corrupt", "every": 2, "kinds": ("mlp",)},
        {"severed": "attn", "kinds": ("hidden",), "proxy": "good"},
        {"corruption": "counterfactual", "counterfactual": "-great day indeed", "edited": "all"},
        {"corruption": "mean", "corrupt": (1, 2), "rows": "words", "window": 2},
    ],
    ids=["noise", "noising", "frozen", "pair", "mean"],
)
def test_the_code_of_a_trace_makes_it_again(world, settings, tmp_path):
    result = traced(*world, **settings)
    view = View(result, share=True, kind=result.settings.kinds[0])
    made = code.of_trace(Recipe.of(result), view)
    assert not made.file
    names = run_python(made)
    equal(names["result"].frame(), result.frame())
    equal(names["view"].frame, view.frame)
    said = run_commands(made, tmp_path)
    assert "Saved" in said
    equal(
        pd.read_csv(tmp_path / "cells.csv")[["layer", "effect"]],
        result.frame()[["layer", "effect"]],
    )


def test_the_code_of_a_twin_and_of_another_probe(world, tmp_path):
    model, tweets = world
    twin = load_model("gpt2", untrained=True)
    probe = probe_for(
        model,
        tweets,
        features="verbalizers",
        template=" It is",
        words=((" good", " day"), (" bad", " hours")),
        dataset="vader-tweets",
    )
    result = core.trace(twin, probe, "-bad day", TraceSettings(**QUICK))
    made = code.of_trace(Recipe.of(result))
    assert not made.file
    equal(run_python(made)["result"].frame(), result.frame())
    run_commands(made, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect"]], result.frame()[["effect"]])


CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chatting(tmp_path):
    """A model with a chat template, in a folder."""
    folder = save_folder(tmp_path / "chatting", layers=2)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": CHAT}))
    return load_model(folder)


AROUND = [
    core.Template(),
    core.Template.of("Review: {tweet} It is"),
    core.Template(" It is", "Is it good? ", "chat"),
    core.Template(format="chat"),
]


@pytest.mark.parametrize("template", AROUND, ids=["usual", "both sides", "chat", "usual chat"])
@pytest.mark.parametrize("reads", ["probe", "contrast"])
def test_the_code_says_what_stands_around_the_tweet(world, chatting, template, reads, tmp_path):
    _, tweets = world
    if reads == "contrast":
        probe = core.contrast(chatting, " day", " bad", template)
    else:
        probe = probe_for(chatting, tweets, template=template, dataset="vader-tweets")
    result = core.trace(chatting, probe, "-bad day", TraceSettings(samples=2, seed=1))
    view = View(result, around="all")
    made = code.of_trace(Recipe.of(result), view)
    assert not made.file
    names = run_python(made)
    assert names["probe"] == probe
    assert names["result"].prompt == result.prompt
    equal(names["result"].frame(), result.frame())
    equal(names["view"].frame, view.frame)
    run_commands(made, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect"]], result.frame()[["effect"]])


@pytest.mark.parametrize(
    "changed",
    [
        {"coefficients": (2.0, -1.0)},
        {"suffix": " so {tweet}"},
        {"prompt_format": "chat", "opening": "Today is 28 November 2026."},
    ],
    ids=["other numbers", "no such prompt", "a date"],
)
def test_a_contrast_that_words_do_not_make_comes_from_the_settings_file(world, changed):
    probe = core.contrast(world[0], " day", " bad")
    recipe = Recipe.of(core.trace(world[0], probe, TWEET, TraceSettings(samples=1)))
    probe = replace(probe, **changed)
    assert code.of_trace(replace(recipe, probe=probe, suffix=probe.suffix)).file


def test_the_code_of_a_comparison_and_a_sweep_says_contrast_and_prompt(world, tmp_path):
    model, tweets = world
    probe = core.contrast(model, " day", " bad", "Review: {tweet} It is")
    twin = load_model("gpt2", untrained=True)
    results = [core.trace(each, probe, TWEET, TraceSettings(**QUICK)) for each in (model, twin)]
    made = code.of_comparison(list(map(Recipe.of, results)), [3, 3], Beside(share=False))
    assert not made.file
    for result, again in zip(results, run_python(made)["results"], strict=True):
        equal(again.frame(), result.frame())
    run_commands(made, tmp_path)
    table = core.display_of(core.show(*results, share=False)).table()
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect"]], table[["effect"]])
    store = core.sweep(
        model,
        probe,
        tweets,
        TraceSettings(samples=1, kinds=("mlp",)),
        data="vader-tweets",
        selection=Selection(n=4),
    )
    average = core.average(store)
    made = code.of_average(SweepRecipe.of(store))
    assert not made.file
    store.remove()
    names = run_python(made)
    assert names["store"].id == store.id
    equal(names["result"].frame, average.frame)
    names["store"].remove()
    run_commands(made, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["mean"]], average.frame[["mean"]])


@pytest.mark.parametrize("strange", ["another probe", "a null", "half a character"])
def test_what_cannot_be_said_in_arguments_comes_from_the_settings_file(
    world, strange, tmp_path, monkeypatch
):
    model, tweets = world
    text = {"a null": "bad\0day"}.get(strange, TWEET)
    result = traced(model, tweets, text)
    if strange == "another probe":
        result = replace(result, probe=replace(result.probe, dataset="mine.csv"))
    recipe = Recipe.of(result)
    if strange == "half a character":
        recipe = replace(recipe, text="bad \ud83d")
        assert code.of_trace(recipe).file
        return
    made = code.of_trace(recipe)
    assert made.file
    (tmp_path / "settings.json").write_text(recipe.to_json())
    monkeypatch.chdir(tmp_path)
    equal(run_python(made)["result"].frame(), result.frame())
    run_commands(made, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect"]], result.frame()[["effect"]])


def test_the_code_of_a_comparison_makes_it_again(world, tmp_path):
    model, tweets = world
    folder = save_folder(tmp_path / "other", layers=2)
    keep_probe(folder)
    other = load_model(folder)
    results = [
        traced(model, tweets),
        core.trace(
            load_model("gpt2", untrained=True),
            probe_for(model, tweets),
            TWEET,
            TraceSettings(**QUICK),
        ),
        traced(other, tweets),
    ]
    recipes = list(map(Recipe.of, results))
    beside = Beside(share=True, depth="relative")
    made = code.of_comparison(recipes, [result.layers for result in results], beside)
    assert not made.file
    shown = run_python(made)["result"]
    assert shown.how == beside
    for name, result in zip(shown.traces, results, strict=True):
        equal(shown.traces[name].frame(), result.frame())
    run_commands(made, tmp_path)
    table = core.display_of(shown).table()
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect", "layer"]], table[["effect", "layer"]])


def test_the_code_of_averages_makes_them_again(world, tmp_path):
    model, tweets = world
    probe = probe_for(model, tweets, dataset="vader-tweets")
    options = Options(normalised=True, interval="normal", towards="label")
    stores = [
        core.sweep(
            model,
            probe,
            tweets,
            TraceSettings(samples=n, every=2, seed=5),
            data="vader-tweets",
            selection=Selection(n=6, label=1, seed=5),
            roles=["last", "middle"],
        )
        for n in (1, 2)
    ]
    recipes = [SweepRecipe.of(store, options) for store in stores]
    averages = [
        core.average(store, normalised=True, interval="normal", towards="label") for store in stores
    ]
    made = code.of_average(recipes[1])
    assert not made.file
    both = code.of_averages(recipes, ["one", "two"], Beside(depth="relative"))
    table = core.display_of(core.show(*averages)).table()
    for store in stores:  # as on another machine, where these sweeps are not
        store.remove()
    names = run_python(made)
    equal(names["result"].frame, averages[1].frame)
    assert names["store"].id == stores[1].id
    names["store"].remove()
    run_commands(made, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["mean"]], averages[1].frame[["mean"]])
    shown = run_python(both)["result"]
    assert list(shown.averages) == ["one", "two"]
    equal(core.display_of(shown).table().drop(columns="trace"), table.drop(columns="trace"))
    run_commands(both, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect"]], table[["effect"]])


def test_a_settings_file_makes_averages_of_any_texts_again(world, tmp_path):
    model, tweets = world
    probe = probe_for(model, tweets)
    own = tweets.head(8).assign(text=[f"{text} #{i}" for i, text in enumerate(tweets["text"][:8])])
    store = core.sweep(
        model, probe, own, TraceSettings(samples=1), data="mine.csv", selection=Selection(n=5)
    )
    recipe = SweepRecipe.of(store, Options(interval="normal"))
    first = recipe.run(model=model)
    made = code.of_average(recipe)
    assert made.file
    path = tmp_path / "settings.json"
    path.write_text(recipe.to_json())
    assert read_settings(path.read_bytes()) == (recipe,)
    store.remove()
    equal(repeat(path).frame, first.frame)
    run_commands(made, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["mean"]], first.frame[["mean"]])
    path.write_text(SweepRecipes((recipe, recipe)).to_json())
    assert len(repeat(path)) == 2


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.what} {plan.features}")
def test_the_code_of_an_intervention_makes_it_again(world, plan, tmp_path):
    model, _ = world
    outcome = core.intervene(model, plan)
    made = code.of_intervention(plan)
    again = run_python(made)["result"]
    assert again.site == outcome.site
    assert again.plan == replace(plan, model="")
    equal(again.judged, outcome.judged)
    run_commands(made, tmp_path)
    equal(pd.read_csv(tmp_path / "evaluation.csv")[["value"]], outcome.judged[["value"]])


@pytest.mark.parametrize("judged", ["alone", "without the twin", "with all"])
def test_the_code_of_a_probe_makes_it_again(world, judged, tmp_path):
    model, tweets = world
    probe = core.train_probe(
        model,
        tweets,
        features="probabilities",
        folds=3,
        seed=2,
        name="mine, 'so'",
        dataset="vader-tweets",
    )
    if judged != "alone":
        twin = load_model("gpt2", untrained=True) if judged == "with all" else None
        probe = core.with_controls(probe, model, tweets, twin=twin)
    made = code.of_probe(probe)
    again = run_python(made)["probe"]
    assert again == probe
    run_commands(made, tmp_path)
    assert core.Probe.load(tmp_path / "probe" / "probe.json") == probe


def test_a_probe_of_other_texts_comes_from_its_file(world, tmp_path, monkeypatch):
    model, tweets = world
    probe = replace(probe_for(model, tweets), dataset="mine.csv")
    probe.save(tmp_path / "probe.json")
    monkeypatch.chdir(tmp_path)
    made = code.of_probe(probe)
    assert (made.file, made.command) == (True, "")
    assert run_python(made)["probe"] == probe


def test_every_field_that_a_view_changes_is_an_option():
    assert {each.name for each in fields(View)} == {
        *("result", "verdict", "estimate"),  # what is shown; all others say how
        *("share", "words", "kind", "around"),
    }
