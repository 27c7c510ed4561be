"""How do figures and tables leave the program? One chart or frame, one file, by its ending.

Everything is rendered here by vl-convert, without a browser and without a network. Text stays
text, in two fonts that come along (Source Sans and Source Serif, under the Open Font License): a
PDF holds them by itself, an SVG or HTML file gets the glyphs that it shows. An HTML page carries
its own copy of the drawing library and opens anywhere.

A figure for a paper has no title or caption inside, is as wide as one column or the whole page, and
can take colours whose order is still seen when it is printed grey.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from core import cache, metadata, tables
from core.figures import RAMP

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

MIME = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "html": "text/html",
    "json": "application/json",
}
"""Forms a figure can take, and their media types. JSON is the Vega-Lite specification."""

TABLE_MIME = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "json": "application/json",
}
"""Forms a table can take, and their media types."""

SCALE = 2.0  # pixels of a PNG per pixel of the figure: sharp on dense screens and in print
PAPER_SCALE = 0.7  # points of a paper's figure per pixel: letters of 11 px become 7.7 pt
PAPER_INCH = 300.0  # pixels per inch of a PNG for a paper
POINTS = {"one": 240.0, "two": 500.0}
"""Width of a paper's figure over one and over two columns, in points (1/72 inch)."""

Font = Literal["sans", "serif"]
FONTS: dict[Font, tuple[str, str]] = {
    "sans": ("Source Sans Pro", "font_source_sans_pro"),
    "serif": ("Source Serif Pro", "font_source_serif_pro"),
}
"""Family, and the package that brings it."""

GREY_SAFE = (
    "rgba(43, 18, 0, 1)",
    "rgba(140, 74, 22, 1)",
    "rgba(170, 170, 170, 1)",
    "rgba(190, 214, 236, 1)",
    "rgba(246, 250, 255, 1)",
)
"""The ramp of effects, from negative over none to positive, ever lighter."""

STRIP = 0.55  # of the whole width, that a legend below panels takes at most: labels stand beside it
DEFAULT_WIDTH = 640  # pixels of a chart that on a page is as wide as its place


@dataclass(frozen=True)
class Paper:
    """How a figure looks in a paper.

    Attributes:
        font: "sans" or "serif".
        columns: "one" or "two" columns wide.
        grey: colours of effects that stay in order when printed grey.
    """

    font: Font = "serif"
    columns: Literal["one", "two"] = "two"
    grey: bool = False

    def __post_init__(self) -> None:
        if self.font not in FONTS or self.columns not in POINTS:
            raise ValueError(
                f"A paper's font is {' or '.join(FONTS)} and its figure {' or '.join(POINTS)} "
                f"columns wide, not {self.font!r} and {self.columns!r}."
            )


# --- figures -------------------------------------------------------------------------------------


def figure_bytes(
    chart: alt.TopLevelMixin, form: str, *, paper: Paper | None = None, recipe: str | None = None
) -> bytes:
    """Render a chart as one of `MIME`.

    Args:
        paper: dress it for a paper.
        recipe: JSON that the file is to hold, see `core.metadata`.

    Raises:
        ValueError: the form is not one of them.
    """
    if form not in MIME:
        raise ValueError(f"A figure cannot be saved as {form!r}; choose one of {', '.join(MIME)}.")
    spec = specification(chart)
    if form == "json" and paper is None:
        content = json.dumps(spec, indent=1).encode()
    else:
        _register_fonts()
        content = _rendered(_dressed(spec, paper), form, paper)
    return content if recipe is None else metadata.write(content, form, recipe)


