"""Figures, judged by their specification: data, encodings, one scale centred on zero."""

import json

import altair as alt
import pandas as pd
import pytest
from hand_made import CORRUPTED, LAYERS, TOKENS, make_frame
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model
from tiny_probes import make_probe

from core import figures
from core.results import PROXIES, TraceSettings
from core.trace import trace

UNIT = "log-odds of positive"


def panel(frame=None, kind="hidden", **options):
    frame = make_frame() if frame is None else frame
    return figures.heatmap(frame, kind, **{"end": 5.0, "unit": UNIT} | options).to_dict()


def rows(spec):
    """The data of a specification; every layer of a panel reads the same."""
    (data,) = spec["datasets"].values()
    return pd.DataFrame(data)


def marks(spec):
    return [layer["mark"]["type"] for layer in spec["layer"]]


def token_axis(spec):
    return spec["layer"][0]["encoding"]["y"]["axis"]


@pytest.fixture(scope="module")
def result():
    model = make_model("gpt2")
    return trace(model, make_probe(model), "good day, bad day", TraceSettings(samples=3))


# --- one panel -----------------------------------------------------------------------------------


def test_a_panel_holds_the_cells_of_its_kind_and_only_what_it_draws():
    frame = make_frame()
    drawn = rows(panel(frame, "mlp"))
    expected = frame[frame["kind"] == "mlp"].reset_index(drop=True)
    assert list(drawn["effect"]) == pytest.approx(list(expected["effect"]))
    assert list(drawn["token"]) == list(expected["token"])
    assert set(drawn) == {"layer", "position", "token", "effect", "standard_error", "trivial"}


def test_tokens_go_down_and_layers_across():
    encoding = panel()["layer"][0]["encoding"]
    assert (encoding["y"]["field"], encoding["y"]["type"]) == ("position", "ordinal")
    assert (encoding["x"]["field"], encoding["x"]["type"]) == ("layer", "ordinal")
    assert encoding["color"]["field"] == "effect"


def test_corrupted_tokens_are_starred_and_the_others_are_not():
    expression = token_axis(panel())["labelExpr"]
    labels = json.loads(expression.removesuffix("[datum.value]"))
    assert labels == [
        f"{token} *" if position < CORRUPTED else token for position, token in enumerate(TOKENS)
    ]


def test_a_tooltip_says_token_layer_effect_and_standard_error():
    tooltip = panel()["layer"][0]["encoding"]["tooltip"]
    assert [field["title"] for field in tooltip] == ["token", "layer", "effect", "standard error"]


def test_trivial_cells_are_hatched():
    hatching = panel()["layer"][1]
    assert hatching["mark"]["type"] == "point"
    assert hatching["transform"][-1] == {"filter": "datum.trivial"}
    drawn = rows(panel())
    assert set(drawn.loc[drawn["trivial"], "layer"]) == {LAYERS - 1}


def test_one_sample_has_no_standard_error():
    drawn = rows(panel(make_frame(samples=1)))
    assert drawn["standard_error"].isna().all()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_scale_is_diverging_and_centred_on_a_transparent_zero(theme):
    scale = panel(theme=theme, end=4.0)["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == [-4.0, -2.0, 0, 2.0, 4.0]
    assert len(scale["range"]) == 5
    assert scale["range"][2].endswith(", 0)")
    assert scale["clamp"] is True


def test_labels_have_room_however_many_tokens_there_are():
    for count in (3, 30, 120):
        spec = panel(make_frame(tokens=tuple(f"t{i}" for i in range(count))))
        assert spec["height"] >= 18 * count
        assert token_axis(spec)["labelOverlap"] is False
        assert token_axis(spec)["labelFontSize"] < 18


def test_a_tall_panel_names_its_layers_above_too():
    short, tall = panel(), panel(make_frame(tokens=tuple(f"t{i}" for i in range(60))))
    sides = [
        [layer["encoding"]["x"]["axis"]["orient"] for layer in spec["layer"]]
        for spec in (short, tall)
    ]
    assert sides == [["bottom", "bottom"], ["bottom", "bottom", "top"]]
    assert tall["resolve"] == {"axis": {"x": "independent"}}


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (6, 6), (12, 12), (30, 6), (48, 10)])
def test_layer_ticks_are_round_and_few(layers, count):
    values = panel(make_frame(layers=layers))["layer"][0]["encoding"]["x"]["axis"]["values"]
    assert values[0] == 0
    assert len(values) == count
    assert values[-1] < layers


