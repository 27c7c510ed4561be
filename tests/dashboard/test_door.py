"""Every work that a visitor can begin passes one guard, before a model is looked at."""

import ast
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from tiny_probes import make_probe
from tiny_world import SENTENCES, keep_model, keep_tweets, own_queue
from transformers import PreTrainedTokenizerFast

import core
from core import dashboard
from core.dashboard import (
    ablating_punctuation,
    averaging,
    cell_panel,
    comparing,
    comparing_averages,
    data_choice,
    follow_ups,
    intervening,
    models_on_disk,
    noise_and_pairs,
    open_settings,
    pairs_choice,
    probing,
    sweeping,
    tracing,
)
from core.dashboard.data_choice import Data
from core.dashboard.door import NO_MODEL, Guarded, Request, Texts
from core.exporting.recipe import Recipe
from core.interventions.plan import Plan
from core.models import loading
from core.models.loading import load_model, load_tokenizer
from core.models.registry import model_folder
from core.probes.probe import Probe
from core.prompts.prompt import build_prompt, count_tokens
from core.prompts.template import Template
from core.server.job_queue import Queue
from core.server.limits import limits
from core.sweeps import sweep
from core.sweeps.store import Store
from core.sweeps.study import Options
from core.sweeps.sweep import Selection
from core.tracing.result import TraceResult, TraceSettings
from core.tracing.tracer import trace

PATIENCE = 120.0
MARK = "zebra"  # in what a visitor gives, and nowhere else
TWEET = f"good {MARK} day and bad day"
SAMPLES = 2
OTHERS = [f"{SENTENCES[i % 4]} {MARK} {i}" for i in range(24)]


@dataclass(frozen=True)
class World:
    """A tiny model in a cache folder, its probe, and a trace of a tweet."""

    probe: Probe
    result: TraceResult

    def traced(self, name: str, text: str, samples: int) -> TraceResult:
        """The trace as it would be of another model, tweet or number of samples."""
        result = self.result
        return replace(
            result,
            model_name=name,
            prompt=replace(result.prompt, tweet=text),
            settings=replace(result.settings, samples=samples),
        )

    def data(self, text: str) -> Data:
        """Labelled texts, all as long as one."""
        texts = [f"{text} {i}" for i in range(10, 34)]
        return Data("mine", pd.DataFrame({"text": texts, "label": [0, 1] * 12, "row": range(24)}))

    def sweep_of(self, name: str, text: str) -> Store:
        """A sweep of a tweet that has not begun, of the model of that name."""
        store = sweep.create(
            load_model("gpt2"),
            self.probe,
            pd.DataFrame(
                {"text": [f"{text}, bad {i}" for i in range(10, 22)], "label": [1, 0] * 6}
            ),
            TraceSettings(samples=1),
        )
        path = store.folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["origin"]["model"] = name
        path.write_text(json.dumps(manifest))
        return Store(store.folder)


def _recipe(world: World, name: str, text: str, samples: int, **settings: object) -> Recipe:
    made = Recipe.of(world.result)
    how = replace(made.settings, samples=samples, **settings)
    return replace(made, model=replace(made.model, name=name), text=text, settings=how)


def _sweep(name: str, reads: Probe, data: Data, samples: int) -> Guarded:
    asked = sweeping.Asked(TraceSettings(samples=samples), Selection(), None, None)
    return sweeping.beginning(name, reads, data, asked)


def _sweep_of_pairs(name: str, reads: Probe, data: Data) -> Guarded:
    pairs = data.frame.assign(
        text="good " + data.frame["label"].astype("str"),
        counterfactual=data.frame["text"],
        counterfactual_label=1 - data.frame["label"],
    )
    asked = sweeping.Asked(TraceSettings(corruption="counterfactual"), Selection(), None, None)
    return sweeping.beginning(name, reads, replace(data, frame=pairs), asked)


