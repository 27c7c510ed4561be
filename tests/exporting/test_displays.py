"""What a result shows of itself in a notebook, says in a terminal, and saves."""

import json
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from paths import ROOT
from tiny_held import make_held, make_tweets
from tiny_models import make_model, save_folder
from tiny_probes import make_probe

import core
from core.distribution import ASSETS
from core.exporting import embedded_settings
from core.interventions.plan import Plan, carry_out
from core.sweeps.average import average
from core.sweeps.study import load
from core.tracing import example
from core.tracing.findings import findings

VEGA_LITE = "application/vnd.vegalite.v6+json"


@pytest.fixture(scope="module")
def result():
    return example.load()


def values(spec):
    """All rows of a figure's data, wherever they stand in it."""
    if isinstance(spec, dict):
        for key, part in spec.items():
            if key == "values" and isinstance(part, list):
                yield from (row for row in part if isinstance(row, dict))
            elif key == "datasets":
                for rows in part.values():
                    yield from rows
            else:
                yield from values(part)
    elif isinstance(spec, list):
        for part in spec:
            yield from values(part)


def test_a_trace_shows_its_cells_and_says_what_was_found(result):
    shown = result._repr_mimebundle_()
    for sentence in findings(result).sentences:
        assert sentence in shown["text/plain"]
    effects = [row["effect"] for row in values(shown[VEGA_LITE]) if "effect" in row]
    assert sorted(effects) == pytest.approx(sorted(result.frame()["effect"]), abs=1e-6)
    assert shown["image/svg+xml"].startswith("<svg")
    json.dumps(shown)  # as a notebook keeps it


def test_a_verdict_without_cells_is_shown_in_words_alone(result):
    verdict = replace(result, reads=replace(result.reads, restored={}))
    assert set(verdict._repr_mimebundle_()) == {"text/plain"}
    with pytest.raises(ValueError, match="No cell is traced yet"):
        verdict.figure()


def test_a_saved_trace_holds_what_makes_it_again(result, tmp_path):
    path = result.save(tmp_path / "trace.svg")
    held = json.loads(embedded_settings.read(path.read_bytes()))
    assert held["text"] == result.prompt.tweet
    assert held["model"]["precision"] == "float32"
    other = replace(result, model_identity="0123.4567.bfloat16.2")
    held = json.loads(embedded_settings.read(other.save(tmp_path / "o.parquet").read_bytes()))
    assert held["model"]["precision"] == "bfloat16"
    table = pd.read_parquet(tmp_path / "o.parquet")
    pd.testing.assert_frame_equal(table, result.frame(), check_dtype=False)
    with pytest.raises(ValueError, match="'trace.doc' has no ending that names its form"):
        result.save(tmp_path / "trace.doc")


def test_an_average_shows_and_saves_itself(tmp_path):
    found = load(ASSETS / "average-smollm2.json").average
    shown = found._repr_mimebundle_()
    assert shown["text/plain"].startswith("Average total effect ")
    assert "Early site" in shown["text/plain"]
    means = [row["mean"] for row in values(shown[VEGA_LITE]) if "mean" in row]
    assert max(means) == pytest.approx(found.frame["mean"].max(), rel=1e-4)
    assert len(pd.read_csv(found.save(tmp_path / "average.csv"))) == len(found.frame)


def test_a_report_shows_its_controls(result):
    report = result.probe.report
    shown = report._repr_mimebundle_()
    assert f"Accuracy {report.accuracy:.1%}" in shown["text/plain"]
    drawn = shown[VEGA_LITE]
    assert "layer" in drawn or "concat" in drawn


def test_tracing_and_averaging_bring_no_chart():
    script = (
        "import sys, core.tracing.tracer, core.sweeps.average, core.interventions.plan\n"
        "print([name for name in ('altair', 'vl_convert', 'core.charts') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_has_no_view_is_said():
    with pytest.raises(ValueError, match="A str cannot be shown; show a trace"):
        core.display_of("a tweet")


def test_a_bar_follows_the_work_to_its_end(capsys, own_home, tmp_path):
    model = core.load_model(save_folder(tmp_path / "model", "gpt2", layers=2), progress=True)
    assert "Fetching" not in capsys.readouterr().err  # it is on this disk
    core.train_probe(model, make_tweets(), progress=True)
    assert "Training a probe: 100%" in capsys.readouterr().err
    settings = core.TraceSettings(samples=2, kinds=("hidden",))
    traced = core.trace(model, make_probe(model), "good day", settings, progress=True)
    assert traced.samples_done == 2
    assert "Tracing: 100%" in capsys.readouterr().err
    assert average([traced]).n == 1


def test_traces_of_one_text_stand_side_by_side(result, tmp_path):
    read = result.under("log_ratio")
    both = core.show(result, read, names=["log-odds", "log ratio"])
    shown = both._repr_mimebundle_()
    assert f"log-odds: {findings(result).sentence}" in shown["text/plain"]
    drawn = {round(row["effect"], 2) for row in values(shown[VEGA_LITE]) if "effect" in row}
    for trace in (result, read):
        layer, position = trace.top_cells["mlp"]
        share = 100 * trace.effects["mlp"][layer, position] / trace.total_effect
        assert any(share == pytest.approx(value, abs=0.02) for value in drawn)
    held = json.loads(embedded_settings.read(both.save(tmp_path / "both.svg").read_bytes()))
    assert [one["settings"]["proxy"] for one in held["traces"]] == ["log_odds", "log_ratio"]
    assert list(core.show(result, read).traces) == [f"{result.model_name} ({i})" for i in (1, 2)]
    with pytest.raises(ValueError, match="2 results need as many different names, not one"):
        core.show(result, read, names=["one"])
    with pytest.raises(ValueError, match="There is no trace to compare"):
        core.show()


def test_an_outcome_shows_what_was_judged_as_soon_as_it_is(own_home, tmp_path):
    model = make_model("llama")
    quick = {"samples": 2, "texts": 4, "controls": 2, "steps": 2, "prefixes": 1, "keys": 50}
    plan = Plan("steer", "My flight got cancelled, terrible service", **quick)
    first, *_, last = (outcome for _, outcome in carry_out(model, make_held(model), plan))
    assert set(first._repr_mimebundle_()) == {"text/plain"}
    with pytest.raises(ValueError, match="Nothing was evaluated yet"):
        first.save(tmp_path / "table.csv")
    said = last._repr_mimebundle_()
    assert f"After: P(positive) = {last.after.probability:.2f}." in said["text/plain"]
    judged = last.judged["value"].dropna().round(3)
    drawn = {round(row["value"], 3) for row in values(said[VEGA_LITE]) if row.get("value")}
    assert drawn
    assert drawn <= set(judged)
    held = embedded_settings.read(last.save(tmp_path / "table.parquet").read_bytes())
    assert Plan.from_json(held) == plan
