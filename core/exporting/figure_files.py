"""How do figures leave the program? One chart, one file, by its ending.

Everything is rendered here by vl-convert, without a browser and without a network, in a process of
its own (`core.charts.renderer`). Text stays text, in two fonts that come along (Source Sans and
Source Serif, under the Open Font License): a PDF holds them by itself, an SVG or HTML file gets the
glyphs that it shows. An HTML page carries its own copy of the drawing library and opens anywhere.

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
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from ..charts.renderer import Renderer, legible
from ..charts.style import GREY_SAFE, PAPER, RAMP
from ..errors import UserError
from ..settings import described
from ..storage import cache
from . import embedded_settings, glyphs

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

STRIP = 0.55  # of the whole width, that a legend below panels takes at most: labels stand beside it
DEFAULT_WIDTH = 640  # pixels of a chart that on a page is as wide as its place


@dataclass(frozen=True)
class Paper:
    """How a figure looks in a paper.

    It has no title or caption inside.
    """

    font: Font = described("serif", "Font of a figure for a paper.")
    columns: Literal["one", "two"] = described(
        "two", "Style the figure for a paper, as wide as its columns.", unset=""
    )
    grey: bool = described(False, "For a paper: colours that stay in order in grey print.")

    def __post_init__(self) -> None:
        if self.font not in FONTS or self.columns not in POINTS:
            raise UserError(
                f"A paper's font is {' or '.join(FONTS)} and its figure {' or '.join(POINTS)} "
                f"columns wide, not {self.font!r} and {self.columns!r}."
            )


# --- figures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A figure's file, and what there is to tell of it.

    Attributes:
        content: the file.
    """

    content: bytes
    _form: str
    _spec: dict[str, Any]
    _font: Font

    @cached_property
    def boxes(self) -> str:
        """A sentence that names the characters which no font here has; mostly empty.

        Only PNG and PDF hold pictures of characters; other forms are drawn where they are opened.

        Raises:
            NotDrawn: the drawing library broke off.
        """
        return _boxes(self._spec, self._font) if self._form in ("png", "pdf") else ""


def figure(
    chart: alt.TopLevelMixin, form: str, *, paper: Paper | None = None, recipe: str | None = None
) -> Figure:
    """Render a chart as one of `MIME`.

    Args:
        paper: dress it for a paper.
        recipe: JSON that the file is to hold, see `core.exporting.embedded_settings`.

    Raises:
        ValueError: the form is not one of them; `NotDrawn`: the drawing library broke off.
    """
    if form not in MIME:
        raise UserError(f"A figure cannot be saved as {form!r}; choose one of {', '.join(MIME)}.")
    font: Font = paper.font if paper else "sans"
    if form == "json" and paper is None:
        spec = specification(chart)
    else:
        renderer().start()  # gets ready while the specification is made
        spec = _dressed(specification(chart), paper)
    content = _rendered(spec, form, paper)
    held = content if recipe is None else embedded_settings.write(content, form, recipe)
    return Figure(held, form, spec, font)


def figure_bytes(
    chart: alt.TopLevelMixin, form: str, *, paper: Paper | None = None, recipe: str | None = None
) -> bytes:
    """The file alone of `figure`."""
    return figure(chart, form, paper=paper, recipe=recipe).content


def export_figure(
    chart: alt.TopLevelMixin,
    path: str | Path,
    *,
    paper: Paper | None = None,
    recipe: str | None = None,
) -> Path:
    """Save a chart in the form that the file's ending names; the file is whole or not there.

    Args:
        chart: of Altair, as `figure()` of a result gives one.
        path: ends in .png (at twice the size), .svg, .pdf, .html or .json (Vega-Lite).
        paper: dress it for a paper.
        recipe: JSON that the file is to hold, by which `core.commands.recipes` makes it again.

    Returns:
        The file's path.

    Raises:
        UserError: the ending names no form.
        NotDrawn: the drawing library broke off.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in MIME:
        raise UserError(
            f"The figure {path.name!r} has no ending that names its form; "
            f"end it in one of {', '.join(f'.{form}' for form in MIME)}."
        )
    content = figure_bytes(chart, form, paper=paper, recipe=recipe)
    with cache.write_beside(path) as beside:
        beside.write_bytes(content)
    return path


def boxes(chart: alt.TopLevelMixin, *, paper: Paper | None = None) -> str:
    """The sentence of a chart's PNG or PDF, see `Figure.boxes`."""
    return _boxes(_dressed(specification(chart), paper), paper.font if paper else "sans")


