"""A view taken away whole: a ZIP whose every file can be opened, and that says how to repeat it."""

import io
import json
import zipfile

import pandas as pd
import pytest
from hand_made import TOKENS, make_frame
from PIL import Image

from core.charts import figures
from core.exporting import embedded_settings
from core.exporting.bundle import AGAIN, bundle, file_name
from core.exporting.figure_files import Paper

RECIPE = json.dumps({"schema": "x", "tweet": "caf\u00e9 <b> \U0001f600"})


@pytest.fixture(scope="module")
def archive():
    frame = make_frame()
    chart = figures.trace_heatmaps(frame, unit="log-odds", title="T", caption="C")
    content = bundle(
        {"Trace": chart}, {"All cells": frame}, caption="What a cell is.", recipe=RECIPE
    )
    return zipfile.ZipFile(io.BytesIO(content)), content


def test_it_holds_figures_tables_caption_settings_citation_and_the_command(archive):
    files, _ = archive
    assert set(files.namelist()) == {
        *(f"figures/trace.{form}" for form in ("png", "svg", "pdf", "html", "json")),
        *(f"data/all-cells.{form}" for form in ("csv", "parquet", "json")),
        *("caption.txt", "settings.json", "CITATION.bib", "README.txt"),
    }
    assert files.testzip() is None
    assert files.read("caption.txt").decode() == "What a cell is.\n"
    assert AGAIN in files.read("README.txt").decode()
    assert "meng2022locating" in files.read("CITATION.bib").decode()
    assert json.loads(files.read("settings.json")) == json.loads(RECIPE)


def test_every_file_in_it_but_csv_holds_the_settings(archive):
    files, content = archive
    for name in files.namelist():
        if name.startswith(("figures/", "data/")) and not name.endswith(".csv"):
            assert json.loads(embedded_settings.read(files.read(name)) or "") == json.loads(
                RECIPE
            ), name
    assert json.loads(embedded_settings.read(content) or "") == json.loads(RECIPE)


def test_its_tables_hold_equal_numbers_and_its_figure_all_tokens(archive):
    files, _ = archive
    frame = make_frame()
    table = pd.read_parquet(io.BytesIO(files.read("data/all-cells.parquet")))
    pd.testing.assert_frame_equal(table, frame)
    assert json.loads(files.read("data/all-cells.json"))["rows"][3]["effect"] == frame.effect[3]
    assert pd.read_csv(io.BytesIO(files.read("data/all-cells.csv"))).effect.tolist() == list(
        frame.effect
    )
    svg = files.read("figures/trace.svg").decode()
    assert all(token in svg for token in TOKENS)
    with Image.open(io.BytesIO(files.read("figures/trace.png"))) as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 50


def test_the_same_view_is_the_same_file():
    frame = make_frame()
    once, again = (bundle({}, {"cells": frame}, caption="c", recipe=RECIPE) for _ in range(2))
    assert once == again


def test_without_settings_it_promises_no_command():
    files = zipfile.ZipFile(io.BytesIO(bundle({}, {"t": make_frame()}, caption="")))
    assert "settings.json" not in files.namelist()
    assert "core run" not in files.read("README.txt").decode()


def test_for_a_paper_the_caption_stands_outside_the_figure():
    chart = figures.trace_heatmaps(make_frame(), title="Title", caption="Caption")
    files = zipfile.ZipFile(
        io.BytesIO(bundle({"f": chart}, {}, caption="Caption", paper=Paper("sans", "one")))
    )
    svg = files.read("figures/f.svg").decode()
    assert ">Title<" not in svg
    assert ">Caption<" not in svg
    width = float(svg.partition('width="')[2].partition('pt"')[0])
    assert width == pytest.approx(240, abs=1.5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Trace", "trace"),
        ("../../etc/passwd", "etc-passwd"),
        ("MLP & attention: 30 layers", "mlp-attention-30-layers"),
        ("\U0001f600", "view"),
        ("x" * 200, "x" * 60),
    ],
)
def test_names_are_files_on_any_system(name, expected):
    assert file_name(name) == expected