def _question(which: str):
    def make(world: World, name: str, text: str, samples: int) -> Guarded:
        result = world.traced(name, text, samples)
        return follow_ups.answering(follow_ups.QUESTIONS[which], result, result.settings)

    return make


ALL = frozenset({"model", "tokens", "samples"})
WORKS = {
    "tracing.tracing": (
        ALL,
        lambda w, name, text, n: tracing.tracing(name, w.probe, text, TraceSettings(samples=n)),
    ),
    "open_settings.repeating": (
        ALL,
        lambda w, name, text, n: open_settings.repeating(_recipe(w, name, text, n)),
    ),
    "comparing.comparing": (
        ALL,
        lambda w, name, text, n: comparing.comparing(
            [comparing.Entry("gpt2", True), comparing.Entry(name)],
            "logit_pair",
            text,
            TraceSettings(samples=n),
        ),
    ),
    "intervening.intervening": (
        ALL,
        lambda w, name, text, n: intervening.intervening(
            intervening.Asked(name, w.probe, Plan("steer", text, samples=n, controls=0, texts=1))
        ),
    ),
    "comparing.comparing_again": (
        ALL,
        lambda w, name, text, n: comparing.comparing_again(
            [_recipe(w, each, text, n) for each in ("gpt2", name)]
        ),
    ),
    "intervening.of_plan": (
        ALL,
        lambda w, name, text, n: intervening.of_plan(
            Plan("steer", text, model=name, samples=n, controls=0, texts=1)
        ),
    ),
    "cell_panel.looking": (
        ALL,
        lambda w, name, text, n: cell_panel.looking(w.traced(name, text, n), ("mlp", 1, 2)),
    ),
    **{f"follow_ups.answering:{which}": (ALL, _question(which)) for which in follow_ups.QUESTIONS},
    "sweeping.beginning": (ALL, lambda w, name, text, n: _sweep(name, w.probe, w.data(text), n)),
    "sweeping.beginning:pairs": (
        ALL - {"samples"},
        lambda w, name, text, n: _sweep_of_pairs(name, w.probe, w.data(text)),
    ),
    "pairs_choice.making": (
        frozenset({"model"}),
        lambda w, name, text, n: pairs_choice.making(name, w.probe),
    ),
    "ablating_punctuation.ablating": (
        ALL - {"samples"},
        lambda w, name, text, n: ablating_punctuation.ablating(w.sweep_of(name, text)),
    ),
    "probing.training": (
        (ALL - {"samples"}) | {"labelled"},
        lambda w, name, text, n: probing.training(
            name, w.data(text), probing.ProbeSettings(controls=False)
        ),
    ),
}
"""Every work that loads a model: what of it is limited, and how it is made."""

OF_VISITORS = [name for name, (limited, _) in WORKS.items() if limited != {"model"}]
"""Those that read what a visitor gives; others read the built-in tweets alone."""

WITHOUT_A_MODEL = {
    "averaging.averaging": lambda: averaging.averaging(None, Options()),
    "noise_and_pairs.averaging_both": lambda: noise_and_pairs.averaging_both(None, None, Options()),
    "comparing_averages.averaging": lambda: comparing_averages.averaging([], share=False),
    "data_choice.fetching": lambda: data_choice.fetching("owner/name", "train"),
    "open_settings.fetching": lambda: open_settings.fetching("https://files.example/settings.json"),
    "models_on_disk.fetching": lambda: models_on_disk.fetching("owner/name"),
}
"""Every other work: it reads what is kept, or fetches."""

OWNERS = {"open_settings.fetching", "models_on_disk.fetching"}
"""Works that a public server does for its owner alone."""


@pytest.fixture
def world(own_home):
    keep_model(layers=2)
    keep_tweets()
    model = load_model("gpt2")
    probe = make_probe(model)
    with own_queue():
        yield World(probe, trace(model, probe, TWEET, TraceSettings(samples=SAMPLES)))


@pytest.fixture
def loaded(monkeypatch):
    """The names of the models whose weights are read."""
    names: list[str] = []
    real = loading.load_model

    def watched(name, **options):
        names.append(str(name))
        return real(name, **options)

    monkeypatch.setattr(dashboard, "load_model", watched)
    return names


