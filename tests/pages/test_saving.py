"""What each page saves, opened: pixels that are not blank; titles, legends and tokens as text."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pypdf
import pypdfium2
import pytest
import vl_convert
from PIL import Image
from shell import run
from small_pages import ended, open_page, outcome, run_trace
from streamlit.testing.v1 import AppTest
from svg import texts_of
from tiny_held import tweets_with_neutral_ones
from tiny_world import WRONG, keep_probe, keep_tweets, small_world

from core.charts import average, figures, intervention
from core.charts import comparison as comparison_charts
from core.dashboard import saving
from core.exporting.figure_files import FONTS, Paper, figure_bytes
from core.exporting.recipe import Recipe, Recipes, read_recipes

TWEET = "terrible day \U0001f621 bad\x01 <b>&"  # a control character ended the process once
ALPHABET = re.compile(r"[^a-z0-9]+")


@pytest.fixture(autouse=True)
def world(own_home):
    with small_world(layers=3, ratings=WRONG, trained=True):
        yield


EXPORT_ONLY = [  # what draws for a file alone; a screen has panels of its own
    (figures, "trace_heatmaps"),
    (comparison_charts, "panels"),
    (average, "heatmap_figure"),
    (average, "line_figure"),
    (intervention, "layer_curves"),
]


class Offers(dict):
    """What pages offer to save: key -> makers of charts, makers of tables, caption, recipe."""

    made: list[str]

    def all(self, *drawers: str) -> dict[str, tuple]:
        """Make everything, of which the pages made nothing, by these drawers and no others."""
        assert self
        assert self.made == []
        found = {
            key: (
                {name: chart() for name, chart in charts.items()},
                {name: table() for name, table in tables.items()},
                caption,
                None if recipe is None else recipe().to_json(),
            )
            for key, (charts, tables, caption, recipe) in self.items()
        }
        assert set(self.made) == {"part", *drawers}
        return found


@pytest.fixture
def offers(monkeypatch):
    offered, draw = Offers(), saving._choices
    offered.made = []

    def noting(name, make):
        return lambda *args, **options: (offered.made.append(name), make(*args, **options))[1]

    for module, drawer in EXPORT_ONLY:
        monkeypatch.setattr(module, drawer, noting(drawer, getattr(module, drawer)))
    for recipe in (Recipe, Recipes):
        monkeypatch.setattr(recipe, "of", noting("recipe", recipe.of))

    def choices(key, charts, tables, caption, recipe, share):
        parts = [
            {name: noting("part", make) for name, make in of.items()} for of in (charts, tables)
        ]
        offered[key] = (*parts, caption, recipe)
        draw(key, *offered[key], share)

    monkeypatch.setattr(saving, "_choices", choices)
    return offered


def finish(page: AppTest, slot: str) -> AppTest:
    assert not ended(page, slot).exception
    return page


def traced() -> AppTest:
    page = run_trace(open_page("trace"), TWEET)
    assert not page.exception
    return page


def looked_at(chart, *words: str) -> None:
    """Open a chart's SVG: something is drawn, and the words are there as text."""
    svg = figure_bytes(chart, "svg")
    inked(Image.open(io.BytesIO(vl_convert.svg_to_png(svg.decode(), scale=1.0))))
    in_svg = texts_of(svg)
    for word in words:
        assert any(word in text for text in in_svg), word


