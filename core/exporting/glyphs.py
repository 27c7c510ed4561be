"""Which characters of a figure has no font on this machine, and which font would have them?

A PNG and a PDF are drawn with the fonts that come along and those of this machine; a character that
none of them has is drawn as a box. What the renderer finds differs between systems and depends on
its own rules of replacing one font by another, so that it is asked itself: it draws the characters,
and one that looks like a code point which is no character is a box.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import quoteattr

import regex  # type: ignore[import-untyped]

from ..charts.renderer import Renderer, legible

CELL = 48  # pixels: a square that a letter of 20 pixels stands in, most wholly
AT_ONCE = 400  # characters of one picture
SHOWN = 12  # of one font's characters, in a sentence
NOBODY = "\U0001ffff"  # no character now or ever, and so in no font

_UNSEEN = regex.compile(r"[\s\p{Cc}\p{Cf}\p{Cs}\p{DI}\u2800]")
_EMOJI = regex.compile(r"\p{Extended_Pictographic}|\p{Emoji_Presentation}")
_CJK = ("Han", "Hiragana", "Katakana", "Bopomofo", "Hangul")
_CJK_BLOCKS = regex.compile(
    r"CJK|Kanbun|Ideographic|Halfwidth and Fullwidth|Vertical Forms|Small Form Variants"
)
_SERIF_ALONE = (
    *("Ahom", "Dives Akuru", "Dogra", "Khitan Small Script", "Makasar", "Nyiakeng Puachue Hmong"),
    *("Old Uyghur", "Tangut", "Tibetan", "Todhri", "Toto", "Yezidi"),
)
"""Scripts of which there is a Noto Serif and no Noto Sans."""

LACKING = (
    "In PNG and PDF {these_are}, since no font on this machine has {them}: {which}. "
    "Install the font named and start SentiTrace again, or save as SVG or HTML, which use the "
    "fonts of whoever opens them."
)


def lacking(characters: Iterable[str], font: str, renderer: Renderer) -> str:
    """Those that are drawn as boxes, in their order.

    Args:
        font: families as CSS names them, the first that the renderer knows being used.

    Raises:
        NotDrawn: the renderer cannot be asked.
    """
    asked = [c for c in dict.fromkeys(characters) if not _UNSEEN.match(c) and legible(c) == c]
    return "".join(
        character
        for start in range(0, len(asked), AT_ONCE)
        for character in _boxes(asked[start : start + AT_ONCE], font, renderer)
    )


def _boxes(characters: list[str], font: str, renderer: Renderer) -> list[str]:
    import numpy as np
    from PIL import Image

    drawn = [NOBODY, *characters]
    cells = "".join(
        # An inner picture cuts off what a wide letter would put into its neighbour's place.
        f'<svg x="{place * CELL}" width="{CELL}" height="{CELL}">'
        f'<text x="12" y="32" font-size="20px" font-family={quoteattr(font)}>'
        f"&#{ord(character)};</text></svg>"
        for place, character in enumerate(drawn)
    )
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{CELL * len(drawn)}" height="{CELL}">'
        f"{cells}</svg>"
    )
    with Image.open(io.BytesIO(renderer.draw("png of svg", picture, scale=1.0))) as image:
        pixels = np.asarray(image.convert("RGBA"))
    box, *seen = np.split(pixels, len(drawn), axis=1)
    return [
        character
        for character, cell in zip(characters, seen, strict=True)
        if np.array_equal(cell, box) or not cell.any()
    ]


def sentence(characters: str) -> str:
    """What to tell whoever saves a figure that lacks these; empty where it lacks none."""
    if not characters:
        return ""
    of_font: dict[str, list[str]] = {}
    for character in characters:
        of_font.setdefault(font_for(character), []).append(character)
    one = len(characters) == 1
    return LACKING.format(
        these_are="this character is a box" if one else "these characters are boxes",
        them="it" if one else "them",
        which=", ".join(f"{_listed(some)} ({font})" for font, some in of_font.items()),
    )


def _listed(characters: list[str]) -> str:
    more = len(characters) - SHOWN
    shown = (c if c.isprintable() else f"<U+{ord(c):04X}>" for c in characters[:SHOWN])
    return "".join(shown) + (f" and {more} more" if more > 0 else "")


def font_for(character: str) -> str:
    """A free font that has it: one of the Noto family, which is split by scripts."""
    from fontTools import unicodedata

    script = unicodedata.script_name(unicodedata.script(character)).replace("_", " ")
    block = unicodedata.block(character)
    if script in _CJK or _CJK_BLOCKS.search(block):
        return "Noto Sans CJK"
    if _EMOJI.match(character):
        return "Noto Color Emoji"
    if script in ("Latin", "Greek", "Cyrillic"):
        return "Noto Sans"
    if script == "Unknown":
        return "in no common font"
    if script in ("Common", "Inherited", "Braille"):
        named: Mapping[str, str] = {"Mathematical": "Noto Sans Math", "Musical": "Noto Music"}
        return next((font for part, font in named.items() if part in block), "Noto Sans Symbols 2")
    return f"Noto {'Serif' if script in _SERIF_ALONE else 'Sans'} {script}"
