"""What each page saves, opened: pixels that are not blank; titles, legends and tokens as text."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pypdf
import pypdfium2
import pytest
import vl_convert
from click.testing import CliRunner
from PIL import Image
from streamlit.testing.v1 import AppTest
from tiny_held import tweets_with_neutral_ones
from tiny_world import WRONG, keep_model, keep_tweets, own_queue

from core import session
from core.__main__ import main
from core.export import FONTS, Paper, figure_bytes
from core.recipes import Recipe, read_recipes
from core.session import saving

ROOT = Path(session.__file__).parents[2]
PATIENCE = 120.0
TWEET = "terrible day \U0001f621 bad <b>&"
ALPHABET = re.compile(r"[^a-z0-9]+")


@pytest.fixture(autouse=True)
def small_world(own_home):
    """A cache folder that holds a tiny "gpt2" and a few tweets, and a queue of this test alone."""
    keep_model(layers=3)
    keep_tweets(ratings=WRONG)
    with own_queue():
        yield


@pytest.fixture
def saved(monkeypatch):
    """What the pages that are drawn offer to save: key -> (charts, tables, caption, settings)."""
    offered = {}
    draw = saving._choices

    def choices(key, charts, tables, caption, settings):
        made = {name: saving.drawn(chart) for name, chart in charts.items()}
        offered[key] = (made, tables, caption, settings)
        draw(key, charts, tables, caption, settings)

    monkeypatch.setattr(saving, "_choices", choices)
    return offered


def open_page(name: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=60).run()
    assert not page.exception
    return page


def finish(page: AppTest, slot: str) -> AppTest:
    page.session_state[f"job:{slot}"].wait(PATIENCE)
    page.run()
    assert not page.exception
    return page


def traced() -> AppTest:
    page = open_page("trace")
    page.text_area("tweet").set_value(TWEET).run()
    page.slider("samples").set_value(2)
    page.button("run").click().run()
    return finish(page, "trace")


def looked_at(chart, *words: str, paper: Paper | None = None) -> None:
    """Open a chart's PNG, SVG and PDF: something is drawn, and the words are there as text."""
    png = figure_bytes(chart, "png", paper=paper)
    svg = figure_bytes(chart, "svg", paper=paper)
    pdf = figure_bytes(chart, "pdf", paper=paper)
    drawn = [
        Image.open(io.BytesIO(png)),
        Image.open(io.BytesIO(vl_convert.svg_to_png(svg.decode(), scale=1.0))),
        pypdfium2.PdfDocument(pdf)[0].render(scale=1.0).to_pil(),
    ]
    shapes = [image.width / image.height for image in drawn]
    assert shapes == pytest.approx([shapes[0]] * 3, rel=0.03)
    for image in drawn:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        inked = (np.abs(pixels.astype(int) - pixels[0]).max(axis=1) > 40).mean()
        assert 0.003 < inked < 0.9  # neither blank nor black
        assert len(np.unique(pixels // 16, axis=0)) > 5
    nodes = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    in_svg = ["".join(node.itertext()) for node in nodes]
    in_pdf = ALPHABET.sub("", pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text().lower())
    for word in words:
        assert any(word in text for text in in_svg), word
        assert ALPHABET.sub("", word.lower()) in in_pdf, word
    assert b"@font-face" in svg
    fonts = {name.replace(" ", "").encode() for name, _ in FONTS.values()}
    assert any(font in pdf for font in fonts)


def test_the_trace_page(saved):
    page = traced()
    result = page.session_state["job:trace"].progress().partial
    charts, tables, caption, settings = saved["trace"]
    titles = ("Hidden state", "MLP", "Attention", "terrible day", "change in")
    for chart in charts.values():
        looked_at(chart, *result.tokens, *titles)
    assert "noise samples" in caption
    assert len(next(iter(tables.values()))) > 0
    assert settings is not None
    looked_at(next(iter(charts.values())), *result.tokens, "MLP", paper=Paper("serif", "two", True))


def test_the_probes_page(saved):
    page = open_page("probes")
    page.toggle("controls").set_value(False)
    page.button("train").click().run()
    finish(page, "probe")
    charts, tables, _, _ = saved["probe"]
    assert {"Confusion", "Calibration", "ROC"} <= set(charts)
    looked_at(charts["Confusion"], "the probe says", "positive", "negative")
    for name in ("ROC", "Calibration"):
        assert b"<text" in figure_bytes(charts[name], "svg")
    assert {"summary", "scores", "roc"} <= set(tables)


def test_the_compare_page(saved):
    page = open_page("compare")
    page.text_area("tweet").set_value(TWEET)
    page.slider("compare:samples").set_value(2)
    page.button("compare:run").click().run()
    finish(page, "compare")
    charts, tables, _, settings = saved["compare"]
    tokens = page.session_state["job:compare"].progress().partial[0].result.tokens
    looked_at(charts["Comparison"], *tokens, "Hidden state, gpt2", "gpt2, untrained", "change in")
    assert set(tables) == {"Models", "Sites", "Cells"}
    assert len(read_recipes(settings.encode())) == 2
    assert len(read_recipes(saved["compare difference"][3].encode())) == 2


def test_the_average_page(saved):
    open_page("average")  # opens with the numbers that come with SentiTrace
    drawn = {name: chart for charts, *_ in saved.values() for name, chart in charts.items()}
    assert set(drawn) == {"Roles by layers", "Effects by layer"}
    for chart in drawn.values():
        looked_at(chart, "Hidden state", "MLP", "Attention", "layer", "Last token")
    assert all(caption for _, _, caption, _ in saved.values())
    assert all(len(table) for _, tables, *_ in saved.values() for table in tables.values())


def test_the_interventions_page(saved, own_home):
    keep_tweets(*tweets_with_neutral_ones())
    page = open_page("interventions")
    page.text_area("tweet").set_value("My flight got cancelled, terrible service")
    page.segmented_control("intervention:what").set_value("steer").run()
    for key, value in (("controls", 1), ("texts", 5), ("samples", 2)):
        page.slider(f"intervention:{key}").set_value(value)
    page.button("intervene").click().run()
    finish(page, "intervention")
    assert not page.error
    charts = {name: chart for held, *_ in saved.values() for name, chart in held.items()}
    looked_at(charts["Trace before"], "cancelled", "terrible", "Hidden state", "layer")
    looked_at(charts["Trace after"], "cancelled", "terrible", "Hidden state", "layer")
    for name in ("How far the log-odds move", "How many texts change sides", "What it costs"):
        looked_at(charts[name])


def test_a_recipe_from_the_browser_gives_equal_numbers_on_the_command_line(saved, tmp_path):
    page = traced()
    result = page.session_state["job:trace"].progress().partial
    settings = tmp_path / "settings.json"
    settings.write_text(saved["trace"][3])
    out = tmp_path / "cells.parquet"
    done = CliRunner().invoke(main, ["run", str(settings), "--anew", "--out", str(out)])
    assert done.exit_code == 0, done.output
    again = pd.read_parquet(out)
    numbers = ["kind", "layer", "position", "effect", "standard_error", "samples", "trivial"]
    pd.testing.assert_frame_equal(again[numbers], result.frame()[numbers], check_dtype=False)


# --- coming back ---------------------------------------------------------------------------------


def test_a_saved_figure_brings_its_trace_back_to_the_page(saved):
    page = traced()
    result = page.session_state["job:trace"].progress().partial
    chart = next(iter(saved["trace"][0].values()))
    figure = figure_bytes(chart, "png", recipe=saved["trace"][3])
    page = open_page("trace")
    page.file_uploader("open:trace:file").upload("trace.png", figure, "image/png").run()
    finish(page, "trace")
    again = page.session_state["job:trace"].progress().partial
    assert page.text_area("tweet").value == result.prompt.tweet
    pd.testing.assert_frame_equal(again.frame(), result.frame())
    assert Recipe.of(again) == Recipe.of(result)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b"{}", "holds no recipe|is no recipe of a trace"),
        ("a.json", b'{"schema": "sentitrace recipe", "version": 99}', "update SentiTrace"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(name, content, sentence):
    page = open_page("trace")
    page.file_uploader("open:trace:file").upload(name, content, "application/json").run()
    assert not page.exception
    assert re.search(sentence, page.error[0].value.replace("\\", ""))


def test_an_address_is_not_a_path_of_the_server():
    page = open_page("trace")
    page.text_input("open:trace:address").set_value("/etc/passwd").run()
    assert "does not begin with" in page.error[0].value.replace("\\", "")


def test_buttons_of_a_view_are_there_once(saved):
    page = traced()
    keys = [button.key for button in page.get("download_button")]
    assert len(keys) == len(set(keys))
    assert {"save:trace:zip", "save:trace:settings"} <= set(keys)
    toggled = page.toggle("save:trace:paper").set_value(True).run()
    assert not toggled.exception
    assert json.loads(saved["trace"][3])["schema"] == "sentitrace recipe"