def test_labels_can_be_kept_for_narrow_windows_or_left_out():
    narrow = token_axis(panel(labels="narrow"))["labelExpr"]
    assert f"windowSize()[0] <= {figures.NARROW}" in narrow
    assert token_axis(panel(labels="never")) is None


def test_what_a_token_holds_is_never_code():
    nasty = ('"]+alert(1)+["', "\\", "\u2028", "<b>bold</b>", "'", "\n")
    frame = make_frame(tokens=nasty)
    expression = token_axis(panel(frame))["labelExpr"].removesuffix("[datum.value]")
    assert expression.isascii()
    assert [label.removesuffix(" *") for label in json.loads(expression)] == list(nasty)


def test_a_kind_that_was_not_traced_is_refused():
    frame = make_frame()
    with pytest.raises(ValueError, match="no site of kind 'attn'.*'hidden', 'mlp'"):
        panel(frame[frame["kind"] != "attn"], "attn")


def test_a_sharper_picture_changes_the_data_alone():
    """The browser then redraws cells in place instead of building the chart anew."""
    before, after = make_frame(samples=2), make_frame(samples=3)
    after["effect"] *= 0.98
    specs = []
    for frame in (before, after):
        spec = panel(frame, end=figures.scale_end(frame))
        (name,) = spec.pop("datasets")
        specs.append(json.dumps(spec).replace(name, "data"))
    assert specs[0] == specs[1]


# --- the scale -----------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=20),
)
def test_the_scale_ends_on_a_round_number_that_holds_every_effect(effects):
    end = figures.scale_end(pd.DataFrame({"effect": effects}))
    largest = max(map(abs, effects))
    assert end > 0
    if largest >= figures.NOTHING:
        assert largest <= end * (1 + 1e-6)
        assert end <= 1.7 * largest


@pytest.mark.parametrize(
    ("largest", "end"), [(4.6, 5), (0.61, 0.8), (1.0, 1), (0, 1), (float("nan"), 1), (9.1, 10)]
)
def test_where_the_scale_ends(largest, end):
    assert figures.scale_end(pd.DataFrame({"effect": [0.0, -largest]})) == pytest.approx(end)


def test_the_scale_bar_has_the_colours_of_the_panels():
    spec = figures.scale_bar(4.0, UNIT, width=200).to_dict()
    stops = [stop["color"] for stop in spec["mark"]["color"]["stops"]]
    assert stops == panel(end=4.0)["layer"][0]["encoding"]["color"]["scale"]["range"]
    x = spec["encoding"]["x"]
    assert x["scale"]["domain"] == [-4.0, 4.0]
    assert x["axis"]["values"] == [-4.0, -2.0, 0, 2.0, 4.0]
    assert UNIT in x["axis"]["title"]


# --- a whole figure ------------------------------------------------------------------------------


def test_all_panels_of_a_figure_share_one_scale():
    frame = make_frame()
    spec = figures.trace_heatmaps(frame, unit=UNIT, title="A title", caption="A caption").to_dict()
    panels, bar = spec["vconcat"]
    assert [panel["title"]["text"] for panel in panels["hconcat"]] == [
        "Hidden state",
        "MLP",
        "Attention",
    ]
    scales = [panel["layer"][0]["encoding"]["color"]["scale"] for panel in panels["hconcat"]]
    assert scales[0]["domain"] == [-5.0, -2.5, 0, 2.5, 5.0]
    assert scales[0] == scales[1] == scales[2]
    assert bar["encoding"]["x"]["scale"]["domain"] == [-5.0, 5.0]
    axes = [token_axis(panel) for panel in panels["hconcat"]]
    assert [axis is None for axis in axes] == [False, True, True]
    assert spec["title"]["text"] == ["A title"]
    assert spec["title"]["subtitle"] == ["A caption"]