def export_figure(
    chart: alt.TopLevelMixin,
    path: str | Path,
    *,
    paper: Paper | None = None,
    recipe: str | None = None,
) -> Path:
    """Save a chart in the form that the file's ending names; the file is whole or not there.

    Raises:
        ValueError: the ending is none of .png (at twice the size), .svg, .pdf, .html, .json.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in MIME:
        raise ValueError(
            f"The figure {path.name!r} has no ending that names its form; "
            f"end it in one of {', '.join(f'.{form}' for form in MIME)}."
        )
    content = figure_bytes(chart, form, paper=paper, recipe=recipe)
    with cache.write_beside(path) as beside:
        beside.write_bytes(content)
    return path


def for_paper(chart: alt.TopLevelMixin, paper: Paper) -> alt.TopLevelMixin:
    """The chart dressed for a paper: a chart again, in pixels of which `PAPER_SCALE` make a point.

    Title and caption are left out: a paper has them in its own text.
    """
    import altair as alt

    _register_fonts()
    spec = _dressed(specification(chart), paper)
    dressed: alt.TopLevelMixin = alt.Chart.from_dict(spec)
    return dressed


def specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart's Vega-Lite specification with all its data in it, whatever Streamlit has set.

    Altair turns frames into values by a setting that all threads share, which Streamlit changes
    while it draws, and refuses more than 5,000 rows.
    """
    import pandas as pd

    if not any(isinstance(getattr(part, "data", None), pd.DataFrame) for part in _parts(chart)):
        spec: dict[str, Any] = chart.to_dict()
        return spec
    whole = chart.copy(deep=True)  # type: ignore[attr-defined]  # every chart has it
    for part in _parts(whole):
        if isinstance(getattr(part, "data", None), pd.DataFrame):
            part.data = _values(part.data)
    inlined: dict[str, Any] = whole.to_dict()
    return inlined


def _parts(chart: Any) -> Iterator[Any]:
    """A chart and all charts inside it."""
    yield chart
    for place in ("layer", "concat", "hconcat", "vconcat"):
        inner = getattr(chart, place, None)
        if isinstance(inner, list):
            for part in inner:
                yield from _parts(part)
    inner = getattr(chart, "spec", None)
    if hasattr(inner, "to_dict"):
        yield from _parts(inner)


def _values(frame: pd.DataFrame) -> Any:
    import altair as alt

    return alt.InlineData(json.loads(frame.to_json(orient="records", date_format="iso")))


def _rendered(spec: dict[str, Any], form: str, paper: Paper | None) -> bytes:
    import vl_convert

    if form == "json":
        return json.dumps(spec, indent=1).encode()
    if form == "html":
        return _page(spec).encode()
    if form == "png":
        if paper is None:
            return bytes(vl_convert.vegalite_to_png(spec, allowed_base_urls=[], scale=SCALE))
        return bytes(
            vl_convert.vegalite_to_png(
                spec, scale=PAPER_SCALE, ppi=PAPER_INCH, allowed_base_urls=[]
            )
        )
    if form == "pdf":
        pdf = bytes(vl_convert.vegalite_to_pdf(spec, allowed_base_urls=[]))
        return pdf if paper is None else _smaller(pdf)
    svg = str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
    return _with_fonts(svg if paper is None else _in_points(svg)).encode()


def _in_points(svg: str) -> str:
    """An SVG whose size is given in points, `PAPER_SCALE` of one for each of its pixels."""

    def sized(found: re.Match[str]) -> str:
        return f'{found[1]}="{float(found[2]) * PAPER_SCALE:g}pt"'

    root, rest = svg.split(">", 1)
    root = re.sub(r'\b(width|height)="([\d.]+)"', sized, root)
    return f"{root}>{rest}"


def _smaller(pdf: bytes) -> bytes:
    """A PDF with pages of `PAPER_SCALE` times the size."""
    writer = metadata.pdf_writer(pdf)
    for page in writer.pages:
        page.scale_by(PAPER_SCALE)
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def _page(spec: dict[str, Any]) -> str:
    """An HTML page that draws the specification, in which no text of a tweet can be markup.

    vl-convert writes the specification into a script as it is, where a tweet with "</script>" in it
    would end that script. Every "<" is written as JavaScript's escape instead.
    """
    import vl_convert

    mark = f"less-than-{secrets.token_hex(8)}-"
    written = json.dumps(spec)
    marked = json.loads(written.replace("<", mark))
    page = str(vl_convert.vegalite_to_html(marked, bundle=True, renderer="svg"))
    page = page.replace(mark, "\\u003c")
    letters = _LATIN | set(json.dumps(spec, ensure_ascii=False))
    faces = "".join(
        _face(font, weight, frozenset(letters))
        for font, (family, _) in FONTS.items()
        if family in written
        for weight in WEIGHTS
    )
    return page.replace("<head>", f"<head><style>{faces}</style>", 1)


