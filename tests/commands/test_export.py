"""`python -m core export | figures`: a saved figure in other forms, the original figures anew."""

import json

import pypdf
import pytest
from hand_made import TOKENS, make_frame
from PIL import Image
from shell import run
from tiny_models import save_folder
from tiny_world import keep_tweets

from core.charts.figures import trace_heatmaps
from core.exporting.figure_files import figure_bytes
from core.exporting.recipe import read_recipes

RECIPE = json.dumps({"schema": "x"})


@pytest.fixture
def figure(tmp_path):
    path = tmp_path / "trace.json"
    chart = trace_heatmaps(make_frame(), title="Title", caption="Caption")
    path.write_bytes(figure_bytes(chart, "json", recipe=RECIPE))
    return path


def test_a_saved_figure_is_drawn_in_other_forms_with_its_settings(figure, tmp_path):
    svg, pdf = tmp_path / "a.svg", tmp_path / "a.pdf"
    done = run("export", figure, "--out", svg, "--out", pdf, "--columns", "one")
    assert done.exit_code == 0, done.output
    assert all(token in svg.read_text() for token in TOKENS)
    assert ">Title<" not in svg.read_text()
    (page,) = pypdf.PdfReader(pdf).pages
    assert float(page.mediabox.width) == pytest.approx(240, abs=1.5)
    assert json.loads(run("export", pdf, "--recipe").stdout) == json.loads(RECIPE)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{}", "is no Vega-Lite figure"),
        (b"\x89PNG", "damaged"),
        (b'{"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "mark": 3}', "Vega-Lite"),
        (
            b'{"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "mark": "bar",'
            b' "data": {"url": "http://127.0.0.1:9/x.csv"}, "encoding": {}}',
            "asks for data that are not in it",
        ),
    ],
)
def test_what_is_no_figure_ends_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "figure.json"
    path.write_bytes(content)
    done = run("export", path, "--out", tmp_path / "a.svg")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a.svg").exists()


def test_nothing_to_do_is_told(figure):
    assert "There is nothing to do" in run("export", figure).stderr
    assert "cannot be read" in run("export", figure.with_name("no.json"), "--recipe").stderr


def test_the_original_figures_are_drawn_by_one_command(own_home, tmp_path):
    texts = [f"{word} day number {n}" for n in range(20) for word in ("great", "awful")]
    keep_tweets(texts, [2.0, -2.0] * 20)
    model, folder = save_folder(tmp_path / "model", "gpt2", layers=2), tmp_path / "figures"
    done = run("figures", "--model", model, "--text", "bad day", "--samples", 2, "--folder", folder)
    assert done.exit_code == 0, done.output
    names = ("figure-1-hidden", "figure-2-mlp", "figure-3-attn", "figures-1-to-3")
    assert {path.name for path in folder.iterdir()} >= {
        *(f"{name}.{form}" for name in names for form in ("png", "svg", "pdf")),
        *("settings.json", "cells.csv"),
    }
    svg = (folder / "figure-2-mlp.svg").read_text()
    assert "Figure 2: toy statement causal trace (MLP)" in svg
    assert "Attention" not in svg.replace("MLP and Attention", "")
    with Image.open(folder / "figure-3-attn.png") as image:
        assert image.width > 600
    (recipe,) = read_recipes((folder / "figure-1-hidden.pdf").read_bytes())
    assert recipe.probe.features == "probabilities"
    assert recipe.text == "bad day"