def _boxes(spec: dict[str, Any], font: Font) -> str:
    written = json.dumps(spec)
    units = "".join(chr(int(unit, 16)) for unit in re.findall(r"\\u([0-9a-f]{4})", written))
    held = set(units.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    found = _lacking("".join(sorted(held - _covered(font))), str(spec["config"]["font"]))
    if not found:
        return ""
    # Words of tooltips are held too, but not drawn.
    drawn = set("".join(_texts(renderer().draw("svg", written).decode())))
    return glyphs.sentence("".join(character for character in found if character in drawn))


@lru_cache(maxsize=64)
def _lacking(characters: str, font: str) -> str:
    return glyphs.lacking(characters, font, renderer())


@once
def _covered(font: Font) -> frozenset[str]:
    """What a font that comes along has."""
    from fontTools.ttLib import TTFont

    return frozenset(map(chr, TTFont(io.BytesIO(_font_file(font, "Regular"))).getBestCmap()))


def _texts(svg: str) -> Iterator[str]:
    for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        yield "".join(node.itertext())


def specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart's Vega-Lite specification with all its data in it, whatever Streamlit has set.

    Every figure that leaves the program passes here: what a file cannot hold stands in it by name
    (`renderer.legible`), and a number that is none, which JSON has not, as null.

    Altair turns frames into values by a setting that all threads share, which Streamlit changes
    while it draws, and refuses more than 5,000 rows.
    """
    import pandas as pd

    if not any(isinstance(getattr(part, "data", None), pd.DataFrame) for part in _parts(chart)):
        spec: dict[str, Any] = _holdable(chart.to_dict())
        return spec
    whole = chart.copy(deep=True)  # type: ignore[attr-defined]  # every chart has it
    for part in _parts(whole):
        if isinstance(getattr(part, "data", None), pd.DataFrame):
            part.data = _values(part.data)
    inlined: dict[str, Any] = _holdable(whole.to_dict())
    return inlined


def _holdable(spec: Any) -> Any:
    if isinstance(spec, str):
        return legible(spec)
    if isinstance(spec, float):
        return spec if math.isfinite(spec) else None
    if isinstance(spec, dict):
        return {legible(key): _holdable(value) for key, value in spec.items()}
    return [_holdable(value) for value in spec] if isinstance(spec, list) else spec


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


@once
def renderer() -> Renderer:
    """The process that draws for this program, with the fonts that come along."""
    return Renderer(_font_folder(font) for font in FONTS)


def _rendered(spec: dict[str, Any], form: str, paper: Paper | None) -> bytes:
    if form == "json":
        return json.dumps(spec, indent=1).encode()
    if form == "html":
        return _page(spec).encode()
    written = json.dumps(spec)
    if form == "png":
        if paper is None:
            return renderer().draw("png", written, scale=SCALE)
        return renderer().draw("png", written, scale=PAPER_SCALE, ppi=PAPER_INCH)
    if form == "pdf":
        pdf = renderer().draw("pdf", written)
        return pdf if paper is None else _smaller(pdf)
    svg = renderer().draw("svg", written).decode()
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
    writer = embedded_settings.pdf_writer(pdf)
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
    mark = f"less-than-{secrets.token_hex(8)}-"
    written = json.dumps(spec)
    marked = written.replace("<", mark)
    page = renderer().draw("html", marked, bundle=True, renderer="svg").decode()
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
        spec.setdefault("background", PAPER["light"])
        return spec
    spec["background"] = PAPER["light"]
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
    return float(renderer().draw("width", json.dumps(spec)))


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
