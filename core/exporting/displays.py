"""What is shown and saved of a result: which figure, which table, which sentences, which settings?

Results ask for it by `core.showing.Shown`; a new kind of result is a function more in here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import NotDrawn, UserError
from ..interventions.plan import Outcome
from ..probes.scores import Report
from ..settings import described
from ..showing import Shown
from ..sweeps import comparison
from ..sweeps.average import Average
from ..sweeps.average_findings import cells, finding
from ..tracing.findings import findings
from ..tracing.result import TraceResult
from ..tracing.view import View, unit_of
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
    return replace(_view(View(result)), table=result.frame)


@display_of.register
def _view(view: View) -> Display:
    from ..charts.figures import trace_heatmaps

    result = view.result

    def figure() -> alt.TopLevelMixin:
        if not result.has_cells:
            raise UserError("No cell is traced yet, so there is nothing to draw.")
        return trace_heatmaps(view)

    return Display(
        figure,
        lambda: view.frame,
        (f"{view.headline}.", view.effect_line, *view.findings.sentences),
        lambda: Recipe.of(result).to_json(),
    )


@display_of.register
def _average(result: Average) -> Display:
    from ..charts import average as charts

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


Depth = Literal["layer", "relative"]


@dataclass(frozen=True)
class Beside:
    """How results stand side by side.

    Attributes:
        share: effects of traces in percent of each one's total effect; an average says by itself
            what its effects are.
        depth: relative depth puts models of any number of layers on one axis.
    """

    share: bool = described(False, "Effects in percent of each trace's own total effect.")
    depth: Depth = described("layer", "How depth is drawn: in layers, or relative.")


@dataclass(frozen=True)
class SideBySide(Shown):
    """Traces of one text, by their names: of several models, or under several settings."""

    traces: dict[str, TraceResult]
    how: Beside = Beside(share=True)


@dataclass(frozen=True)
class AveragesSideBySide(Shown):
    """Averages of several sweeps, by their names."""

    averages: dict[str, Average]
    how: Beside = Beside()


def show(
    *results: TraceResult | Average,
    names: Sequence[str] | None = None,
    share: bool = True,
    depth: Depth = "layer",
) -> SideBySide | AveragesSideBySide:
    """Traces of one text, or averages, side by side.

    Args:
        names: what each is called; by default its model, numbered where that is not enough.
        share, depth: see `Beside`.

    Raises:
        UserError: there is none, traces are not of one text, traces and averages are mixed, or
            names and results do not go together.
    """
    if names is None:
        models = [
            result.model_name if isinstance(result, TraceResult) else str(result.about["model"])
            for result in results
        ]
        names = [
            f"{name} ({i})" if models.count(name) > 1 else name for i, name in enumerate(models, 1)
        ]
    if len(names) != len(results) or len(set(names)) < len(names):
        raise UserError(
            f"{len(results)} results need as many different names, not {', '.join(names)}."
        )
    traces = [result for result in results if isinstance(result, TraceResult)]
    averages = [result for result in results if isinstance(result, Average)]
    if traces and averages:
        raise UserError("A trace and an average cannot stand side by side; show them apart.")
    how = Beside(share, depth)
    if averages:
        comparison.average_cells(dict(zip(names, averages, strict=True)))
        return AveragesSideBySide(dict(zip(names, averages, strict=True)), how)
    comparison.align(traces)
    return SideBySide(dict(zip(names, traces, strict=True)), how)


@display_of.register
def _side_by_side(result: SideBySide) -> Display:
    from ..charts import comparison as charts

    traces = result.traces
    found = {name: findings(trace) for name, trace in traces.items()}

    def table() -> pd.DataFrame:
        return comparison.cells(list(traces.values()), list(traces), share=result.how.share)

    def figure() -> alt.TopLevelMixin:
        text = next(iter(traces.values())).prompt.tweet
        return charts.panels(
            table(),
            {name: trace.layers for name, trace in traces.items()},
            unit=charts.SHARE_UNIT if result.how.share else unit_of(next(iter(traces.values()))),
            depth=result.how.depth,
            nothing=[name for name, said in found.items() if said.health.ok is False],
            title=f"\u201c{text}\u201d",
        )

    return Display(
        figure,
        table,
        tuple(f"{name}: {said.sentence}" for name, said in found.items()),
        lambda: Recipes.of(list(traces.values())).to_json(),
    )


@display_of.register
def _averages_side_by_side(result: AveragesSideBySide) -> Display:
    from ..charts import comparison as charts

    averages = result.averages

    def table() -> pd.DataFrame:
        return charts.in_shown_unit(comparison.average_cells(averages), averages.values())

    def figure() -> alt.TopLevelMixin:
        return charts.panels(
            table(),
            {name: int(average.about["layers"]) for name, average in averages.items()},
            unit=charts.unit_of_averages(averages.values()),
            depth=result.how.depth,
            title="Average effects",
        )

    said = (f"{name}: {finding(average).effect}." for name, average in averages.items())
    return Display(figure, table, tuple(said))
