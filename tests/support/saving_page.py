"""A page that offers three figures: one that is fine, one that lacks glyphs, one that aborts."""

import altair as alt

from core.dashboard.saving import downloads

NOWHERE = "\U000f1234"  # of private use: in no font

bars = alt.Chart(alt.InlineData([{"x": 1}])).mark_bar()
# The library computes the character itself, behind all that is cleaned.
aborting = alt.Axis(labelExpr="'\\u0001'")
downloads(
    "figures",
    charts={
        "Fine": lambda: bars.encode(x="x:Q"),
        "Lacking": lambda: bars.encode(x="x:Q").properties(title=f"No {NOWHERE} here"),
        "Aborting": lambda: bars.encode(alt.X("x:Q", axis=aborting)),
    },
    tables={},
    caption="What they show.",
)
