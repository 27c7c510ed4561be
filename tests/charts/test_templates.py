"""A chart that is not held against the schema is the one that is, but for the theme."""

import altair as alt
import pandas as pd
import pytest

from core.charts.templates import unchecked

FRAME = pd.DataFrame({"layer": [0, 1], "effect": [0.5, -0.5]})
OWN = {"axis": {"titleFontSize": 11}}


def chart(data, **config):
    base = alt.Chart(data).encode(alt.X("layer:O"), alt.Y("effect:Q"))
    zero = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule().encode(y="zero:Q")
    layers = alt.layer(base.mark_bar(), base.mark_point(), zero)
    return layers.configure_axis(**config) if config else layers


@pytest.mark.parametrize("theme", ["default", "none", "dark"])
@pytest.mark.parametrize("data", [FRAME, alt.NamedData("data")], ids=["values", "a name"])
def test_a_theme_leaves_no_trace_and_all_else_stays(theme, data):
    with alt.theme.enable(theme):
        found, whole = unchecked(chart(data)), chart(data).to_dict()
        configured = unchecked(chart(data, **OWN["axis"]))
    assert "config" not in found
    assert configured == {**found, "config": OWN}
    assert found.pop("datasets") == whole.pop("datasets", {})
    assert found == {k: v for k, v in whole.items() if k not in ("$schema", "config")}