# --- fonts ---------------------------------------------------------------------------------------

WEIGHTS = {"Regular": "400", "Semibold": "600"}
_LATIN = {chr(code) for code in range(0x20, 0x17F)} | set("\u2212\u00b1\u2026\u201c\u201d\u2019")


@once
def _register_fonts() -> None:
    import vl_convert

    for font in FONTS:
        vl_convert.register_font_directory(str(_font_folder(font)))


def _font_folder(font: Font) -> Path:
    from importlib.util import find_spec

    found = find_spec(FONTS[font][1])
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "files"


@once
def _font_file(font: Font, weight: str) -> bytes:
    name = FONTS[font][0].replace(" ", "")
    return (_font_folder(font) / f"{name}-{weight}.ttf").read_bytes()


def _face(font: Font, weight: str, letters: frozenset[str]) -> str:
    """A CSS rule that holds the glyphs of these letters."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    options = subset.Options(flavor="woff", layout_features=["kern", "liga"], notdef_outline=True)
    glyphs = TTFont(io.BytesIO(_font_file(font, weight)))
    cut = subset.Subsetter(options)
    cut.populate(text="".join(sorted(letters)))
    cut.subset(glyphs)
    glyphs.flavor = "woff"
    written = io.BytesIO()
    glyphs.save(written)
    data = base64.b64encode(written.getvalue()).decode()
    return (
        f"@font-face{{font-family:'{FONTS[font][0]}';font-weight:{WEIGHTS[weight]};"
        f"src:url(data:font/woff;base64,{data}) format('woff')}}"
    )


def _with_fonts(svg: str) -> str:
    """The SVG with the glyphs that its texts need."""
    letters: dict[tuple[Font, str], set[str]] = {}
    for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        family = node.get("font-family", "")
        bold = node.get("font-weight", "") in ("bold", "600", "700")
        for font, (name, _) in FONTS.items():
            if name in family:
                found = letters.setdefault((font, "Semibold" if bold else "Regular"), set())
                found.update("".join(node.itertext()))
    if not letters:
        return svg
    faces = "".join(_face(*key, frozenset(used)) for key, used in sorted(letters.items()))
    root, rest = svg.split(">", 1)
    return f"{root}><defs><style>{faces}</style></defs>{rest}"


# --- how a figure looks --------------------------------------------------------------------------


def _dressed(spec: dict[str, Any], paper: Paper | None) -> dict[str, Any]:
    """The specification in fonts that come along, with a size of its own; for a paper or not."""
    spec = copy.deepcopy(spec)
    font = paper.font if paper else "sans"
    config = spec.setdefault("config", {})
    given = str(config.get("font", "sans-serif"))
    config["font"] = f"{FONTS[font][0]}, {given if font == 'sans' else 'Georgia, serif'}"
    for part in list(_specs(spec)):
        if part.get("width") == "container" or (
            "fit" in str(part.get("autosize", "")) and "width" not in part
        ):
            part["width"] = DEFAULT_WIDTH
        part.pop("autosize", None)
    if paper is None:
        spec.setdefault("background", "#ffffff")
        return spec
    spec["background"] = "#ffffff"
    spec["padding"] = 2
    spec.pop("title", None)
    if paper.grey:
        spec = _recoloured(spec)
    return _fitted(spec, POINTS[paper.columns] / PAPER_SCALE)


def _specs(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every view specification inside one, itself first."""
    yield spec
    for place in ("layer", "concat", "hconcat", "vconcat"):
        for part in spec.get(place, ()):
            yield from _specs(part)
    if isinstance(spec.get("spec"), dict):
        yield from _specs(spec["spec"])