def inked(image: Image.Image) -> float:
    """The shape of an image, which is neither blank nor black."""
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert 0.003 < (np.abs(pixels.astype(int) - pixels[0]).max(axis=1) > 40).mean() < 0.9
    assert len(np.unique(pixels // 16, axis=0)) > 5
    return image.width / image.height


def looked_at_in_every_form(chart, *words: str, paper: Paper | None = None) -> None:
    """One library draws all forms of a specification: one chart of a page is enough."""
    png = figure_bytes(chart, "png", paper=paper)
    svg = figure_bytes(chart, "svg", paper=paper)
    pdf = figure_bytes(chart, "pdf", paper=paper)
    shapes = [
        inked(Image.open(io.BytesIO(png))),
        inked(Image.open(io.BytesIO(vl_convert.svg_to_png(svg.decode(), scale=1.0)))),
        inked(pypdfium2.PdfDocument(pdf)[0].render(scale=1.0).to_pil()),
    ]
    assert shapes == pytest.approx([shapes[0]] * 3, rel=0.03)
    in_svg = texts_of(svg)
    in_pdf = ALPHABET.sub("", pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text().lower())
    for word in words:
        assert any(word in text for text in in_svg), word
        assert ALPHABET.sub("", word.lower()) in in_pdf, word
    assert b"@font-face" in svg
    fonts = {name.replace(" ", "").encode() for name, _ in FONTS.values()}
    assert any(font in pdf for font in fonts)


def test_the_trace_page(offers):
    page = traced()
    result = outcome(page, "trace").result
    charts, tables, caption, settings = offers.all("trace_heatmaps", "recipe")["trace"]
    titles = ("Hidden state", "MLP", "Attention", "terrible day", "change in")
    first, *others = charts.values()
    for chart in others:
        looked_at(chart, *result.tokens, *titles)
    assert "noise samples" in caption
    assert len(next(iter(tables.values()))) > 0
    assert settings is not None
    looked_at_in_every_form(first, *result.tokens, *titles)
    looked_at_in_every_form(first, *result.tokens, "MLP", paper=Paper("serif", "two", True))


def test_the_probes_page(offers):
    page = open_page("probes")
    page.toggle("controls").set_value(False)
    page.button("train").click().run()
    finish(page, "probe")
    charts, tables, _, _ = offers.all()["probe"]  # a file has the screen's, in other colours
    assert {"Confusion matrix", "Calibration", "ROC"} <= set(charts)
    matrix = charts["Confusion matrix"]
    looked_at_in_every_form(matrix, "predicted", "positive", "negative")
    for name in ("ROC", "Calibration"):
        assert b"<text" in figure_bytes(charts[name], "svg")
    assert {"summary", "scores", "roc"} <= set(tables)


def test_the_compare_page(offers):
    page = open_page("compare")
    page.text_area("tweet").set_value(TWEET)
    page.slider("compare:samples").set_value(2)
    page.button("compare:run").click().run()
    finish(page, "compare")
    saved = offers.all("panels", "recipe")
    charts, tables, _, settings = saved["compare"]
    tokens = outcome(page, "compare")[0].result.tokens
    words = (*tokens, "Hidden state, gpt2", "gpt2, untrained", "change in")
    looked_at_in_every_form(charts["Comparison"], *words)
    assert set(tables) == {"Models", "Sites", "Cells"}
    assert len(read_recipes(settings.encode())) == 2
    assert len(read_recipes(saved["compare difference"][3].encode())) == 2


def test_the_average_page(offers):
    open_page("average")  # opens with the numbers that come with SentiTrace
    saved = offers.all("heatmap_figure", "line_figure")
    drawn = {name: chart for charts, *_ in saved.values() for name, chart in charts.items()}
    assert set(drawn) == {"Roles by layers", "Effects by layer"}
    words = ("Hidden state", "MLP", "Attention", "layer", "Last token")
    looked_at_in_every_form(drawn["Roles by layers"], *words)
    looked_at(drawn["Effects by layer"], *words)
    assert all(caption for _, _, caption, _ in saved.values())
    assert all(len(table) for _, tables, *_ in saved.values() for table in tables.values())


def test_the_interventions_page(offers):
    keep_tweets(*tweets_with_neutral_ones())
    keep_probe()
    page = open_page("interventions")
    page.text_area("tweet").set_value("My flight got cancelled, terrible service")
    page.segmented_control("intervention:what").set_value("steer").run()
    for key, value in (("controls", 1), ("texts", 5), ("samples", 2)):
        page.slider(f"intervention:{key}").set_value(value)
    page.button("intervene").click().run()
    finish(page, "intervention")
    assert not page.error
    charts = {}
    for made, *_ in offers.all("trace_heatmaps").values():
        charts |= made
    words = ("cancelled", "terrible", "Hidden state", "layer")
    looked_at_in_every_form(charts["Trace before"], *words)
    looked_at(charts["Trace after"], *words)
    for title in ("Shift of the log-odds", "Texts that flip or keep their side"):
        looked_at(charts[title])
    looked_at(charts["Cost in perplexity"])


def test_a_recipe_from_the_browser_gives_equal_numbers_on_the_command_line(offers, tmp_path):
    page = traced()
    result = outcome(page, "trace").result
    settings = tmp_path / "settings.json"
    settings.write_text(offers["trace"][3]().to_json())
    out = tmp_path / "cells.parquet"
    done = run("run", settings, "--anew", "--out", out)
    assert done.exit_code == 0, done.output
    again = pd.read_parquet(out)
    numbers = ["kind", "layer", "position", "effect", "standard_error", "samples", "trivial"]
    pd.testing.assert_frame_equal(again[numbers], result.frame()[numbers], check_dtype=False)


# --- coming back ---------------------------------------------------------------------------------


def test_a_saved_figure_brings_its_trace_back_to_the_page(offers):
    page = traced()
    result = outcome(page, "trace").result
    charts, _, _, recipe = offers["trace"]
    chart = next(iter(charts.values()))()
    figure = figure_bytes(chart, "png", recipe=recipe().to_json())
    page = open_page("trace")
    page.file_uploader("open:trace:file").upload("trace.png", figure, "image/png").run()
    finish(page, "trace")
    again = outcome(page, "trace").result
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


def test_buttons_of_a_view_are_there_once(offers):
    page = traced()
    keys = [button.key for button in page.get("download_button")]
    assert len(keys) == len(set(keys))
    assert {"save:trace:zip", "save:trace:settings"} <= set(keys)
    toggled = page.toggle("save:trace:paper").set_value(True).run()
    assert not toggled.exception
    assert json.loads(offers["trace"][3]().to_json())["schema"] == "sentitrace recipe"