def ended(work: Guarded):
    queue = Queue()
    seen = queue.submit("a visitor", work).wait(PATIENCE)
    queue.close()
    return seen


def longest(work: Guarded) -> int:
    """Tokens of the longest prompt that a work asks for."""
    tokenizer = load_tokenizer("gpt2")
    return max(
        count.prompt
        for prompts in work.asks.prompts
        for count in count_tokens(tokenizer, prompts.texts, prompts.template)
    )


# --- no work is forgotten ------------------------------------------------------------------------

DASHBOARD = Path(core.__file__).parent / "dashboard"
TREES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(DASHBOARD.glob("*.py"))
}


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def called(node: ast.AST) -> set[str]:
    """The last parts of all names that are called below a node."""
    return {
        ast.unparse(call.func).rsplit(".", 1)[-1]
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
    }


def test_every_work_of_every_page_is_walked_over():
    makers = {
        f"{module}.{function.name}"
        for module, tree in TREES.items()
        for function in functions(tree)
        if "Guarded" in called(function)
        or (function.returns is not None and ast.unparse(function.returns) == "Guarded")
    }
    assert makers == {name.partition(":")[0] for name in WORKS} | set(WITHOUT_A_MODEL)


def test_only_the_door_leads_to_a_queue_and_to_a_model():
    for module, tree in TREES.items():
        for name in ("submit", "load_model"):
            if name in called(tree):
                assert module == "__init__", f"{module} calls {name}"
    (start,) = [f for f in functions(TREES["__init__"]) if f.name == "start"]
    kinds = {one.arg: ast.unparse(one.annotation) for one in start.args.args if one.annotation}
    assert kinds["work"] == "Guarded"  # mypy holds that nothing else is given to it
    makers = [f.name for f in functions(TREES["__init__"]) if "submit" in called(f)]
    assert sorted(makers) == ["queue", "start"]  # the first warms the server's own model up


def test_work_that_asks_nothing_loads_no_model():
    for name, make in WITHOUT_A_MODEL.items():
        module, _, function = name.partition(".")
        (maker,) = [f for f in functions(TREES[module]) if f.name == function]
        assert not called(maker) & {"load", "loaded_for", "model", "trained_for", "build_prompt"}
        assert make().asks == replace(NO_MODEL, owner=make().asks.owner)
        assert bool(make().asks.owner) == (name in OWNERS)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKS)
def test_a_model_is_looked_at_before_it_is_loaded(name, world, loaded, tmp_path, monkeypatch):
    outside = shutil.copytree(model_folder("gpt2"), tmp_path / "outside")
    # Whatever would be read of it would end in another sentence.
    (outside / "config.json").write_text("no JSON")
    (outside / "tokenizer.json").write_text("no JSON")
    _, make = WORKS[name]
    for model, sentence in (
        (str(outside), "downloads none for visitors"),
        ("somebody/something", "downloads none for visitors"),
    ):
        work = make(world, model, TWEET, SAMPLES)
        monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
        seen = ended(work)
        monkeypatch.delenv("SENTITRACE_PUBLIC")
        assert (seen.state, seen.partial) == ("failed", None)
        assert sentence in seen.error
    assert loaded == []


