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
from click.testing import CliRunner, Result
from tiny_models import save_folder

import core
import core.models
import core.probes
import core.setup
import core.trace
from core.__main__ import main
from core.datasets import dataset_file
from core.models import load_model
from core.probes import Probe, kept_folder
from core.registry import REGISTRY
from core.results import TraceSettings
from core.store import sweeps

ROOT = Path(core.__file__).parent.parent
TWEET = "terrible service, bad day"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tiny-model"), layers=3)


@pytest.fixture
def data(own_home: Path) -> Path:
    """A cache folder with forty labelled tweets, as set-up would have left it."""
    texts = [f"{word} day number {n}" for n in range(20) for word in ("great", "awful")]
    ratings = [2.0, -2.0] * 20
    file = dataset_file("vader-tweets")
    file.parent.mkdir(parents=True)
    pd.DataFrame({"text": texts, "rating": ratings, "row": range(40)}).to_parquet(file)
    return own_home


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The sentence with which a command is refused."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    return lines[0].removeprefix("Error: ")


def files_below(folder: Path) -> list[str]:
    """Every file but locks, hidden and half-written ones included."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if not name.startswith("locks/"))


# --- setup and models ----------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "hub"), [((), True), (("--no-hub",), False)])
def test_setup_prepares(options: tuple[str, ...], hub: bool, monkeypatch) -> None:
    asked = []

    def prepare(*, echo, hub: bool) -> None:
        asked.append(hub)
        echo("Everything is ready.")

    monkeypatch.setattr(core.setup, "prepare", prepare)
    result = run("setup", *options)
    assert (result.exit_code, result.stdout, asked) == (0, "Everything is ready.\n", [hub])


def test_setup_that_fails_is_one_sentence(monkeypatch) -> None:
    def prepare(*, echo, hub: bool) -> None:
        raise core.setup.SetupError("pip could not fetch it\n(no network): try again.")

    monkeypatch.setattr(core.setup, "prepare", prepare)
    assert refused("setup") == "pip could not fetch it (no network): try again."


def test_models_lists_the_registry(own_home: Path) -> None:
    result = run("models")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for key in REGISTRY:
        (line,) = [line for line in lines if line.split()[0:1] == [key]]
        assert "to be downloaded" in line
    (default,) = [line for line in lines if line.startswith("smollm2-135m-instruct *")]
    assert re.search(r"llama +30 +135 M +94 MB +Apache-2.0", default)


def test_models_as_json(own_home: Path) -> None:
    (own_home / "models" / "gpt2").mkdir(parents=True)
    (own_home / "models" / "gpt2" / "sentitrace.json").write_text("{}")
    rows = {row["key"]: row for row in json.loads(run("models", "--json").stdout)}
    assert list(rows) == list(REGISTRY)
    assert rows["gpt2"]["availability"] == "on disk"
    assert [key for key, row in rows.items() if row["default"]] == ["gpt2"]
    assert rows["gpt2-xl"]["layers"] == 48


# --- probe ---------------------------------------------------------------------------------------


def test_probe_is_trained_reported_and_saved(data: Path, folder: Path, tmp_path: Path) -> None:
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


def test_probe_writes_its_whole_report(data: Path, folder: Path, tmp_path: Path) -> None:
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


def test_rows_that_cannot_be_used_are_counted_and_the_rest_is(
    data: Path, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    texts = [f"{word} day {n}" for n in range(15) for word in ("great", "awful")]
    texts += ["", "far too long for this model " * 100]
    pd.DataFrame({"text": texts, "label": [1, 0] * 16}).to_csv(file, index=False)
    options = ("--model", folder, "--data", file, "--no-controls")
    result = run("probe", *options)
    assert result.exit_code == 0, result.output
    assert "on 30 texts" in result.stdout
    assert "2 rows" in result.stderr
    assert "Warning" not in result.stderr


def test_verbalizers_take_several_words(data: Path, folder: Path) -> None:
    words = ("--good", " good", "--good", " happy", "--bad", " sad")
    result = run(
        *("probe", "--model", folder, "--features", "verbalizers", *words),
        *("--no-controls", "--json"),
    )
    printed = json.loads(result.stdout)
    assert printed["words_positive"] == [" good", " happy"]
    assert printed["words_negative"] == [" sad"]
    assert printed["report"]["controls"] == []


def test_probe_without_out_is_kept_where_trace_finds_it(
    data: Path, folder: Path, monkeypatch
) -> None:
    result = run("probe", "--model", folder, "--good", " happy", "--bad", " sad", "--json")
    printed = json.loads(result.stdout)
    assert (printed["words_positive"], printed["words_negative"]) == ([" happy"], [" sad"])
    (kept,) = kept_folder().glob("*.json")
    assert json.loads(kept.read_text()) == printed

    monkeypatch.setattr(core.probes, "train_probe", None)  # calling it would fail
    traced = run(
        *("trace", TWEET, "--model", folder, "--samples", 1, "--json"),
        *("--good", " happy", "--bad", " sad"),
    )
    assert traced.exit_code == 0, traced.output
    assert json.loads(traced.stdout)["probe"]["words"] == [" happy", " sad"]


def test_progress_shows_the_time_left(data: Path, folder: Path) -> None:
    result = run("trace", TWEET, "--model", folder, "--samples", 2, "--progress")
    assert result.exit_code == 0
    assert re.search(
        r"Training a probe on vader-tweets.*: 100% \|.*\| \d\d:\d\d left", result.stderr
    )
    assert re.search(r"Tracing \d+ tokens x 3 layers: 100% \|.*\| \d\d:\d\d left", result.stderr)
    assert "left" not in result.stdout


# --- trace ---------------------------------------------------------------------------------------


def test_trace_says_what_the_library_says(data: Path, folder: Path, tmp_path: Path) -> None:
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


def test_one_sample_has_no_error_and_null_in_json(data: Path, folder: Path) -> None:
    options = ("trace", TWEET, "--model", folder, "--samples", 1, "--kinds", "hidden")
    found = json.loads(run(*options, "--json").stdout)
    assert found["low_error"] is None
    assert found["distinguishable"] is None
    assert found["standard_errors"]["hidden"][0][0] is None
    summary = run(*options).stdout
    assert "One sample of noise gives no error" in summary
    assert "±" not in summary
    assert "nan" not in summary


def test_a_trace_may_end_early(data: Path, folder: Path) -> None:
    options = ("trace", TWEET, "--model", folder, "--kinds", "hidden", "--samples", 40, "--json")
    in_time = json.loads(run(*options, "--seconds", "0.000001", "--memory", 100).stdout)
    assert in_time["samples"] == 1
    stable = json.loads(run(*options, "--stable-for", 2).stdout)
    assert 3 <= stable["samples"] < 40


def test_no_effect_is_said_instead_of_shown(data: Path, folder: Path) -> None:
    summary = run(
        *("trace", TWEET, "--model", folder, "--samples", 3, "--noise", 1e-12),
        *("--kinds", "hidden"),
    )
    assert summary.exit_code == 0, summary.output
    assert "The total effect is not distinguishable from zero" in summary.stdout
    assert "%" not in summary.stdout.partition("Largest effects")[2]


def test_positions_can_be_corrupted(data: Path, folder: Path) -> None:
    options = ("trace", TWEET, "--model", folder, "--samples", 1, "--kinds", "hidden", "--json")
    assert json.loads(run(*options, "--corrupt", "2, 0").stdout)["corrupted_span"] == [0, 2]


@pytest.mark.parametrize(
    ("options", "settings", "says"),
    [
        (("--reverse",), {"direction": "corrupt"}, "what is lost"),
        (("--sever", "mlp"), {"severed": "mlp", "kinds": ["hidden"]}, "stay corrupted"),
        (("--corruption", "uniform"), {"corruption": "uniform"}, "uniform noise"),
        (("--corruption", "mean"), {"corruption": "mean"}, "mean embedding"),
        (("--every", "2"), {"every": 2}, "of noise"),
    ],
)
def test_other_questions_can_be_asked(
    data: Path, folder: Path, options: tuple[str, ...], settings: dict, says: str
) -> None:
    asked = ("trace", "terrible service", "--model", folder, "--data", "vader-tweets")
    common = (*asked, "--samples", "2", *options)
    found = json.loads(run(*common, "--json").stdout)
    assert {key: found["settings"][key] for key in settings} == settings
    printed = run(*common)
    assert printed.exit_code == 0
    assert says in printed.stdout


def test_a_counterfactual_of_another_length_is_one_sentence(data: Path, folder: Path) -> None:
    asked = ("trace", "terrible service", "--model", folder, "--data", "vader-tweets")
    assert "as many" in refused(*asked, "--counterfactual", "terrible service again and again")
    found = run(*asked, "--counterfactual", "service terrible", "--json")
    assert json.loads(found.stdout)["settings"]["corruption"] == "counterfactual"


def test_the_untrained_twin_is_a_control(data: Path, folder: Path) -> None:
    options = ("trace", TWEET, "--model", folder, "--samples", 2, "--json")
    trained = json.loads(run(*options).stdout)
    twin = json.loads(run(*options, "--untrained").stdout)
    assert twin["model"] == f"{folder} (untrained)"
    assert twin["probe"] == trained["probe"]
    assert twin["total_effect"] != trained["total_effect"]
    assert len(list(kept_folder().glob("*.json"))) == 1  # no probe of the twin


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_tables(data: Path, folder: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"cells.{ending}"
    options = ("trace", TWEET, "--model", folder, "--samples", 2)
    result = run(*options, "--out", out)
    assert result.exit_code == 0, result.output
    if ending == "json":
        frame = pd.DataFrame(json.loads(out.read_text())["rows"])
    else:
        frame = {"csv": pd.read_csv, "parquet": pd.read_parquet}[ending](out)
    found = json.loads(run(*options, "--json").stdout)
    assert len(frame) == 3 * 3 * len(found["tokens"])
    for kind, effects in found["effects"].items():
        np.testing.assert_allclose(
            frame.loc[frame["kind"] == kind, "effect"], np.ravel(effects), rtol=1e-5, atol=1e-6
        )


def test_figures_several_at_once(data: Path, folder: Path, tmp_path: Path) -> None:
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
    assert "Equal to what the recipe was saved with." in again.stdout


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
def test_mistakes_are_one_sentence(own_home: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(*arguments)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", (), "The tweet is empty; type a few words."),
        ("  \n", (), "is only white space"),
        ("bad " * 200, (), "reads at most 128; shorten the tweet."),
        ("bad \udcff", (), "lone surrogate, U+DCFF"),
        ("bad", ("--corrupt", "word:9"), "There is no word 9"),
        ("bad", ("--corrupt", "7,99"), "cannot be corrupted"),
        ("bad", ("--corrupt", "everything"), '"everything", is not understood'),
        ("bad", ("--good", " wonderfully good"), '" wonderfully good" is '),
    ],
)
def test_a_tweet_that_cannot_be_traced_trains_no_probe(
    data: Path, folder: Path, text: str, options: tuple[str, ...], says: str
) -> None:
    assert says in refused("trace", text, "--model", folder, *options)
    assert not kept_folder().exists()


def test_options_must_agree_with_the_probes_file(data: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "probe.json"
    run("probe", "--model", folder, "--out", out)
    options = ("trace", TWEET, "--model", folder, "--samples", 1, "--probe", out)
    assert "with --suffix ' I am feeling', not ' So'" in refused(*options, "--suffix", " So")
    assert "leave out --bad" in refused(*options, "--bad", " sad")
    assert run(*options, "--suffix", " I am feeling").exit_code == 0


def test_a_probe_of_another_model_is_refused(data: Path, folder: Path, tmp_path: Path) -> None:
    other = save_folder(tmp_path / "other", layers=2, seed=1)
    run("probe", "--model", other, "--out", tmp_path / "probe.json")
    says = refused("trace", TWEET, "--model", folder, "--probe", tmp_path / "probe.json")
    assert "choose a probe of this model or train one" in says


def test_a_place_that_cannot_be_written_is_one_sentence(
    data: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "figure.svg"
    says = refused("trace", TWEET, "--model", folder, "--samples", 1, "--out", out)
    assert "cannot be written" in says
    (tmp_path / "folder.csv").mkdir()
    assert "There is a folder at" in refused("trace", "bad", "--out", tmp_path / "folder.csv")


# --- as a process --------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "core", *map(str, arguments)]


def test_as_a_process(data: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figure.svg"
    done = subprocess.run(
        command("trace", TWEET, "--model", folder, "--samples", 2, "--out", out),
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nothing of the libraries' own either
    assert "Prediction  " in done.stdout
    assert "<svg" in out.read_text(encoding="utf-8")


def test_a_terminal_without_unicode_and_a_mistake(data: Path, folder: Path) -> None:
    done = subprocess.run(
        command("trace", "caf\u00e9 \u202e", "--model", folder, "--corrupt", "word:5"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_ends_cleanly(data: Path, folder: Path, tmp_path: Path) -> None:
    outs = tmp_path / "outs"
    run("probe", "--model", folder)
    before = files_below(data)
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
    seen, deadline = b"", time.monotonic() + 120
    while b"Tracing" not in seen and time.monotonic() < deadline:
        seen += os.read(process.stderr.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == b""
    assert stderr.rstrip().endswith(b"Stopped.")
    assert b"Traceback" not in stderr
    assert not outs.exists()
    assert files_below(data) == before


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("ends", ["SIGHUP", "SIGTERM"])
def test_a_closed_terminal_stops_a_sweep_of_several_processes(
    ends: str, data: Path, folder: Path
) -> None:
    run("probe", "--model", folder)
    process = subprocess.Popen(
        command("sweep", "--model", folder, "--samples", 10**6, "--processes", 2),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(getattr(signal, ends), signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (found := sweeps()) or found[0].status().workers < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(getattr(signal, ends))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.rstrip().endswith(b"Stopped.")
    while found[0].status().workers and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (found[0].status().workers, found[0].status().state) == (0, "stopped")


def test_ctrl_c_while_writing_leaves_the_old_file(
    data: Path, folder: Path, tmp_path: Path, monkeypatch
) -> None:
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
def test_the_embedded_model_from_the_command_line(tmp_path: Path) -> None:
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
