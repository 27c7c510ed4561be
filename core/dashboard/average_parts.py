"""What do all figures of the Average page have in common?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from ..charts import average as drawing
from ..charts.row_labels import label_reach
from ..sweeps import average_findings as words
from ..sweeps.average import Average
from ..sweeps.study import Study
from ..tracing.findings import signed
from ..tracing.view import KINDS
from . import plain, theme
from .as_table import as_table
from .charts import show_chart
from .saving import downloads

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from .saving import Charts, Tables
    from .sharing import Repeatable, Share


CLAIM_BADGES = {
    "supported": ("Supported", "green", ":material/check:"),
    "contradicted": ("Contradicted", "orange", ":material/close:"),
    "inconclusive": ("Inconclusive", "gray", ":material/question_mark:"),
}
"""Of each verdict: what it is called, its colour and its icon."""


def totals_frame(found: Study) -> pd.DataFrame:
    """The average total effect of all tweets and of every group: group, mean, lower, upper, n."""
    import pandas as pd

    groups = {"all": found.average, **found.by_label, **found.by_length}
    rows = [
        {"group": name, "mean": each.total.mean, "lower": each.total.lower}
        | {"upper": each.total.upper, "n": each.n}
        for name, each in groups.items()
    ]
    return pd.DataFrame(rows)


def role_choice(average: Average, key: str) -> str:
    """The role that a figure by layer is of."""
    titles = average.titles()
    early = words.finding(average).early
    first = early[0].role if early else words.MOST_SENTIMENTAL[average.about["roles"]]
    names = list(titles)
    return st.selectbox(
        "Role drawn by layer",
        names,
        index=names.index(first) if first in names else 0,
        format_func=titles.__getitem__,
        key=f"{key}:{average.about['roles']}",
        help="By default the early site's role.",
    )


def kind_panels(
    frame: pd.DataFrame, titles: dict[str, str], end: float, unit: str, key: str
) -> None:
    """Heatmaps side by side; one below the other on a narrow screen."""
    kinds = [kind for kind in KINDS if (frame["kind"] == kind).any()]
    # The leftmost panel has the role labels beside it, and room for them.
    widths = [1 + label_reach(titles.values(), limit=drawing.ROLE_LIMIT) / 375] + [1.0] * (
        len(kinds) - 1
    )
    for i, (kind, column) in enumerate(zip(kinds, st.columns(widths), strict=True)):
        show_chart(
            drawing.heatmap(
                frame,
                kind,
                titles=titles,
                end=end,
                unit=unit,
                labels="narrow" if i else "always",
                theme=theme(),
                title=KINDS[kind],
            ),
            key=f"{key}:{kind}",
            place=column,
        )
    places = {role: place for place, role in enumerate(titles)}
    cells = frame.assign(position=frame["role"].map(places))
    as_table(
        f"{key}:table",
        {KINDS[kind]: cells[cells["kind"] == kind] for kind in kinds},
        dict(enumerate(titles.values())),
        value="mean",
    )


def row_of_panels(average: Average, draw: Any, key: str) -> None:
    """A chart for each kind of site, side by side; `draw` makes one."""
    kinds = average.about["kinds"]
    for kind, column in zip(kinds, st.columns(len(kinds), gap="medium"), strict=True):
        show_chart(draw(kind=kind, title=KINDS[kind]), key=f"{key}:{kind}", place=column)


def line_figure(average: Average, draw: Any, caption: str) -> Any:
    """The same charts as one figure for a file."""
    panels = [draw(kind=kind, title=KINDS[kind], theme="light") for kind in average.about["kinds"]]
    return drawing.line_figure(panels, caption=caption)


def end_figure(
    key: str, average: Average, draw: Any, table: pd.DataFrame, line: str, caption: str, name: str
) -> None:
    """What stands below a figure by layer."""
    save_below(
        key,
        charts={name: partial(line_figure, average, draw, caption)},
        tables={name: lambda: table},
        caption=caption,
        said=line,
    )


def save_below(
    key: str,
    *,
    charts: Charts,
    tables: Tables,
    caption: str,
    said: str = "",
    recipe: Callable[[], Repeatable] | None = None,
    share: Share | None = None,
) -> None:
    """What the page says below a figure, by default its caption, and Save beside it.

    Args:
        caption: what a file has.
        recipe, share: see `core.dashboard.saving.downloads`.
    """
    left, right = st.columns([8, 1], gap="medium")
    left.caption(plain(said or caption))
    with right.container(horizontal=True, horizontal_alignment="right"):
        downloads(key, charts=charts, tables=tables, caption=caption, recipe=recipe, share=share)


def short_unit(average: Average) -> str:
    """The unit in few words, of total effects too, which are never shares."""
    unit = str(average.about["measured_in"])
    return "nats" if unit.endswith("(nats)") else unit


def interval_line(average: Average) -> str:
    """The interval of the total effect, in words."""
    total = average.total
    if total.lower != total.lower:
        return "One tweet gives no interval."
    return (
        f"95% interval {signed(total.lower)} to {signed(total.upper)}, {average.counted}, "
        f"{average.about['measured_in']}"
    )
