"""Files that leave the program: whole, in the form that their ending names, with the words in."""

import json
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pypdf
import pytest
from hand_made import TOKENS, make_frame
from PIL import Image
from svg import texts_of

import core
from core.charts import figures
from core.exporting import figure_files

TITLE, CAPTION = "What was traced & why", "What a cell is, its unit, n and settings."


@pytest.fixture(scope="module")
def chart():
    return figures.trace_heatmaps(make_frame(), unit="log-odds", title=TITLE, caption=CAPTION)


def test_png_is_twice_the_size_of_the_figure_and_not_blank(chart, tmp_path):
    figure_files.export_figure(chart, tmp_path / "figure.png")
    svg = ElementTree.fromstring(figure_files.figure_bytes(chart, "svg"))
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx(2 * float(svg.attrib["width"]), abs=2)
        assert image.height == pytest.approx(2 * float(svg.attrib["height"]), abs=2)
        colours = image.convert("RGB").getcolors(maxcolors=2**24)
    assert len(colours) > 50
    orange = [n for n, (red, green, blue) in colours if red > 120 and blue < 60]
    assert sum(orange) > 1000  # effects towards negative


def test_svg_holds_every_token_the_title_and_the_caption_as_text(chart, tmp_path):
    path = core.export_figure(chart, tmp_path / "figure.svg")
    words = texts_of(path.read_text(encoding="utf-8"))
    for token in TOKENS:
        assert sum(token in word for word in words) >= 1
    assert "\u00b7terrible *" in words
    assert "\u00b7feeling" in words
    assert TITLE in words
    assert CAPTION in words
    assert {"Hidden state", "MLP", "Attention"} <= set(words)
    assert any("change in log-odds" in word for word in words)


def test_pdf_holds_the_tokens_as_text(chart, tmp_path):
    path = figure_files.export_figure(chart, tmp_path / "figure.pdf")
    (page,) = pypdf.PdfReader(path).pages
    text = page.extract_text()
    for word in ("terrible", "feeling", TITLE, "Hidden state"):
        assert word in text


def test_html_needs_no_network(chart, tmp_path):
    page = figure_files.export_figure(chart, tmp_path / "figure.html").read_text(encoding="utf-8")
    assert "terrible" in page
    assert 'src="http' not in page
    assert "https://cdn" not in page


def test_json_is_the_specification(chart, tmp_path):
    path = figure_files.export_figure(chart, tmp_path / "figure.json")
    assert json.loads(path.read_text(encoding="utf-8")) == chart.to_dict()


@pytest.mark.parametrize("name", ["figure.PNG", "figure.Svg"])
def test_the_case_of_the_ending_does_not_matter(chart, tmp_path, name):
    assert figure_files.export_figure(chart, tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize("name", ["figure", "figure.jpg", "figure.png.zip", ".png"])
def test_an_ending_that_names_no_form_is_refused(chart, tmp_path, name):
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf, \.html, \.json"):
        figure_files.export_figure(chart, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_form_that_is_none_is_refused(chart):
    with pytest.raises(ValueError, match="'gif'.*png, svg, pdf, html, json"):
        figure_files.figure_bytes(chart, "gif")


def test_what_stood_there_stays_when_rendering_fails(chart, tmp_path, monkeypatch):
    path = tmp_path / "figure.svg"
    path.write_text("the earlier figure")

    def fail(chart, form, **options):
        raise RuntimeError("the renderer broke")

    monkeypatch.setattr(figure_files, "figure_bytes", fail)
    with pytest.raises(RuntimeError):
        figure_files.export_figure(chart, path)
    assert path.read_text() == "the earlier figure"
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.svg"]


def test_nothing_half_written_stays_when_writing_fails(chart, tmp_path, monkeypatch):
    path = tmp_path / "figure.png"

    def full_disk(self, content):
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        figure_files.export_figure(chart, path)
    assert not list(tmp_path.iterdir())


def test_text_of_a_tweet_is_text_in_every_form():
    title = "<script>alert(1)</script> & \"quotes\" 'too'"
    chart = figures.trace_heatmaps(
        make_frame(tokens=("<b>", "&amp;", '"', "'", "]]>", "--", "</svg>")), title=title
    )
    words = texts_of(figure_files.figure_bytes(chart, "svg"))
    assert title in words
    assert "</svg>" in words
    with Image.open(BytesIO(figure_files.figure_bytes(chart, "png"))) as image:
        assert image.width > 100
    page = figure_files.figure_bytes(chart, "html").decode()
    assert "<script>alert(1)" not in page
    assert page.count("</svg>") == figure_files.figure_bytes(plain_chart(), "html").decode().count(
        "</svg>"
    )
    assert r"\u003cscript>alert(1)\u003c/script>" in page


def plain_chart():
    return figures.trace_heatmaps(make_frame())