@pytest.mark.parametrize("name", OF_VISITORS)
def test_a_work_that_asks_too_much_is_refused_before_it_begins(name, world, loaded, monkeypatch):
    limited, make = WORKS[name]
    work = make(world, "gpt2", TWEET, SAMPLES)
    tokens = longest(work)
    cases = {
        "tokens": ("SENTITRACE_MAX_TOKENS", tokens - 1, f"reads at most {tokens - 1}; "),
        "samples": ("SENTITRACE_MAX_SAMPLES", SAMPLES - 1, "at most 1 noise samples, not 2"),
        "labelled": ("SENTITRACE_MAX_TEXTS", 23, "24 texts and this server trains on at most 23"),
    }
    if name == "probing.training":  # texts that are too long are left out, but not all of them
        tokens = len(build_prompt(load_model("gpt2"), f"{TWEET} 10"))
        cases["tokens"] = ("SENTITRACE_MAX_TOKENS", tokens - 1, f"at most {tokens - 1}; ")
    for limit in sorted(limited - {"model"}):
        variable, most, sentence = cases[limit]
        monkeypatch.setenv(variable, str(most))
        seen = ended(work)
        monkeypatch.delenv(variable)
        assert (seen.state, seen.partial) == ("failed", None), limit
        assert sentence in seen.error, limit
        assert seen.error.count("\n") == 0
    assert loaded == []


