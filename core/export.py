"""How does a figure leave the program? One chart, one file, by the file's ending.

Everything is rendered here by vl-convert, without a browser and without a network; an HTML page
carries its own copy of the drawing library and opens anywhere.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cache

if TYPE_CHECKING:
    import altair as alt

MIME = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "html": "text/html",
    "json": "application/json",
}
"""Forms a figure can take, and their media types. JSON is the Vega-Lite specification."""

SCALE = 2.0  # pixels of a PNG per pixel of the figure: sharp on dense screens and in print


def figure_bytes(chart: alt.TopLevelMixin, form: str) -> bytes:
    """Render a chart as one of `MIME`.

    Raises:
        ValueError: the form is not one of them.
    """
    if form not in MIME:
        raise ValueError(f"A figure cannot be saved as {form!r}; choose one of {', '.join(MIME)}.")
    import vl_convert

    spec = chart.to_dict()
    if form == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=SCALE))
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    if form == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(spec))
    if form == "html":
        return _page(spec).encode()
    return json.dumps(spec, indent=1).encode()


def _page(spec: dict[str, Any]) -> str:
    """An HTML page that draws the specification, in which no text of a tweet can be markup.

    vl-convert writes the specification into a script as it is, where a tweet with "</script>" in it
    would end that script. Every "<" is written as JavaScript's escape instead.
    """
    import vl_convert

    mark = f"less-than-{secrets.token_hex(8)}-"
    marked = json.loads(json.dumps(spec).replace("<", mark))
    page = str(vl_convert.vegalite_to_html(marked, bundle=True))
    return page.replace(mark, "\\u003c")


def export_figure(chart: alt.TopLevelMixin, path: str | Path) -> Path:
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
    content = figure_bytes(chart, form)
    with cache.write_beside(path) as beside:
        beside.write_bytes(content)
    return path
