"""What is shown and saved of a result: which figure, which table, which sentences, which settings?

Results ask for it by `core.showing.Shown`; a new kind of result is a function more in here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NotDrawn, UserError
from ..interventions.plan import Outcome
from ..models.loading import DTYPES
from ..probes.scores import Report
from ..showing import Shown
from ..sweeps import comparison
from ..sweeps.average import Average
from ..tracing.findings import findings
from ..tracing.result import TraceResult
from ..tracing.view import View
from .figure_files import export_figure, figure_bytes, specification
from .recipe import Recipe, Recipes
from .table_files import TABLE_MIME, export_table

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

FIGURES = ("png", "svg", "pdf", "html")


@dataclass(frozen=True)
class Display:
    """What is shown of a result.

    Attributes:
        figure, table: make them; they raise `UserError` where there is nothing yet.
        sentences: what was found.
        recipe: JSON of what makes it again; None where no file can hold that.
    """

    figure: Callable[[], alt.TopLevelMixin]
    table: Callable[[], pd.DataFrame]
    sentences: tuple[str, ...]
    recipe: Callable[[], str] | None = None

    def save(self, path: str | Path) -> Path:
        """Save figure or table in the form that the file's ending names."""
        path = Path(path)
        form = path.suffix.lower().removeprefix(".")
        if form not in (*FIGURES, *TABLE_MIME):
            raise UserError(
                f"The file {path.name!r} has no ending that names its form; end it in one of "
                f"{', '.join(f'.{form}' for form in (*FIGURES, *TABLE_MIME))}."
            )
        recipe = None if self.recipe is None else self.recipe()
        if form in FIGURES:
            return export_figure(self.figure(), path, recipe=recipe)
        return export_table(self.table(), path, recipe=recipe)

    def bundle(self) -> dict[str, Any]:
        """What is shown by MIME types, of which a notebook shows the best that it can.

        The figure as Vega-Lite, and as SVG for where no script runs; the sentences as text.
        """
        shown: dict[str, Any] = {"text/plain": "\n".join(self.sentences)}
        try:
            chart = self.figure()
        except UserError:  # nothing to draw yet, which the sentences say
            return shown
        spec = specification(chart)
        version = spec["$schema"].rpartition("/v")[2].partition(".")[0]
        shown[f"application/vnd.vegalite.v{version}+json"] = spec
        try:
            shown["image/svg+xml"] = figure_bytes(chart, "svg").decode()
        except NotDrawn:  # the browser draws it by itself
            return shown
        return shown


@singledispatch
def display_of(result: object) -> Display:
    """What is shown of a result, by its class: its figure, table, sentences and settings.

    Args:
        result: a trace, an average, the report of a probe or the outcome of an intervention.

    Raises:
        UserError: it is none of these.
    """
    raise UserError(
        f"A {type(result).__name__} cannot be shown; show a trace, an average, the report of a "
        "probe or the outcome of an intervention."
    )


@display_of.register
def _trace(result: TraceResult) -> Display:
    from ..charts.figures import trace_heatmaps

    view = View(result)

    def figure() -> alt.TopLevelMixin:
        if not result.has_cells:
            raise UserError("No cell is traced yet, so there is nothing to draw.")
        return trace_heatmaps(view)

    return Display(
        figure,
        result.frame,
        (f"{view.headline}.", view.effect_line, *view.findings.sentences),
        lambda: _recipe(result).to_json(),
    )


def _recipe(result: TraceResult) -> Recipe:
    return Recipe.of(result, precision=_precision(result.model_identity))


def _precision(identity: str) -> str:
    """In which products were made; identities of before did not say it (`core.models.identity`)."""
    *_, precision, _ = ("", *identity.rsplit(".", 2))
    return precision if precision in DTYPES else "float32"


@display_of.register
def _average(result: Average) -> Display:
    from ..charts import average as charts
    from ..sweeps.average_findings import cells, finding

    found = finding(result)

    def figure() -> alt.TopLevelMixin:
        return charts.heatmap_figure(
            cells(result),
            titles=result.titles(),
            unit=charts.unit_of(result),
            title=f"Average effects over {result.counted}, {result.about['model']}",
            caption=charts.heatmap_caption(result),
        )

    claims = (
        f"{claim.text.removesuffix('.')}: {claim.verdict}; {claim.why}" for claim in found.claims
    )
    return Display(figure, lambda: result.frame, (f"{found.effect}.", found.sentence, *claims))


@display_of.register
def _report(result: Report) -> Display:
    from ..charts import probe as charts

    tables = result.tables()

    def figure() -> alt.TopLevelMixin:
        if result.controls:
            return charts.comparison(tables["controls"])
        return charts.roc(tables["roc"])

    accuracy = (
        f"Accuracy {result.accuracy:.1%} ({result.accuracy_low:.1%} to {result.accuracy_high:.1%})"
        f" on {result.n:,} texts; always the more frequent label: {result.majority:.1%}."
    )
    said = (accuracy,) if result.verdict is None else (accuracy, result.verdict)
    return Display(figure, lambda: tables["controls" if result.controls else "scores"], said)


@display_of.register
def _outcome(result: Outcome) -> Display:
    from ..charts import intervention as charts

    def table() -> pd.DataFrame:
        if result.judged is None:
            raise UserError("Nothing was evaluated yet, so there is no table.")
        return result.judged

    said = [charts.caption_of(result)]
    for when, reading in (("Before", result.before), ("After", result.after)):
        if reading is not None:
            said.append(f"{when}: P(positive) = {reading.probability:.2f}.")
    return Display(
        lambda: charts.summary(result), table, (*said, *result.notes), result.plan.to_json
    )


# --- side by side --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SideBySide(Shown):
    """Traces of one text, by their names: of several models, or under several settings."""

    traces: dict[str, TraceResult]


def show(*results: TraceResult, names: Sequence[str] | None = None) -> SideBySide:
    """Traces of one text side by side, in percent of each one's total effect.

    Args:
        names: what each trace is called; by default its model, numbered where that is not enough.

    Raises:
        UserError: there is none, they are not of one text, or names and traces do not go together.
    """
    if names is None:
        models = [result.model_name for result in results]
        names = [
            f"{name} ({i})" if models.count(name) > 1 else name for i, name in enumerate(models, 1)
        ]
    if len(names) != len(results) or len(set(names)) < len(names):
        raise UserError(
            f"{len(results)} traces need as many different names, not {', '.join(names)}."
        )
    comparison.align(results)
    return SideBySide(dict(zip(names, results, strict=True)))


@display_of.register
def _side_by_side(result: SideBySide) -> Display:
    from ..charts import comparison as charts

    traces = result.traces
    found = {name: findings(trace) for name, trace in traces.items()}

    def table() -> pd.DataFrame:
        return comparison.cells(list(traces.values()), list(traces))

    def figure() -> alt.TopLevelMixin:
        text = next(iter(traces.values())).prompt.tweet
        return charts.panels(
            table(),
            {name: trace.layers for name, trace in traces.items()},
            unit=charts.SHARE_UNIT,
            nothing=[name for name, said in found.items() if said.health.ok is False],
            title=f"\u201c{text}\u201d",
        )

    return Display(
        figure,
        table,
        tuple(f"{name}: {said.sentence}" for name, said in found.items()),
        lambda: Recipes(tuple(map(_recipe, traces.values()))).to_json(),
    )