def test_a_large_figure_is_made_whatever_other_threads_set_in_altair():
    """GPT-2 XL and a long tweet: more rows than Altair takes, while Streamlit draws elsewhere."""
    frame = make_frame(tokens=tuple(f"t{i}" for i in range(110)), layers=48, samples=1)
    alt.data_transformers.register("elsewhere", lambda data: {"name": "not here"})
    with alt.data_transformers.enable("elsewhere"):
        spec = figures.trace_heatmaps(frame, unit=UNIT).to_dict()
    assert [len(values) for values in spec["datasets"].values()] == [48 * 110] * 3 + [1]
    first = next(iter(spec["datasets"].values()))[0]
    assert first["standard_error"] is None
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec


def test_a_figure_draws_the_kinds_that_were_traced():
    frame = make_frame()
    spec = figures.trace_heatmaps(frame[frame["kind"] == "attn"], unit=UNIT).to_dict()
    (only,) = spec["vconcat"][0]["hconcat"]
    assert only["title"]["text"] == "Attention"
    assert token_axis(only) is not None
    assert "title" not in spec


def test_a_result_brings_its_own_title_caption_and_unit(result):
    spec = figures.trace_heatmaps(result).to_dict()
    assert spec["title"]["text"] == ["\u201cgood day, bad day\u201d"]
    caption = " ".join(spec["title"]["subtitle"])
    for part in (
        "3 noise samples",
        "3 standard deviations",
        "seed 0",
        "tiny-gpt2",
        "80.0%",
        PROXIES["log_odds"],
    ):
        assert part in caption
    assert PROXIES["log_odds"] in spec["vconcat"][1]["encoding"]["x"]["axis"]["title"]


def test_another_proxy_is_another_figure_of_the_same_run(result):
    other = figures.trace_heatmaps(result.under("probability")).to_dict()
    assert PROXIES["probability"] in other["vconcat"][1]["encoding"]["x"]["axis"]["title"]
    end = other["vconcat"][1]["encoding"]["x"]["scale"]["domain"][1]
    assert end <= 1


def test_a_partial_result_says_how_many_samples_it_rests_on(result):
    from dataclasses import replace

    wanted = replace(result, settings=replace(result.settings, samples=10))
    assert "3 noise samples of 10" in figures.caption_of(wanted)


def test_the_words_on_top(result):
    headline, line = figures.headline(result), figures.effect_line(result)
    assert headline.startswith(("Positive, P(positive) ", "Negative, P(positive) "))
    assert line.startswith("Corrupted: ")
    assert "Total effect: " in line
    assert line.count("\u00b1") == 2
    assert line.endswith(f"in {PROXIES['log_odds']}.")


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (-4.7312, 0.118, "\u22124.73 \u00b1 0.12"),
        (0.19911, 0.0163, "0.199 \u00b1 0.016"),
        (12.3, 2.5, "12.3 \u00b1 2.5"),
        (120.4, 31.0, "120 \u00b1 31"),
        (0.19911, float("nan"), "0.199"),
        (0.5, 0.0, "0.5"),
    ],
)
def test_a_mean_is_given_to_the_second_digit_of_its_error(mean, error, shown):
    assert figures._with_error(mean, error) == shown


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (0.001, "Negative, P(positive) < 0.01"),
        (0.3, "Negative, P(positive) = 0.30"),
        (0.5, "Positive, P(positive) = 0.50"),
        (0.999, "Positive, P(positive) > 0.99"),
    ],
)
def test_the_headline_never_says_zero_or_one(probability, shown):
    class Result:
        clean_probability = probability

    assert figures.headline(Result()) == shown
