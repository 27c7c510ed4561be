"""What else is drawn of a trace, judged by specification and by what a renderer makes of it."""

import json

import numpy as np
import pandas as pd
import pytest
from svg import drawn, texts_of

from core.charts import trace
from core.charts.style import CHOSEN
from core.exporting.figure_files import specification

UNIT = "log-odds"
REACH = 0.4


def with_reach(**columns):
    frame = pd.DataFrame(columns)
    effect = frame.get("effect", frame.get("total_effect"))
    return frame.assign(lower=effect - REACH, upper=effect + REACH)


SAMPLES = pd.DataFrame(
    {"sample": range(4), "effect": [1.0, 2.0, 3.0, 4.0], "mean": 2.5, "lower": 0.4, "upper": 4.6}
)
LINE = with_reach(layer=np.arange(12), effect=-np.exp(-((np.arange(12) - 4.0) ** 2)))
HEADS = with_reach(head=np.arange(9), effect=np.linspace(-1, 1, 9))
RUNS = pd.DataFrame(
    [
        {"run": run, "word": word, "probability": probability}
        for run, pair in {
            "clean": (0.1, 0.2),
            "corrupted": (0.3, 0.1),
            "restored": (0.1, 0.2),
        }.items()
        for word, probability in zip(("good", "bad"), pair, strict=True)
    ]
)
NASTY = ["My", '"]+alert(1)+["', "<b>", "\U0001f436", "terrible"]
WORDS = with_reach(word=np.arange(5), text=NASTY, total_effect=[0.1, -1.0, 0.8, -0.2, -4.0])
NOISE = with_reach(
    scale=[1.0, 2.0, 3.0],
    total_effect=[0.1, 2.0, 3.0],
    probability=[0.1, 0.4, 0.6],
    word=[" bad", " good", " good"],
    changes=[False, False, True],
)
CURVES = pd.concat([LINE.assign(trace="all paths"), LINE.assign(trace="MLP path frozen")])
COLOURS = {"all paths": "ink", "MLP path frozen": "blue"}

CHARTS = {
    "strip": lambda theme: trace.sample_strip(SAMPLES, unit=UNIT, theme=theme),
    "neighbours": lambda theme: trace.neighbours(LINE, 4, unit=UNIT, theme=theme),
    "heads": lambda theme: trace.heads(HEADS, unit=UNIT, theme=theme),
    "runs": lambda theme: trace.run_points(RUNS, theme=theme),
    "words": lambda theme: trace.word_bars(WORDS, unit=UNIT, theme=theme),
    "noise": lambda theme: trace.noise_curve(NOISE, unit=UNIT, theme=theme),
    "curves": lambda theme: trace.curves(CURVES, unit=UNIT, colours=COLOURS, theme=theme),
}


def spec_of(name, theme="light"):
    return specification(CHARTS[name](theme))


def texts(spec):
    return texts_of(drawn(spec))


def values(spec):
    return [pd.DataFrame(data) for data in spec.get("datasets", {}).values()] + [
        pd.DataFrame(layer["data"]["values"])
        for layer in spec["layer"]
        if "values" in layer.get("data", {})
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", list(CHARTS))
def test_a_chart_can_be_drawn_in_both_themes_with_its_unit(name, theme):
    spec = spec_of(name, theme)
    shown = texts(spec)
    unit = "probability" if name == "runs" else UNIT
    assert any(unit in text for text in shown)
    assert json.dumps(spec, allow_nan=False)


def test_every_sample_is_a_point():
    (frame,) = [frame for frame in values(spec_of("strip")) if "sample" in frame]
    assert frame["effect"].tolist() == SAMPLES["effect"].tolist()


def test_the_chosen_layer_stands_out_among_its_neighbours():
    svg = drawn(spec_of("neighbours"))
    assert svg.count(f'fill="{CHOSEN["light"]}"') == 1


def test_words_stand_in_the_order_of_the_text_and_are_never_code():
    spec = spec_of("words")
    shown = texts(spec)
    assert [text for text in shown if text in NASTY] == NASTY


def test_bars_whose_interval_holds_zero_are_faded():
    svg = drawn(spec_of("words"))
    assert svg.count('opacity="0.35"') == 2  # 0.1 and -0.2


def test_strengths_that_change_the_side_have_another_shape():
    points = next(
        layer for layer in spec_of("noise")["layer"] if "shape" in layer.get("encoding", {})
    )
    assert points["encoding"]["shape"]["scale"]["range"] == ["circle", "square"]


def test_curves_are_told_apart_by_dashes_too():
    line = spec_of("curves")["layer"][-1]
    dashes = line["encoding"]["strokeDash"]["scale"]
    assert dashes["domain"] == list(COLOURS)
    assert len({tuple(dash) for dash in dashes["range"]}) == len(COLOURS)


def test_a_cell_without_intervals_is_drawn_too():
    frame = LINE.assign(lower=np.nan, upper=np.nan)
    chart = trace.neighbours(frame, 0, unit=UNIT)
    assert "layer" in texts(specification(chart))
