"""The figures of a probe's report: what is drawn, from which numbers, on which axes."""

from dataclasses import replace

import pandas as pd
import pytest
from tiny_probes import make_report

from core.charts import probe
from core.exporting.figure_files import figure_bytes
from core.probes.scores import Control, LayerScore, LearningScore, Score


def make_full_report():
    report = make_report()
    return replace(
        report,
        learning=(LearningScore(10, Score(0.6, 0.5, 0.7)), LearningScore(80, Score(0.8, 0.7, 0.9))),
        layers=tuple(LayerScore(i, Score(0.6 + i / 20, 0.5, 0.9)) for i in range(4)),
        controls=(
            Control("the majority class", "always", report.scores, Score(0.2, 0.1, 0.3)),
            Control("bag of words", "no model", report.scores, Score(-0.05, -0.1, 0.02)),
        ),
    )


@pytest.fixture
def tables():
    return make_full_report().tables()


def values(chart, layer=0):
    spec = chart.to_dict()
    return spec["datasets"][spec["layer"][layer].get("data", spec.get("data"))["name"]]


def drawn(tables):
    return {
        "comparison": probe.comparison(tables["controls"]),
        "layers": probe.layer_curve(tables["layers"], chosen=2),
        "learning": probe.learning_curve(tables["learning"]),
        "roc": probe.roc(tables["roc"]),
        "calibration": probe.calibration(tables["calibration"]),
        "confusion": probe.confusion(tables["confusion"]),
    }


def test_the_table_has_a_row_for_the_probe_and_each_control():
    table = probe.score_table(make_full_report())
    assert list(table[""]) == ["This probe", "The majority class", "Bag of words"]
    assert table["Accuracy"][0] == "0.800 (0.700 to 0.900)"
    assert table["Brier score"][0] == "0.150 (0.100 to 0.200)"
    assert list(table["Gain over it"]) == [
        "",
        "+20.0 (+10.0 to +30.0)",
        "\u22125.0 (\u221210.0 to +2.0)",
    ]


def test_without_controls_nothing_is_led():
    table = probe.score_table(make_report())
    assert len(table) == 1
    assert "Gain over it" not in table


def test_the_comparison_marks_the_probe_and_keeps_the_order(tables):
    rows = values(probe.comparison(tables["controls"]))
    assert [row["control"] for row in rows] == ["this probe", "the majority class", "bag of words"]
    assert [row["probe"] for row in rows] == [True, False, False]
    assert rows[0]["value"] == 0.8


def test_the_layer_curve_marks_the_layer_that_is_read(tables):
    spec = probe.layer_curve(tables["layers"], chosen=2).to_dict()
    assert "layer 2" in spec["title"]["text"]
    assert values(probe.layer_curve(tables["layers"], chosen=2), -1) == [{"layer": 2}]
    assert spec["layer"][0]["encoding"]["x"]["axis"]["tickMinStep"] == 1
    plain = probe.layer_curve(tables["layers"]).to_dict()
    assert len(plain["layer"]) == len(spec["layer"]) - 1


def test_the_layer_curve_of_a_probe_of_words_marks_its_accuracy(tables):
    chart = probe.layer_curve(tables["layers"], beside=0.843)
    assert chart.to_dict()["title"]["text"] == "Accuracy by layer; this probe reads words: 84.3%"
    assert values(chart, -1) == [{"accuracy": 0.843}]


def test_an_interval_beyond_all_texts_is_cut_off(tables):
    scale = probe.learning_curve(tables["learning"]).to_dict()["layer"][0]["encoding"]["y"]
    assert "domainMax" not in scale["scale"]
    beyond = tables["learning"].assign(high=1.1)
    spec = probe.learning_curve(beyond).to_dict()["layer"][0]
    assert spec["encoding"]["y"]["scale"]["domainMax"] == 1
    assert spec["mark"]["clip"]


def test_cells_of_the_confusion_matrix_are_shares_of_their_label(tables):
    rows = values(probe.confusion(tables["confusion"]))
    assert sum(row["texts"] for row in rows) == 100
    for label in (0, 1):
        assert sum(row["share"] for row in rows if row["label"] == label) == pytest.approx(1)


def test_a_label_without_texts_has_no_share():
    matrix = pd.DataFrame({"label": [0, 0, 1, 1], "predicted": [0, 1, 0, 1], "texts": [0, 0, 1, 3]})
    assert [row["share"] for row in values(probe.confusion(matrix))] == [0, 0, 0.25, 0.75]


def test_curves_over_probabilities_show_the_whole_range(tables):
    for chart, layer in (
        (probe.roc(tables["roc"]), 1),
        (probe.calibration(tables["calibration"]), 2),
    ):
        encoding = chart.to_dict()["layer"][layer]["encoding"]
        assert encoding["x"]["scale"]["domain"] == encoding["y"]["scale"]["domain"] == [0, 1]


def test_a_long_roc_is_thinned_and_keeps_its_ends():
    count = 5001
    curve = pd.DataFrame(
        {
            "false_positive_rate": [i / (count - 1) for i in range(count)],
            "true_positive_rate": [min(1.0, 2 * i / (count - 1)) for i in range(count)],
        }
    )
    rows = values(probe.roc(curve), 1)
    assert len(rows) <= 402
    assert rows[0]["false_positive_rate"] == 0
    assert rows[-1] == {"false_positive_rate": 1, "true_positive_rate": 1}


@pytest.mark.parametrize("name", ["comparison", "layers", "learning", "roc", "calibration"])
def test_every_figure_is_as_wide_as_its_place_and_can_be_saved(tables, name):
    chart = drawn(tables)[name]
    assert chart.to_dict()["autosize"]["type"] == "fit-x"
    assert figure_bytes(chart, "svg").startswith(b"<svg")
