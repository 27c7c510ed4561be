"""Characters that no font here has: which they are, and which font would have them."""

import sys

import altair as alt
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hand_made import make_frame

from core.charts import figures
from core.charts.renderer import Renderer
from core.exporting import figure_files, glyphs
from core.exporting.figure_files import FONTS, Paper

NOWHERE = "\U000f1234"  # of private use: a font of this machine that has it is no common one
SANS = f"{FONTS['sans'][0]}, sans-serif"


def make_font(path, *characters):
    """A font with a square for each of these characters."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [f"c{number}" for number in range(len(characters))]
    order = [".notdef", *names]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(order)
    font.setupCharacterMap({ord(c): name for c, name in zip(characters, names, strict=True)})
    font.setupGlyf(
        {name: TTGlyphPen(None).glyph() if name == ".notdef" else square for name in order}
    )
    font.setupHorizontalMetrics(dict.fromkeys(order, (900, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable(
        {"familyName": "Squares", "styleName": "Regular", "psName": "Squares-Regular"}
    )
    font.setupOS2()
    font.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    font.save(path)


def titled(title, **chart):
    return figures.trace_heatmaps(make_frame(**chart), title=title)


def test_what_no_font_has_is_lacking_until_one_has_it(tmp_path):
    asked = f"a{NOWHERE}\u2212"
    plain = Renderer()
    assert glyphs.lacking(asked, SANS, plain) == NOWHERE
    plain.stop()
    make_font(tmp_path / "squares.ttf", NOWHERE)
    with_it = Renderer([tmp_path])
    assert glyphs.lacking(asked, SANS, with_it) == ""
    with_it.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="where a person's fonts lie on Linux")
def test_a_font_that_a_person_installed_is_found(tmp_path, monkeypatch):
    make_font(tmp_path / ".local/share/fonts/squares.ttf", NOWHERE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    at_home = Renderer()
    assert glyphs.lacking(NOWHERE, SANS, at_home) == ""
    at_home.stop()


def test_blanks_and_what_has_no_shape_of_its_own_lack_nothing():
    silent = " \t\n\u00a0\u200b\u200d\ufe0f\u2800\u3164\ud800\x01"
    assert glyphs.lacking(silent, SANS, figure_files.renderer()) == ""


def test_many_at_once_are_told_apart(monkeypatch):
    monkeypatch.setattr(glyphs, "AT_ONCE", 7)
    lacking = [chr(code) for code in range(0xF0000, 0xF0000 + 10)]
    held = "abcdefghij"
    mixed = "".join(map("".join, zip(lacking, held, strict=True)))
    assert glyphs.lacking(mixed, SANS, figure_files.renderer()) == "".join(lacking)


@pytest.mark.parametrize(
    ("characters", "font"),
    [
        ("\u6016\u3042\u30ab\ud55c\u3105\u3001\uff21", "Noto Sans CJK"),
        ("\U0001fae0\u2b50\U0001f1e9", "Noto Color Emoji"),
        ("\u0e01", "Noto Sans Thai"),
        ("\u0915", "Noto Sans Devanagari"),
        ("\u0627\ufdfd", "Noto Sans Arabic"),
        ("\u10a0", "Noto Sans Georgian"),
        ("\u0f40", "Noto Serif Tibetan"),
        ("\u1c80\u1e9e\u1f00", "Noto Sans"),
        ("\U0001d504\u2a0c", "Noto Sans Math"),
        ("\U0001d11e", "Noto Music"),
        ("\u25a0\u283f", "Noto Sans Symbols 2"),
        (NOWHERE, "in no common font"),
    ],
)
def test_each_script_has_its_font(characters, font):
    assert {glyphs.font_for(character) for character in characters} == {font}


def test_one_sentence_says_which_and_where_they_are():
    assert glyphs.sentence("") == ""
    assert glyphs.sentence("\u6016") == (
        "In PNG and PDF this character is a box, since no font on this machine has it: \u6016 "
        "(Noto Sans CJK). Install the font named and start SentiTrace again, or save as SVG or "
        "HTML, which use the fonts of whoever opens them."
    )
    said = glyphs.sentence("\u6016\u0e01\u3044\ue000")
    assert "these characters are boxes" in said
    assert "\u6016\u3044 (Noto Sans CJK), \u0e01 (Noto Sans Thai), <U+E000> (in no common" in said
    many = glyphs.sentence("".join(map(chr, range(0x4E00, 0x4E00 + glyphs.SHOWN + 5))))
    assert f"{chr(0x4E00 + glyphs.SHOWN - 1)} and 5 more (Noto Sans CJK)" in many


@pytest.mark.parametrize("paper", [None, Paper("serif")])
@pytest.mark.parametrize("form", figure_files.MIME)
def test_a_figure_says_what_it_lacks_where_it_is_a_picture(form, paper):
    """In tokens, which stand in expressions; a paper's figure has no title."""
    in_token = chr(ord(NOWHERE) + 1)
    chart = titled(NOWHERE, tokens=("a", f"b{in_token}", "c"), layers=2)
    said = figure_files.figure(chart, form, paper=paper).boxes
    if form not in ("png", "pdf"):
        assert not said
        return
    assert f"<U+{ord(in_token):04X}>" in said
    assert (f"<U+{ord(NOWHERE):04X}>" in said) == (paper is None)


def test_most_figures_lack_nothing_and_are_not_drawn_to_know_it(monkeypatch):
    def drawn(*arguments, **options):
        pytest.fail("drawn again")

    monkeypatch.setattr(figure_files.renderer(), "draw", drawn)
    assert figure_files.boxes(titled("Plain \u201cwords\u201d \u2212 caf\u00e9 \u00b7")) == ""


def test_what_stands_in_tooltips_alone_is_not_lacking():
    chart = (
        alt.Chart(alt.InlineData([{"x": 1, "hint": NOWHERE}]))
        .mark_bar()
        .encode(x="x:Q", tooltip="hint:N")
    )
    assert figure_files.boxes(chart) == ""
    assert figure_files.boxes(chart.properties(title=NOWHERE))


def test_the_sentence_lists_what_the_renderer_lacks_and_nothing_else():
    """Whatever fonts this machine has."""
    some = f"\u05d0\u0627\u21b5\u21e5\U0001f621\u6016\u0e01{NOWHERE}"
    lacking = glyphs.lacking(some, SANS, figure_files.renderer())
    assert NOWHERE in lacking
    said = figure_files.boxes(titled(some))
    assert said == glyphs.sentence("".join(sorted(lacking)))
