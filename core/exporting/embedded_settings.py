"""Where does a file keep the settings that it was made with? A JSON text inside PNG, SVG, ...

Every form has a place of its own for such a text, which programs that show the file ignore:

    png      an iTXt chunk                      svg   <metadata>
    pdf      the information dictionary         html  a script of the type application/json
    json     usermeta (Vega-Lite), recipe (table)
    parquet  the schema's metadata              zip   settings.json
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ..errors import UserError

if TYPE_CHECKING:
    from pypdf import PdfWriter

NAME = "sentitrace"
"""What the text is called inside a file."""

SETTINGS = "settings.json"
"""Its file in a ZIP."""

MOST_BYTES = 64 * 2**20  # of a file that is looked into
_PDF_KEY = f"/{NAME}"
_HTML = re.compile(
    rf'<script type="application/json" id="{NAME}">(.*?)</script>'.encode(), re.DOTALL
)


def write(content: bytes, form: str, text: str) -> bytes:
    """Put a JSON text into a figure.

    Args:
        content: a whole file of the form.
        form: "png", "svg", "pdf", "html" or "json".

    Raises:
        ValueError: the form has no place for it.
    """
    writers = {"png": _png, "svg": _svg, "pdf": _pdf, "html": _html, "json": _json}
    if form not in writers:
        raise UserError(
            f"A file of the form {form!r} cannot hold settings; choose one of {', '.join(writers)}."
        )
    return writers[form](content, text)


def read(content: bytes) -> str | None:
    """The text that `write` put into a file, whatever its form; None where there is none.

    Raises:
        ValueError: the file is damaged or too large to be looked into.
    """
    if len(content) > MOST_BYTES:
        raise UserError(
            f"The file has {len(content) / 2**20:,.0f} MB, and settings are looked for in files "
            f"of up to {MOST_BYTES // 2**20} MB; give the settings file itself."
        )
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"\x89PNG"):
        return _of_png(content)
    if start.startswith(b"%PDF"):
        return _of_pdf(content)
    if start.startswith(b"PK"):
        return _of_zip(content)
    if start.startswith(b"PAR1"):
        return _of_parquet(content)
    if start.startswith((b"<svg", b"<?xml")):
        return _of_svg(content)
    if start.startswith(b"<"):
        found = _HTML.search(content)
        return found[1].decode("utf-8", "replace") if found else None
    return _of_json(content)


# --- into a file ---------------------------------------------------------------------------------


def _png(content: bytes, text: str) -> bytes:
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt(NAME, text)
    written = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.save(written, "PNG", pnginfo=info, dpi=image.info.get("dpi", (72, 72)))
    return written.getvalue()


def _svg(content: bytes, text: str) -> bytes:
    root = content.index(b">", content.index(b"<svg")) + 1
    # ASCII: XML cannot hold every character that a tweet may have, and JSON's escapes name them.
    held = f'<metadata id="{NAME}">{escape(_ascii(text))}</metadata>'.encode()
    return content[:root] + held + content[root:]


def _pdf(content: bytes, text: str) -> bytes:
    writer = pdf_writer(content)
    # ASCII: a character outside it would be written in an encoding of PDF's own.
    writer.add_metadata({_PDF_KEY: _ascii(text), "/Creator": "SentiTrace"})
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def pdf_writer(content: bytes) -> PdfWriter:
    """A PDF that can be changed."""
    import pypdf

    # vl-convert counts its objects wrongly, which pypdf would tell on every terminal.
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    return pypdf.PdfWriter(clone_from=io.BytesIO(content))


def _html(content: bytes, text: str) -> bytes:
    held = _ascii(text).replace("<", "\\u003c")
    script = f'<script type="application/json" id="{NAME}">{held}</script>'.encode()
    head = content.index(b"<head>") + len(b"<head>")
    return content[:head] + script + content[head:]


def _json(content: bytes, text: str) -> bytes:
    specification: dict[str, Any] = json.loads(content)
    specification["usermeta"] = {**specification.get("usermeta", {}), NAME: json.loads(text)}
    return json.dumps(specification, indent=1).encode()


def _ascii(text: str) -> str:
    return json.dumps(json.loads(text))


# --- out of a file -------------------------------------------------------------------------------


def _of_png(content: bytes) -> str | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            image.load()  # text may stand behind the picture
            held = image.info.get(NAME)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError("The PNG file is damaged; save it again.") from error
    return None if held is None else str(held)


def _of_pdf(content: bytes) -> str | None:
    import pypdf
    from pypdf.errors import PyPdfError

    try:
        information: Any = pypdf.PdfReader(io.BytesIO(content)).metadata or {}
        held = information.get(_PDF_KEY)
    except (PyPdfError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError("The PDF file is damaged; save it again.") from error
    return None if held is None else str(held)


def _of_zip(content: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [n for n in archive.namelist() if n.rpartition("/")[2] == SETTINGS]
            if not names:
                return None
            if archive.getinfo(names[0]).file_size > MOST_BYTES:
                raise UserError("The settings in this ZIP file are too large to be read.")
            return archive.read(names[0]).decode("utf-8")
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, UnicodeError, OSError) as error:
        raise UserError("The ZIP file is damaged; save it again.") from error


def _of_parquet(content: bytes) -> str | None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise UserError("The Parquet file is damaged; save it again.") from error
    held: bytes | None = (schema.metadata or {}).get(NAME.encode())
    return None if held is None else held.decode("utf-8", "replace")


def _of_svg(content: bytes) -> str | None:
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError("The SVG file defines entities, which are not read; save it again.")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError("The SVG file is damaged; save it again.") from error
    for node in root.iter("{http://www.w3.org/2000/svg}metadata"):
        if node.get("id") == NAME:
            return node.text
    return None


def _of_json(content: bytes) -> str | None:
    """The text inside a figure's or a table's JSON; a settings file is that text itself."""
    try:
        text = content.decode("utf-8-sig")
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("The file is neither JSON nor a file that SentiTrace saved.") from error
    if not isinstance(held, dict):
        return None
    usermeta = held.get("usermeta")
    if isinstance(usermeta, dict) and NAME in usermeta:
        return json.dumps(usermeta[NAME])
    if isinstance(held.get("recipe"), dict):
        return json.dumps(held["recipe"])
    return None if "$schema" in held and "vega" in str(held["$schema"]) else text
