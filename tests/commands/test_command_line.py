"""`python -m core`: the same work without a browser, its files, its errors and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from paths import ROOT
from shell import refused, run
from tiny_models import save_folder
from tiny_world import keep_forty_tweets, keep_probe

import core
import core.models.loading
import core.probes.library
import core.setup
import core.tracing.tracer
from core.data.datasets import fingerprint, load_dataset
from core.models.loading import load_model
from core.models.registry import REGISTRY
from core.probes.library import kept_folder
from core.probes.probe import Probe
from core.sweeps.store import Store, sweeps
from core.tracing.findings import Health
from core.tracing.result import TraceResult, TraceSettings

TWEET = "terrible service, bad day"
PATIENCE = 600.0  # seconds until what hangs is called failed


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tiny-model"), layers=3)


@pytest.fixture
def data(own_home):
    """A cache folder with forty labelled tweets, as set-up would have left it."""
    keep_forty_tweets()
    return own_home


@pytest.fixture
def trained(data, folder):
    """The same, with the model's probe of these tweets."""
    keep_probe(folder)
    return data


def files_below(folder: Path) -> list[str]:
    """Every file but locks, hidden and half-written ones included."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if not name.startswith("locks/"))


# --- setup and models ----------------------------------------------------------------------------


def test_setup_prepares(monkeypatch):
    asked = []

    def prepare(*, echo, hub):
        asked.append(hub)
        echo("Everything is ready.")

    monkeypatch.setattr(core.setup, "prepare", prepare)
    for options in ((), ("--no-hub",)):
        result = run("setup", *options)
        assert (result.exit_code, result.stdout) == (0, "Everything is ready.\n")
    assert asked == [True, False]


def test_setup_that_fails_is_one_sentence(monkeypatch):
    def prepare(*, echo, hub: bool) -> None:
        raise core.setup.SetupError("pip could not fetch it\n(no network): try again.")

    monkeypatch.setattr(core.setup, "prepare", prepare)
    assert refused("setup") == "pip could not fetch it (no network): try again."


def test_a_fault_of_the_program_is_a_sentence_below_its_traceback(monkeypatch):
    monkeypatch.setattr(core.setup, "prepare", lambda **_: np.zeros(3) + np.zeros(4))
    result = run("setup")
    assert result.exit_code == 1
    assert "could not be broadcast" in result.stderr.splitlines()[-2]
    assert result.stderr.splitlines()[-1] == (
        "Error: Something went wrong inside SentiTrace; the traceback above says where."
    )


def test_models_lists_the_registry(own_home):
    result = run("models")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for key in REGISTRY:
        (line,) = [line for line in lines if line.split()[0:1] == [key]]
        assert "to be downloaded" in line
    (default,) = [line for line in lines if line.startswith("smollm2-135m-instruct *")]
    assert re.search(r"llama +30 +135 M +94 MB +Apache-2.0", default)


def test_models_as_json(own_home):
    (own_home / "models" / "gpt2").mkdir(parents=True)
    (own_home / "models" / "gpt2" / "sentitrace.json").write_text("{}")
    rows = {row["key"]: row for row in json.loads(run("models", "--json").stdout)}
    assert list(rows) == list(REGISTRY)
    assert rows["gpt2"]["availability"] == "on disk"
    assert [key for key, row in rows.items() if row["default"]] == ["gpt2"]
    assert rows["gpt2-xl"]["layers"] == 48


# --- probe ---------------------------------------------------------------------------------------


def test_probe_is_trained_reported_and_saved(data, folder, tmp_path):
    out = tmp_path / "new" / "probe.json"
    result = run(
        *("probe", "--model", folder, "--features", "probabilities", "--no-controls", "--out", out)
    )
    assert result.exit_code == 0, result.output
    saved = Probe.load(out)
    assert (saved.features, saved.dataset, saved.suffix) == (
        "probabilities",
        "vader-tweets",
        " I am feeling",
    )
    report = saved.report
    assert f"accuracy  {report.accuracy:.1%}" in result.stdout
    assert "on 40 texts of vader-tweets" in result.stdout
    assert "majority  50.0%" in result.stdout
    assert result.stdout.endswith(f"Saved as {out}\n")
    assert result.stderr == ""  # not a terminal: no bar
    assert not kept_folder().exists()


def test_probe_writes_its_whole_report(data, folder, tmp_path):
    file = tmp_path / "mine.csv"
    pd.DataFrame(
        {
            "tweet": [f"{word} day {n}" for n in range(15) for word in ("great", "awful")],
            "sentiment": ["positive", "negative"] * 15,
        }
    ).to_csv(file, index=False)
    report = tmp_path / "report"
    options = ("--data", file, "--features", "hidden", "--report", report)
    result = run("probe", "--model", folder, *options)
    assert result.exit_code == 0, result.output
    saved = Probe.load(report / "probe.json")
    assert saved.dataset == str(file)
    assert saved.layer in range(3)
    assert len(saved.report.controls) == 6
    assert f"(hidden, layer {saved.layer}) on 30 texts" in result.stdout
    assert saved.report.verdict in result.stdout
    for control in saved.report.controls:
        accuracy = control.scores["accuracy"].value
        assert re.search(rf"^{control.name} +{accuracy:.3f} ", result.stdout, re.MULTILINE)
    tables = saved.report.tables()
    assert sorted(path.name for path in report.iterdir()) == sorted(
        ["probe.json", *(f"{name}.csv" for name in tables)]
    )
    layers = pd.read_csv(report / "layers.csv")
    np.testing.assert_allclose(layers["accuracy"], tables["layers"]["accuracy"])


@pytest.fixture
def with_long_rows(data: Path, tmp_path: Path) -> Path:
    """A file of thirty texts, one row without a text, and two that no tiny model can read."""
    file = tmp_path / "mine.csv"
    texts = [f"{word} day {n}" for n in range(15) for word in ("great", "awful")]
    texts += ["", "far too long for this model " * 100, "far too long again " * 90, "\u200b"]
    pd.DataFrame({"text": texts, "label": [1, 0] * 17}).to_csv(file, index=False)
    return file


TOO_LONG = "the text and its suffix make more than 128 tokens (2)"
INVISIBLE = "the text is only white space or invisible characters (1)"


@pytest.mark.filterwarnings("error::UserWarning")  # a person gets a sentence, not a warning
@pytest.mark.parametrize(
    ("command", "options", "counted"),
    [
        ("probe", ("--no-controls",), "on 30 texts"),
        ("trace", (TWEET, "--samples", 1), "on 30 texts"),
        ("sweep", ("--which", "correct", "--n", 3, "--processes", 1), "of 3 tweets traced"),
        ("steer", (TWEET, "--layer", 1, "--texts", 2, "--samples", 1), "left out"),
    ],
)
def test_texts_that_the_model_cannot_read_are_left_out_and_counted(
    with_long_rows, folder, command, options, counted
):
    data: tuple[object, ...] = ("--data", with_long_rows)
    if command == "sweep":
        data = (*data, "--probe-data", with_long_rows)
    result = run(command, *options, "--model", folder, *data, "--no-progress")
    assert result.exit_code == 0, result.output
    assert counted in result.stdout
    assert f"3 of 33 texts are left out, which {folder} cannot read" in result.output
    assert TOO_LONG in result.output
    assert INVISIBLE in result.output
    assert "shorten" not in result.output
    assert "1 row cannot be used: the text is empty (1)" in result.output


def test_a_model_that_can_read_no_text_says_why(data, folder, tmp_path):
    file = tmp_path / "long.csv"
    texts = ["far too long for this model " * 100] * 11 + ["\u200b"]
    pd.DataFrame({"text": texts, "label": [1, 0] * 6}).to_csv(file, index=False)
    for command in (("probe",), ("trace", TWEET), ("steer", TWEET)):
        result = run(*command, "--model", folder, "--data", file, "--no-progress")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == (
            f"Error: {folder} can read none of 12 texts: the text and its suffix make more than "
            "128 tokens (11), the text is only white space or invisible characters (1); choose "
            "other texts or another model."
        )


def asked_file(tmp_path: Path) -> Path:
    """A file that leaves open what its columns are, what divides them and what its labels mean."""
    file = tmp_path / "mine.txt"
    lines = [
        f"{w} day {n} , well@{m}@u{n}"
        for n in range(15)
        for w, m in (("ok", "Pos."), ("so", "Neg."))
    ]
    file.write_text("\n".join(["said@felt@who", *lines, "hm day , well@Neu.@u1"]) + "\n")
    return file


def test_what_a_file_leaves_open_is_asked_and_answered_by_options(data, folder, tmp_path):
    file = asked_file(tmp_path)
    command = ("probe", "--model", folder, "--data", file, "--no-controls")
    answers: list[str] = []
    for answer, question, option in (
        (["--delimiter", "@"], "It is not clear which column", "--delimiter"),
        (["--label-column", "felt"], "which column of mine.txt has the labels", "--label-column"),
        (
            ["--map", "Pos.=positive", "--map", "Neg.=negative", "--map", "neu.=neutral"],
            "the values neg., pos., neu.: say which are positive",
            "--map VALUE=positive",
        ),
    ):
        asked = run(*command, *answers)
        assert asked.exit_code == 2
        assert question in asked.stderr
        assert option in asked.stderr
        answers += answer
    result = run(*command, *answers, "--text-column", "said", "--header")
    assert result.exit_code == 0, result.output
    said = "Texts from 'said'; labels from 'felt': pos. positive, neg. negative, neu. neutral."
    assert said in result.stderr
    assert "'@' between the fields" in result.stderr
    assert "15 positive and 15 negative texts, 1 neutral left out." in result.stderr
    assert said in result.stdout
    (path,) = kept_folder().glob("*.json")
    probe = Probe.load(path)
    assert (probe.read_as, probe.report.n) == (said, 30)
    # The same by the library, and by the other commands: their probe is that one.
    frame = load_dataset(
        file, label="felt", delimiter="@", mapping={"pos.": 1, "neg.": 0, "neu.": None}
    )
    assert fingerprint(frame) == probe.dataset_hash
    plan = tmp_path / "plan.json"
    steer = ("steer", "ok day", "--texts", "2", "--samples", "1", "--save-settings", plan)
    of_file = ("--data", file, *answers)
    for other in (
        ("trace", "ok day", *of_file),
        (*steer, *of_file),
        ("steer", "--settings", plan),  # which holds how the file is read
    ):
        result = run(*other, "--model", folder)
        assert result.exit_code == 0, result.output
        assert said in result.stderr
    swept = run(
        "sweep", "--model", folder, "--data", file, *answers, "--n", "2", "--processes", "1"
    )
    assert swept.exit_code == 0, swept.output
    assert said in swept.stderr
    assert "2 of 2 tweets" in swept.stdout
    assert len(list(kept_folder().glob("*.json"))) == 2  # and that of the built-in tweets


def test_a_neutral_band_and_a_missing_header_are_options(data, folder, tmp_path):
    file = tmp_path / "rated.csv"
    file.write_text("".join(f"a day {n},{n % 10 / 10}\n" for n in range(60)))
    options = ("--label-column", "column 2", "--no-header", "--neutral", "0.3", "0.6")
    command = ("probe", "--model", folder, "--data", file, "--no-controls", *options)
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "24 positive and 24 negative texts, 12 neutral left out" in result.stderr
    assert "from 0.6 positive, up to 0.3 negative" in result.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--map", "x"), "The mapping 'x' cannot be read: write VALUE=SENTIMENT"),
        (("--map", "x=good"), "positive, negative or neutral"),
        (("--map", "x=positive", "--map", "x=negative"), "'x' is mapped more than once"),
        (("--text-column", "text"), "'vader-tweets' is built in"),
    ],
)
def test_options_for_files_that_cannot_be_right_are_refused(data, folder, options, sentence):
    for command in (("probe",), ("sweep",), ("trace", "good day")):
        result = run(*command, "--model", folder, *options)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr


def test_verbalizers_take_several_words(data, folder):
    words = ("--good", " good", "--good", " happy", "--bad", " sad")
    result = run(
        *("probe", "--model", folder, "--features", "verbalizers", *words),
        *("--no-controls", "--json"),
    )
    printed = json.loads(result.stdout)
    assert printed["words_positive"] == [" good", " happy"]
    assert printed["words_negative"] == [" sad"]
    assert printed["report"]["controls"] == []


def test_probe_without_out_is_kept_where_trace_finds_it(data, folder, monkeypatch):
    result = run("probe", "--model", folder, "--good", " happy", "--bad", " sad", "--json")
    printed = json.loads(result.stdout)
    assert (printed["words_positive"], printed["words_negative"]) == ([" happy"], [" sad"])
    (kept,) = kept_folder().glob("*.json")
    assert json.loads(kept.read_text()) == printed

    monkeypatch.setattr(core.probes.library, "train_probe", None)  # calling it would fail
    traced = run(
        *("trace", TWEET, "--model", folder, "--samples", 1, "--json"),
        *("--good", " happy", "--bad", " sad"),
    )
    assert traced.exit_code == 0, traced.output
    assert json.loads(traced.stdout)["probe"]["words"] == [" happy", " sad"]


def test_progress_shows_the_time_left(data, folder):
    result = run("trace", TWEET, "--model", folder, "--samples", 2, "--progress")
    assert result.exit_code == 0
    assert re.search(
        r"Training a probe on vader-tweets.*: 100% \|.*\| \d\d:\d\d left", result.stderr
    )
    assert re.search(r"Tracing \d+ tokens x 3 layers: 100% \|.*\| \d\d:\d\d left", result.stderr)
    assert "left" not in result.stdout


# --- trace ---------------------------------------------------------------------------------------


def test_trace_says_what_the_library_says(trained, folder, tmp_path):
    probe_file = tmp_path / "probe.json"
    assert run("probe", "--model", folder, "--out", probe_file).exit_code == 0
    options = {
        "--samples": 3,
        "--noise": 2.0,
        "--seed": 7,
        "--window": 2,
        "--corrupt": "word:1",
        "--kinds": "hidden,attn",
        "--proxy": "log_ratio",
    }
    flat = [part for option in options.items() for part in option]
    result = run("trace", TWEET, "--model", folder, "--probe", probe_file, *flat, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)

    settings = TraceSettings(
        kinds=("hidden", "attn"),
        samples=3,
        noise_scale=2.0,
        seed=7,
        window=2,
        corrupt="word:1",
        proxy="log_ratio",
    )
    expected = core.trace(load_model(folder), Probe.load(probe_file), TWEET, settings)
    assert set(found["effects"]) == {"hidden", "attn"}
    for kind, effects in expected.effects.items():
        np.testing.assert_allclose(found["effects"][kind], effects, rtol=1e-5, atol=1e-7)
    assert found["tokens"] == list(expected.tokens)
    assert found["corrupted_span"] == list(expected.corrupted_span)
    assert found["total_effect"] == pytest.approx(expected.total_effect)
    assert found["clean_probability"] == pytest.approx(expected.clean_probability)
    assert found["settings"]["window"] == 2

    summary = run("trace", TWEET, "--model", folder, "--probe", probe_file, *flat).stdout
    word = "Positive" if expected.clean_probability >= 0.5 else "Negative"
    assert f"Prediction  {word}, P(positive) = {expected.clean_probability:.2f}" in summary
    assert f"clean      {expected.high:+.4g}" in summary
    assert f"corrupted  {expected.low:+.4g} ± {expected.low_error:.2g}" in summary
    assert f"total      {expected.total_effect:+.4g}" in summary
    frame = expected.frame()
    free = frame[(frame["kind"] == "attn") & ~frame["trivial"] & frame["corrupted"]]
    top = free.loc[free["effect"].abs().idxmax()]
    assert re.search(
        rf"Attention +{top['layer']} +{top['position']} +{re.escape(top['token'])} \* +"
        rf"{re.escape(format(top['effect'], '+.4g'))} ±",
        summary,
    )


def test_one_sample_has_no_error_and_null_in_json(trained, folder):
    options = ("trace", TWEET, "--model", folder, "--samples", 1, "--kinds", "hidden")
    found = json.loads(run(*options, "--json").stdout)
    assert found["low_error"] is None
    assert found["distinguishable"] is None
    assert found["standard_errors"]["hidden"][0][0] is None
    summary = run(*options).stdout
    assert "One noise sample gives no standard error" in summary
    assert "±" not in summary
    assert "nan" not in summary


def test_two_words_of_ones_own_are_traced_without_any_texts(own_home, folder, tmp_path):
    prompt = "great {tweet} awful"
    options = ("--prompt", prompt, "--samples", 2, "--kinds", "hidden")
    words = ("--contrast", " happy", " sad")
    traced = run("trace", TWEET, "--model", folder, *words, *options, "--json")
    assert traced.exit_code == 0, traced.output
    found = json.loads(traced.stdout)
    model = load_model(folder)
    probe = core.contrast(model, *words[1:], prompt)
    expected = core.trace(model, probe, TWEET, TraceSettings(kinds=("hidden",), samples=2))
    np.testing.assert_allclose(found["effects"]["hidden"], expected.effects["hidden"], rtol=1e-5)
    assert (found["prompt"], found["prediction"]) == (f"great {TWEET} awful", None)
    assert found["probe"]["accuracy"] is None
    says = run("trace", TWEET, "--model", folder, *words, *options).stdout
    assert "Probe       a contrast of two words, no probe" in says
    assert "log P(happy) - log P(sad) (nats)" in says
    assert not kept_folder().exists()

    saved = tmp_path / "contrast.json"
    assert (
        run("probe", "--model", folder, *words, "--prompt", prompt, "--out", saved).exit_code == 0
    )
    assert Probe.load(saved) == probe
    again = run("trace", TWEET, "--model", folder, "--probe", saved, *options[2:], "--json")
    assert json.loads(again.stdout)["high"] == found["high"]


def test_what_does_not_go_with_a_contrast_is_refused(own_home, folder):
    trace = ("trace", TWEET, "--model", folder, "--contrast", " good", " bad")
    assert "leave out --features" in refused(*trace, "--features", "hidden")
    assert "leave out --good" in refused(*trace, "--good", " happy")
    assert "no place for the tweet" in refused(*trace, "--prompt", "Mood:")
    assert "not both" in refused(*trace, "--prompt", "{tweet}", "--suffix", " So")
    assert "no chat template" in refused(*trace, "--format", "chat")
    assert "say where it goes by --out" in refused("probe", "--model", folder, *trace[4:])


def test_a_trace_that_cannot_be_read_names_a_setting_that_can(trained, folder, monkeypatch):
    def health_of(result: TraceResult) -> Health:
        if result.settings.corruption == "mean":
            return Health(True, "Much is taken away.")
        return Health(False, "Nothing is left.")

    monkeypatch.setattr("core.tracing.findings.health_of", health_of)
    monkeypatch.setattr("core.tracing.verdict.health_of", health_of)
    options = ("--model", folder, "--samples", 3, "--kinds", "hidden")
    done = run("trace", TWEET, *options)
    assert done.exit_code == 0, done.output
    first, second = done.stdout.strip().splitlines()[-2:]
    assert first == "Nothing is left."
    assert re.fullmatch(
        r"With the mean embedding the total effect is \S+ and \S+% of the clean log-odds are "
        r"removed\.",
        second,
    )
    assert "With the mean" not in run("trace", TWEET, *options, "--corruption", "mean").stdout


def test_a_trace_may_end_early(trained, folder):
    options = ("trace", TWEET, "--model", folder, "--kinds", "hidden", "--samples", 40, "--json")
    in_time = json.loads(run(*options, "--seconds", "0.000001", "--memory", 100).stdout)
    assert in_time["samples"] == 1
    stable = json.loads(run(*options, "--stable-for", 2).stdout)
    assert 3 <= stable["samples"] < 40


def test_no_effect_is_said_instead_of_shown(trained, folder):
    summary = run(
        *("trace", TWEET, "--model", folder, "--samples", 3, "--noise", 1e-12),
        *("--kinds", "hidden"),
    )
    assert summary.exit_code == 0, summary.output
    assert "The total effect is not significant" in summary.stdout
    table = summary.stdout.partition("Largest effects")[2].partition("\u00b1 is the standard")[0]
    assert table
    assert "%" not in table


def test_positions_can_be_corrupted(trained, folder):
    options = ("trace", TWEET, "--model", folder, "--samples", 1, "--kinds", "hidden", "--json")
    assert json.loads(run(*options, "--corrupt", "2, 0").stdout)["corrupted_span"] == [0, 2]


@pytest.mark.parametrize(
    ("options", "settings", "says"),
    [
        (("--reverse",), {"direction": "corrupt"}, "an effect is a loss"),
        (("--sever", "mlp"), {"severed": "mlp", "kinds": ["hidden"]}, "stays corrupted"),
        (("--corruption", "uniform"), {"corruption": "uniform"}, "uniform noise"),
        (("--corruption", "mean"), {"corruption": "mean"}, "mean embedding"),
        (("--every", "2"), {"every": 2}, "of noise"),
    ],
)
def test_other_questions_can_be_asked(trained, folder, options, settings, says):
    common = ("trace", "terrible service", "--model", folder, "--samples", "2", *options)
    found = json.loads(run(*common, "--json").stdout)
    assert {key: found["settings"][key] for key in settings} == settings
    printed = run(*common)
    assert printed.exit_code == 0
    assert says in printed.stdout


def test_a_counterfactual_may_have_another_length(trained, folder):
    asked = ("trace", "terrible service", "--model", folder, "--data", "vader-tweets")
    other = ("--counterfactual", "terrible service again and again")
    assert "as many" in refused(*asked, *other, "--rows", "words")
    assert "again', aligned by the edit)" in run(*asked, *other, "--edited", "all").stdout
    found = run(*asked, "--counterfactual", "service terrible", "--json")
    assert json.loads(found.stdout)["settings"]["corruption"] == "counterfactual"


def test_the_untrained_twin_is_a_control(trained, folder):
    options = ("trace", TWEET, "--model", folder, "--samples", 2, "--json")
    trained = json.loads(run(*options).stdout)
    twin = json.loads(run(*options, "--untrained").stdout)
    assert twin["model"] == f"{folder} (untrained)"
    assert twin["probe"] == trained["probe"]
    assert twin["total_effect"] != trained["total_effect"]
    assert len(list(kept_folder().glob("*.json"))) == 1  # no probe of the twin


def test_tables(trained, folder, tmp_path):
    outs = [tmp_path / f"cells.{ending}" for ending in ("csv", "parquet", "json")]
    options = ("trace", TWEET, "--model", folder, "--samples", 2)
    result = run(*options, *(part for out in outs for part in ("--out", out)))
    assert result.exit_code == 0, result.output
    found = json.loads(run(*options, "--json").stdout)
    for frame in (
        pd.read_csv(outs[0]),
        pd.read_parquet(outs[1]),
        pd.DataFrame(json.loads(outs[2].read_text())["rows"]),
    ):
        assert len(frame) == 3 * 3 * len(found["tokens"])
        for kind, effects in found["effects"].items():
            np.testing.assert_allclose(
                frame.loc[frame["kind"] == kind, "effect"], np.ravel(effects), rtol=1e-5, atol=1e-6
            )


def test_figures_several_at_once(trained, folder, tmp_path):
    outs = [tmp_path / f"figure.{ending}" for ending in ("svg", "png", "pdf", "HTML")]
    result = run(
        *("trace", TWEET, "--model", folder, "--samples", 1),
        *(part for out in outs for part in ("--out", out)),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("".join(f"Saved {out}\n" for out in outs))
    starts = (b"<svg", b"\x89PNG", b"%PDF", b"<!DOCTYPE html>")
    for out, start in zip(outs, starts, strict=True):
        assert out.read_bytes().lstrip()[: len(start)].lower() == start.lower()
    assert "terrible" in outs[0].read_text(encoding="utf-8")
    again = run("run", outs[0])
    assert again.exit_code == 0, again.output
    assert "Equal to the numbers in the recipe." in again.stdout


def test_a_tweet_with_characters_that_no_file_can_hold(trained, folder, tmp_path):
    out = tmp_path / "figure.svg"
    result = run("trace", "bad \x01\ufffe day", "--model", folder, "--samples", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert "bad &lt;U+0001&gt;&lt;U+FFFE&gt; day" in out.read_text(encoding="utf-8")
    assert run("run", out).exit_code == 0  # its settings still hold the tweet as it was typed


def test_characters_that_no_font_has_are_named_once(trained, folder, tmp_path):
    tweet = "bad \U000f1234 day"  # of private use
    outs = [tmp_path / f"figure.{ending}" for ending in ("png", "pdf", "svg")]
    options = ("trace", tweet, "--model", folder, "--samples", 1)
    result = run(*options, *(part for out in outs for part in ("--out", out)))
    assert result.exit_code == 0, result.output
    assert result.stderr.count("In PNG and PDF this character is a box") == 1
    assert "<U+F1234>" in result.stderr
    assert "a box" not in result.stdout
    assert "a box" not in run(*options, "--out", outs[2]).stderr


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trace", "bad", "--out", "figure.gif"), "'figure.gif' has no ending that names its form"),
        (("trace", "bad", "--out", "figure"), "end it in one of .png, .svg, .pdf, .html, .csv"),
        (("trace", "bad", "--kinds", "hidden,heads"), "cannot be traced; name each of hidden"),
        (("trace", "bad", "--samples", "0"), "at least 1, not 0"),
        (("trace", "bad", "--noise", "nan"), "The noise scale must be above 0, not nan"),
        (("trace", "bad", "--probe", "none.json"), "The probe none.json cannot be read"),
        (("trace", "bad", "--model", "smollm2-135m-instruct"), "run `python -m core setup` first"),
        (("probe", "--data", "imdb"), "There is no data set 'imdb'"),
        (("probe", "--out", "probe.pkl"), "end it in one of .json"),
    ],
)
def test_mistakes_are_one_sentence(own_home, arguments, says):
    assert says in refused(*arguments)


def test_a_tweet_that_cannot_be_traced_trains_no_probe(data, folder):
    for text, options, says in (
        ("", (), "The tweet is empty; type a few words."),
        ("  \n", (), "is only white space"),
        ("bad " * 200, (), "reads at most 128; shorten the tweet."),
        ("bad \udcff", (), "lone surrogate, U+DCFF"),
        ("bad", ("--corrupt", "word:9"), "There is no word 9"),
        ("bad", ("--corrupt", "7,99"), "cannot be corrupted"),
        ("bad", ("--corrupt", "everything"), '"everything", is not understood'),
        ("bad", ("--good", " wonderfully good"), '" wonderfully good" is '),
    ):
        assert says in refused("trace", text, "--model", folder, *options)
    assert not kept_folder().exists()


def test_options_must_agree_with_the_probes_file(data, folder, tmp_path):
    out = tmp_path / "probe.json"
    run("probe", "--model", folder, "--out", out)
    options = ("trace", TWEET, "--model", folder, "--samples", 1, "--probe", out)
    assert "with --suffix ' I am feeling', not ' So'" in refused(*options, "--suffix", " So")
    assert "leave out --bad" in refused(*options, "--bad", " sad")
    assert run(*options, "--suffix", " I am feeling").exit_code == 0


def test_a_probe_of_another_model_is_refused(trained, folder, tmp_path):
    other = save_folder(tmp_path / "other", layers=2, seed=1)
    run("probe", "--model", other, "--out", tmp_path / "probe.json")
    says = refused("trace", TWEET, "--model", folder, "--probe", tmp_path / "probe.json")
    assert "choose a probe of this model or train one" in says


def test_a_place_that_cannot_be_written_is_one_sentence(trained, folder, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "figure.svg"
    says = refused("trace", TWEET, "--model", folder, "--samples", 1, "--out", out)
    assert "cannot be written" in says
    (tmp_path / "folder.csv").mkdir()
    assert "There is a folder at" in refused("trace", "bad", "--out", tmp_path / "folder.csv")


# --- as a process --------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "core", *map(str, arguments)]


def test_as_a_process(trained, folder, tmp_path):
    out = tmp_path / "figure.svg"
    done = subprocess.run(
        command("trace", TWEET, "--model", folder, "--samples", 2, "--out", out),
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nothing of the libraries' own either
    assert "Prediction  " in done.stdout
    assert "<svg" in out.read_text(encoding="utf-8")


def test_a_terminal_without_unicode_and_a_mistake(trained, folder):
    done = subprocess.run(
        command("trace", "caf\u00e9 \u202e", "--model", folder, "--corrupt", "word:5"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_ends_cleanly(trained, folder, tmp_path):
    outs = tmp_path / "outs"
    before = files_below(trained)
    process = subprocess.Popen(
        command(
            *("trace", TWEET, "--model", folder, "--samples", 10**6, "--progress"),
            *("--out", outs / "figure.svg", "--out", outs / "cells.csv"),
        ),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Tests that run in the background inherit a Ctrl-C that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    seen = b""
    while b"Tracing" not in seen:
        said = os.read(process.stderr.fileno(), 4096)
        assert said, seen  # it has ended
        seen += said
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert stdout == b""
    assert stderr.rstrip().endswith(b"Stopped.")
    assert b"Traceback" not in stderr
    assert not outs.exists()
    assert files_below(trained) == before


def at_work(store: Store) -> int:
    """How many processes have a batch in hand; before that they do not look whether to stop."""
    with store._lock():
        return sum(bool(claim["batches"]) for claim in store._living_claims().values())


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("ends", ["SIGHUP", "SIGTERM"])
def test_a_closed_terminal_stops_a_sweep_of_several_processes(ends, trained, folder):
    process = subprocess.Popen(
        command("sweep", "--model", folder, "--samples", 10**6, "--processes", 2),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(getattr(signal, ends), signal.SIG_DFL),
    )
    deadline = time.monotonic() + PATIENCE
    while not (found := sweeps()) or at_work(found[0]) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(getattr(signal, ends))
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert stderr.rstrip().endswith(b"Stopped.")
    while found[0].status().workers and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (found[0].status().workers, found[0].status().state) == (0, "stopped")


def test_ctrl_c_while_writing_leaves_the_old_file(trained, folder, tmp_path, monkeypatch):
    out = tmp_path / "cells.csv"
    out.write_text("old")

    def interrupted(self: Path, _content: bytes) -> int:
        self.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    result = run("trace", TWEET, "--model", folder, "--samples", 1, "--out", out)
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")
    assert out.read_text() == "old"
    assert files_below(tmp_path / "sentitrace") != []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.csv", "sentitrace"]


# --- the embedded model --------------------------------------------------------------------------


@pytest.mark.embedded
def test_the_embedded_model_from_the_command_line(tmp_path):
    """Its tweets and weights, with one noise sample and one kind, so that it stays quick."""
    out = tmp_path / "figure.svg"
    text = "My flight got cancelled and I love waiting here for hours, terrible service"
    result = run(
        *("trace", text, "--model", "smollm2-135m-instruct", "--samples", 2),
        *("--kinds", "hidden", "--out", out),
    )
    assert result.exit_code == 0, result.output
    assert "Prediction  Negative" in result.stdout
    assert "terrible" in out.read_text(encoding="utf-8")
