"""Charts of interventions: what is drawn, of which numbers."""

import altair as alt
import numpy as np
import pandas as pd
import pytest

from core.charts.intervention import (
    GROUPS,
    agreement,
    judged_table,
    judgement,
    layer_curves,
    strength_curve,
)
from core.exporting.figure_files import figure_bytes
from core.interventions.judging import Estimate, judged_frame

ARMS = {
    "located": {
        ("moves", "tweet"): Estimate(4.0, np.nan, np.nan, 1),
        ("moves", "paraphrases"): Estimate(1.5, 0.5, 2.5, 3),
        ("flips", "tweet"): Estimate(1.0, 0.2, 1.0, 1),
        ("keeps", "others"): Estimate(0.9, 0.7, 0.97, 20),
        ("perplexity", "neutral"): Estimate(1.02, 1.0, 1.05, 20),
        ("entropy", "continuations"): Estimate(-0.1, -0.3, 0.1, 4),
    },
    "random": {
        ("moves", "tweet"): Estimate(3.0, 2.0, 4.0, 3),
        ("keeps", "others"): Estimate(0.95, 0.9, 1.0, 3),
        ("perplexity", "neutral"): Estimate(1.01, 1.0, 1.02, 3),
    },
}
CURVE = pd.DataFrame(
    {"layer": [0, 3, 6], "effect": [0.1, 0.5, 0.2], "moves": [2.0, 1.0, 3.0], "flips": [1, 0, 1]}
)
STRENGTHS = pd.DataFrame(
    {
        "strength": [0.0, 1.0, 2.0],
        "log_odds": [-2.0, 0.5, 3.0],
        "moves": [0.0, 2.5, 5.0],
        "perplexity": [1.0, 1.02, 1.2],
        "lower": [1.0, 1.0, 1.1],
        "upper": [1.0, 1.05, 1.3],
    }
)


def specification(chart: alt.LayerChart) -> dict:
    return chart.to_dict()


@pytest.mark.parametrize("group", list(GROUPS))
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_panel_holds_its_measures_for_both_arms(group, theme):
    judged = judged_frame(ARMS)
    spec = specification(judgement(judged, group, theme=theme))
    (rows,) = (rows for rows in spec["datasets"].values() if "row" in rows[0])
    measures, title, _ = GROUPS[group]
    assert {row["measure"] for row in rows} <= set(measures)
    assert {row["who"] for row in rows} == {"this one", "random"}
    assert spec["title"]["text"] == title
    assert figure_bytes(judgement(judged, group), "svg").startswith(b"<svg")


def test_shares_have_the_whole_axis_and_one_row_is_named_for_each_sort_of_text():
    spec = specification(judgement(judged_frame(ARMS), "shares"))
    scales = [layer["encoding"]["x"].get("scale") for layer in spec["layer"]]
    assert all(scale["domain"] == [0, 1] for scale in scales)
    assert spec["layer"][0]["encoding"]["y"]["sort"] == ["this tweet flips", "others keep theirs"]


def test_a_single_arm_needs_no_control():
    spec = specification(judgement(judged_frame({"chosen": ARMS["located"]}), "moves"))
    (rows,) = (rows for rows in spec["datasets"].values() if "row" in rows[0])
    assert {row["who"] for row in rows} == {"this one"}


def test_nothing_judged_is_refused():
    with pytest.raises(ValueError, match="Nothing was evaluated"):
        judgement(judged_frame({}), "costs")


def test_curves_keep_their_numbers():
    for chart in (layer_curves(CURVE), agreement(CURVE)):
        (rows,) = specification(chart)["datasets"].values()
        assert [row["moves"] for row in rows] == [2.0, 1.0, 3.0]
    assert specification(layer_curves(CURVE))["resolve"] == {"scale": {"y": "independent"}}
    for what in ("log_odds", "perplexity"):
        spec = specification(strength_curve(STRENGTHS, what))
        drawn = [rows for rows in spec["datasets"].values() if "strength" in rows[0]]
        assert [row[what] for row in drawn[0]] == STRENGTHS[what].tolist()


def test_a_table_has_a_row_for_each_measure_and_a_column_for_each_arm():
    table = judged_table(judged_frame(ARMS)).set_index("measure")
    assert table.loc["Move (nats): tweet", "located"] == "+4.00, n = 1"
    assert table.loc["Move (nats): tweet", "random"] == "+3.00 (+2.00 to +4.00), n = 3"
    assert table.loc["Keep their side: others", "located"] == "90% (70% to 97%), n = 20"
    assert table.loc["Flip: tweet", "random"] == ""
    assert "\u22120.10" in table.loc["n-gram entropy, change (bits): continuations", "located"]