def _recoloured(spec: Any) -> Any:
    """Swap the colours of effects for those that stay in order in grey."""
    swap = {
        colour: grey for ramp in RAMP.values() for colour, grey in zip(ramp, GREY_SAFE, strict=True)
    }
    if isinstance(spec, dict):
        return {key: _recoloured(value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_recoloured(value) for value in spec]
    return swap.get(spec, spec) if isinstance(spec, str) else spec


def _fitted(spec: dict[str, Any], target: float) -> dict[str, Any]:
    """The specification with panels so wide that the whole is `target` pixels wide.

    What axes and legends take does not shrink with the panels, so that two sizes are tried and the
    third lies on the line through them.
    """
    whole = _width_of(spec)
    share = target / whole
    tried = [(1.0, whole)]
    for _ in range(3):
        made = _scaled(spec, share, target)
        width = _width_of(made)
        if abs(width - target) <= 1.5:
            break
        tried.append((share, width))
        (first, was), (second, now) = tried[-2:]
        slope = (now - was) / (second - first) if second != first else 0.0
        if not math.isfinite(slope) or slope <= 0:
            break
        share = max(second + (target - now) / slope, 0.02)
    return made


def _width_of(spec: dict[str, Any]) -> float:
    import vl_convert

    scenegraph: Any = vl_convert.vegalite_to_scenegraph(spec)
    return float(scenegraph["width"])


def _scaled(spec: dict[str, Any], share: float, limit: float) -> dict[str, Any]:
    """Panels that stand beside others become `share` as wide; strips below them stay, if they fit.

    A figure without panels side by side is scaled as a whole.
    """
    spec = copy.deepcopy(spec)
    beside = any("hconcat" in part or "concat" in part for part in _specs(spec))

    def scale(part: dict[str, Any], among: bool) -> None:
        row = "hconcat" in part or "concat" in part
        width = part.get("width")
        if isinstance(width, int | float):
            part["width"] = width * share if among or not beside else min(width, STRIP * limit)
        elif isinstance(width, dict) and isinstance(width.get("step"), int | float):
            part["width"] = {"step": width["step"] * share}
        for place in ("layer", "concat", "hconcat", "vconcat"):
            for inner in part.get(place, ()):
                scale(inner, among or row)
        if isinstance(part.get("spec"), dict):
            scale(part["spec"], among)

    scale(spec, False)
    return spec


# --- tables --------------------------------------------------------------------------------------


def table_bytes(frame: pd.DataFrame, form: str, *, recipe: str | None = None) -> bytes:
    """Write a table as one of `TABLE_MIME`.

    CSV has no cell that a spreadsheet would take for a formula (`core.tables.safe_csv`), and no
    place for a recipe. JSON is {"rows": [{column: value, ...}, ...], "recipe": {...}}, with null
    for what is not a number.

    Raises:
        ValueError: the form is not one of them.
    """
    if form not in TABLE_MIME:
        raise ValueError(
            f"A table cannot be saved as {form!r}; choose one of {', '.join(TABLE_MIME)}."
        )
    if form == "csv":
        return tables.safe_csv(frame)
    if form == "json":
        content: dict[str, Any] = {"rows": _rows(frame)}
        if recipe is not None:
            content["recipe"] = json.loads(recipe)
        written = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        return written.encode("utf-8", "replace")
    return _parquet(frame, recipe)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary a row, every number as it is, None where there is none."""
    columns = {
        str(name): [
            None if isinstance(value, float) and not math.isfinite(value) else value
            for value in column.astype(object).where(column.notna(), None).tolist()
        ]
        for name, column in frame.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _parquet(frame: pd.DataFrame, recipe: str | None) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(frame, preserve_index=False)
    if recipe is not None:
        held = {**(table.schema.metadata or {}), metadata.NAME.encode(): recipe.encode()}
        table = table.replace_schema_metadata(held)
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


def export_table(frame: pd.DataFrame, path: str | Path, *, recipe: str | None = None) -> Path:
    """Save a table in the form that the file's ending names; the file is whole or not there.

    Raises:
        ValueError: the ending is none of .csv, .parquet, .json.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in TABLE_MIME:
        raise ValueError(
            f"The table {path.name!r} has no ending that names its form; "
            f"end it in one of {', '.join(f'.{form}' for form in TABLE_MIME)}."
        )
    content = table_bytes(frame, form, recipe=recipe)
    with cache.write_beside(path) as beside:
        beside.write_bytes(content)
    return path