@pytest.mark.parametrize("name", OF_VISITORS)
def test_a_work_that_asks_what_is_allowed_reads_no_more_than_it_asked(
    name, world, loaded, monkeypatch
):
    _, make = WORKS[name]
    work = make(world, "gpt2", TWEET, SAMPLES)
    most = longest(work)
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    monkeypatch.setenv("SENTITRACE_MAX_TOKENS", str(most))
    monkeypatch.setenv("SENTITRACE_MAX_SAMPLES", str(SAMPLES))
    monkeypatch.setattr(Store, "start", lambda store: None)  # a process of its own
    read: list[str] = []
    real = PreTrainedTokenizerFast._encode_plus

    def watched(self, text, *arguments, **options):
        read.extend([text] if isinstance(text, str) else list(text))
        return real(self, text, *arguments, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", watched)
    seen = ended(work)
    assert seen.state == "done", seen.error
    assert set(loaded) <= set(work.asks.models)
    given = {text for text in read if isinstance(text, str) and MARK in text}
    assert given
    for text in given:
        assert len(load_tokenizer("gpt2")(text).input_ids) <= most


# --- details -------------------------------------------------------------------------------------


def test_the_other_tweet_of_a_counterfactual_is_counted(world, loaded, monkeypatch):
    other = " ".join(["bad"] * 40)
    settings = {"corruption": "counterfactual", "counterfactual": other}
    monkeypatch.setenv("SENTITRACE_MAX_TOKENS", "30")
    seen = ended(open_settings.repeating(_recipe(world, "gpt2", TWEET, SAMPLES, **settings)))
    assert "reads at most 30; type a shorter tweet." in seen.error
    exchange = Plan("exchange", TWEET, other=other, samples=SAMPLES)
    seen = ended(intervening.intervening(intervening.Asked("gpt2", world.probe, exchange)))
    assert "reads at most 30; type a shorter tweet." in seen.error
    assert loaded == []


def test_the_suffix_of_the_probe_is_counted(world, loaded, monkeypatch):
    suffix = " and so I feel" * 10
    probe = replace(world.probe, suffix=suffix)
    monkeypatch.setenv("SENTITRACE_MAX_TOKENS", "30")
    settings = TraceSettings(samples=1)
    assert "reads at most 30" in ended(tracing.tracing("gpt2", probe, "good day", settings)).error
    settings = probing.ProbeSettings(template=Template(suffix), controls=False)
    assert "reads at most 30" in ended(probing.training("gpt2", world.data("a"), settings)).error
    assert loaded == []


def test_a_tweet_that_fits_with_the_suffix_of_its_probe_is_let_in(world):
    probe = replace(world.probe, suffix=" so")
    text = "bad " * (load_model("gpt2").max_positions - 2)
    plan = Plan("steer", text, layer=0, samples=1, controls=0, texts=1)
    for work in (
        tracing.tracing("gpt2", probe, text, TraceSettings(samples=1)),
        intervening.intervening(intervening.Asked("gpt2", probe, plan)),
    ):
        assert ended(work).state == "done"
    assert tracing._there("gpt2", text, " so", "tokens", [0, 125, 126]) == [0, 125]


def test_a_sweep_of_short_tweets_is_let_in_among_long_ones(world, monkeypatch):
    long = " ".join(["bad"] * 60)
    texts = [*OTHERS, long]
    data = Data("built-in", pd.DataFrame({"text": texts, "label": [1, 0] * 12 + [0]}))
    monkeypatch.setenv("SENTITRACE_MAX_TOKENS", "40")
    monkeypatch.setattr(Store, "start", lambda store: None)

    def begun(**selection):
        asked = sweeping.Asked(TraceSettings(samples=1), Selection(**selection), None, None)
        return ended(sweeping.beginning("gpt2", world.probe, data, asked))

    assert "The longest prompt has " in begun().error
    assert "at most 40; choose shorter tweets." in begun().error
    assert begun(longest=30).state == "done"
    assert begun(label=1).state == "done"  # the long one is negative
    assert begun(containing=MARK).state == "done"


def test_texts_that_are_too_long_are_left_out_of_a_probe_and_counted(world, monkeypatch):
    texts = [*OTHERS, "bad " * 60]
    frame = pd.DataFrame({"text": texts, "label": [1, 0] * 12 + [0], "row": range(25)})
    monkeypatch.setenv("SENTITRACE_MAX_TOKENS", "40")
    work = probing.training("gpt2", Data("x", frame), probing.ProbeSettings(controls=False))
    trained = ended(work).partial
    assert trained.frame["text"].tolist() == OTHERS
    assert trained.said.startswith("1 of 25 texts is left out")
    assert "more than 40 tokens" in trained.said
    assert trained.probe.report.n == len(OTHERS)


@pytest.mark.usefixtures("world")
def test_tokens_are_counted_as_the_model_reads_them():
    model = load_model("gpt2")
    texts = ["good day", "  awful \U0001f621\U0001f621 hours ", "caf\u00e9, na\u00efve!", TWEET]
    for suffix in (" I am feeling", ", so", ""):
        counts = count_tokens(load_tokenizer("gpt2"), [*texts, "half \ud83d"], suffix)
        for text, count in zip(texts, counts, strict=False):
            prompt = build_prompt(model, text, suffix)
            assert count.prompt == len(prompt)
            assert count.tweet == len(prompt.tweet_span)
        assert (counts[-1].prompt, counts[-1].tweet) == (0, 0)


@pytest.mark.usefixtures("own_home")
def test_a_tokenizer_that_has_changed_is_read_again():
    keep_model(layers=1)
    before = load_tokenizer("gpt2")
    assert load_tokenizer("gpt2") is before
    path = model_folder("gpt2") / "tokenizer.json"
    stat = path.stat()
    path.touch()
    assert path.stat().st_mtime_ns != stat.st_mtime_ns
    assert load_tokenizer("gpt2") is not before


def test_what_is_asked_of_a_trace_is_all_of_it():
    settings = TraceSettings(samples=7)
    asks = Request.of_trace(["a", "b", "a"], "tweet", Template(" suffix"), settings)
    assert asks == Request(
        models=("a", "b"), prompts=(Texts(("tweet",), Template(" suffix")),), samples=7
    )
    # One that draws nothing runs once, however many samples are written down.
    assert Request.of_trace(["a"], "t", "", replace(settings, corruption="mean")).samples == 1


def test_what_was_typed_stands_in_no_log_of_a_request():
    asks = Request.of_trace(["a"], "my secret", Template(" suffix"), TraceSettings())
    assert "secret" not in repr(Guarded(asks, lambda job: iter(())))


def test_limits_refuse_in_one_sentence():
    strangers = limits({"SENTITRACE_PUBLIC": "1"})
    strangers.check_tokens(128)
    strangers.check_samples(20)
    with pytest.raises(ValueError, match=r"^The prompt has 129 tokens .* 128; type a shorter"):
        strangers.check_tokens(129)
    with pytest.raises(ValueError, match=r"^This server draws at most 20 noise samples, not 21"):
        strangers.check_samples(21)
    limits({}).check_tokens(10**9)
    limits({}).check_samples(10**9)
