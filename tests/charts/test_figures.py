"""Figures, judged by their specification: data, encodings, one scale centred on zero."""

import json
import re

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hand_made import CORRUPTED, LAYERS, TOKENS, make_frame
from svg import drawn, shapes_of, texts_of
from tiny_models import make_model
from tiny_probes import make_probe

from core.charts import figures, style
from core.charts import row_labels as rows_module
from core.tracing import findings
from core.tracing.result import PROXIES, TraceSettings
from core.tracing.tracer import trace
from core.tracing.view import View, scale_end

UNIT = "log-odds of positive"


def panel(frame=None, kind="hidden", **options):
    frame = make_frame() if frame is None else frame
    return figures.heatmap(frame, kind, **{"end": 5.0} | options).to_dict()


def rows(spec):
    """The data of a specification; every layer of a panel reads the same."""
    (data,) = spec["datasets"].values()
    return pd.DataFrame(data)


def without_data(spec):
    """The specification, which a browser compares to know whether to build a chart anew."""
    (name,) = spec.pop("datasets")
    return json.dumps(spec).replace(name, "data")


def drawn_height(spec):
    return spec["height"]["step"] * rows(spec)["row"].nunique()


def marks(spec):
    return [layer["mark"]["type"] for layer in spec["layer"]]


def token_axis(spec):
    return spec["layer"][0]["encoding"]["y"]["axis"]


def labels(spec):
    """What is drawn beside the rows, the first of them first; the layers' ticks stand before."""
    shown = texts_of(drawn(spec))
    return shown[shown.index("layer") + 1 :]


@pytest.fixture(scope="module")
def result():
    model = make_model("gpt2")
    return trace(model, make_probe(model), "good day, bad day", TraceSettings(samples=3))


# --- one panel -----------------------------------------------------------------------------------


def test_a_panel_holds_the_cells_of_its_kind_and_only_what_it_draws():
    frame = make_frame()
    held = rows(panel(frame, "mlp"))
    expected = frame[frame["kind"] == "mlp"].reset_index(drop=True)
    assert list(held["effect"]) == pytest.approx(list(expected["effect"]))
    assert list(held["position"]) == list(expected["position"])
    assert list(held["shade"]) == pytest.approx(list(expected["effect"] / 5.0))
    assert set(held) == {
        *("layer", "position", "row", "effect", "shade", "standard_error", "samples", "state")
    }


def test_a_coarse_cell_is_drawn_up_to_the_next_layer_that_was_traced_at_its_token():
    frame = make_frame(layers=13).assign(largest=lambda of: (of.layer == 6) & (of.position == 3))
    whole = frame["position"] == 3
    held = rows(panel(frame[whole | frame["layer"].isin([0, 6, 12])]))
    shown = held.set_index(["position", "at"]).sort_index()
    assert len(shown) == 13 * len(TOKENS)
    assert shown.loc[3, "layer"].tolist() == list(range(13))
    assert shown.loc[0, "layer"].tolist() == [0] * 6 + [6] * 6 + [12]
    given = frame[frame["kind"] == "hidden"].set_index(["position", "layer"])["effect"]
    assert shown["effect"].tolist() == pytest.approx(
        [given[position, layer] for (position, _), layer in shown["layer"].items()]
    )
    framed = held[held["state"] & figures._LARGEST > 0]
    assert framed[["position", "layer", "at"]].values.tolist() == [[3, 6, 6]]
    # Clicked anywhere, it is the cell of its own layer.
    (selection,) = panel(frame[whole | frame["layer"].isin([0, 6, 12])], select="cell")["params"]
    assert selection["select"]["fields"] == ["layer", "position"]


def test_coarse_layers_alone_are_wide_and_every_nth_layer_has_an_axis_of_its_own():
    frame = make_frame(layers=12)
    coarse = rows(panel(frame[frame["layer"].isin([0, 4, 8, 11])]))
    assert sorted(coarse["at"].unique()) == list(range(12))
    third = panel(frame[frame["layer"].isin([0, 3, 6, 9])])
    assert "at" not in rows(third)
    assert third["layer"][0]["encoding"]["x"]["field"] == "layer"
    (one,) = rows(panel(frame[frame["layer"] == 4]))["layer"].unique()
    assert one == 4


def test_tokens_go_down_and_layers_across():
    encoding = panel()["layer"][0]["encoding"]
    assert (encoding["y"]["field"], encoding["y"]["type"]) == ("row", "ordinal")
    assert (encoding["x"]["field"], encoding["x"]["type"]) == ("layer", "ordinal")
    assert encoding["color"]["field"] == "shade"


def test_corrupted_tokens_are_starred_and_the_others_are_not():
    assert labels(panel()) == [
        f"{token} *" if position < CORRUPTED else token for position, token in enumerate(TOKENS)
    ]


def test_a_tooltip_says_token_layer_effect_and_standard_error():
    tooltip = panel()["layer"][0]["encoding"]["tooltip"]
    assert [field["title"] for field in tooltip] == [
        *("token", "layer", "effect", "standard error", "samples", "significant"),
    ]


def test_trivial_cells_are_hatched():
    spec = panel()
    trivial = rows(spec).query("state == 1")
    assert set(trivial["layer"]) == {LAYERS - 1}
    hatches = shapes_of(drawn(spec), layer=1)
    assert len(hatches) == len(trivial)
    assert all(hatch["stroke"] for hatch in hatches)  # so that it is not told by colour alone


def marked(**columns):
    """The frame in which the named (layer, position) of the hidden states are marked."""
    frame = make_frame()
    for column, cells in columns.items():
        at = zip(frame["kind"], frame["layer"], frame["position"], strict=True)
        frame[column] = [kind == "hidden" and (layer, t) in cells for kind, layer, t in at]
    return frame


def drawn_shapes(spec):
    svg = drawn(spec)
    return [shape for layer in range(len(spec["layer"])) for shape in shapes_of(svg, layer)]


def test_cells_that_cannot_be_told_from_zero_are_drawn_faded():
    faded = {(0, 0), (1, 2), (2, 3)}
    shapes = drawn_shapes(panel(marked(faded=faded)))
    assert sum(shape.get("opacity") == str(style.FADED) for shape in shapes) == len(faded)


def test_estimated_cells_are_drawn_at_half_height_and_are_not_clicked():
    frame = make_frame()
    given = frame.assign(estimated=frame["layer"] % 2 == 1)
    spec = panel(given)
    svg = drawn(spec)
    heights = [
        {re.search(r"v([\d.]+)h", shape["d"])[1] for shape in shapes_of(svg, layer)}
        for layer in (0, 1)
    ]
    assert heights == [{"20"}, {"10"}]
    counts = [len(shapes_of(svg, layer)) for layer in (0, 1)]
    assert counts == [LAYERS // 2 * len(TOKENS)] * 2
    clicked = panel(given, select="cell")
    assert [param["views"] for param in clicked["params"]] == [[clicked["layer"][0]["name"]]]
    told = spec["layer"][1]["transform"]
    assert any("an estimate, not a run" in step.get("calculate", "") for step in told)
    assert without_data(panel(frame)) == without_data(panel(make_frame()))


def test_the_largest_cell_is_framed_and_so_is_the_chosen_one():
    spec = panel(marked(largest={(4, 6)}), chosen=("hidden", 2, 3))
    strokes = [shape.get("stroke") for shape in drawn_shapes(spec)]
    assert strokes.count(style.INK["light"]) == 1
    assert strokes.count(style.CHOSEN["light"]) == 1
    elsewhere = panel(marked(largest={(4, 6)}), kind="mlp", chosen=("hidden", 2, 3))
    assert style.CHOSEN["light"] not in [s.get("stroke") for s in drawn_shapes(elsewhere)]


def test_a_form_is_built_once_and_no_drawing_of_it_can_change_another():
    frame = make_frame()
    first = figures.heatmap(frame, "hidden", end=5.0)
    second = figures.heatmap(frame.assign(effect=-frame["effect"]), "hidden", end=9.0)
    assert second.template is first.template
    assert (second.data["effect"] == -first.data["effect"]).all()
    assert figures.heatmap(frame, "mlp", end=5.0).template is not first.template

    before = first.to_dict()
    changed = second.chart(width=200)
    changed.layer[0].encoding.color.scale.domain = [-1, 1]
    changed.layer.pop()
    assert without_data(first.to_dict()) == without_data(before)
    assert before["layer"][0].items() <= first.template.spec["layer"][0].items()


def test_another_chosen_cell_changes_the_data_alone():
    cells = (("hidden", 2, 3), ("hidden", 4, 1), None)
    first, second, none = [without_data(panel(chosen=cell)) for cell in cells]
    assert first == second == none


def test_a_trace_that_means_nothing_has_no_colours():
    ramp = panel(grey=True)["layer"][0]["encoding"]["color"]["scale"]["range"]
    for colour in ramp:
        red, green, blue = re.findall(r"\d+", colour)[:3]
        assert red == green == blue


def test_a_click_names_layer_and_position():
    (parameter,) = panel(select="cell")["params"]
    assert parameter["name"] == "cell"
    assert parameter["select"]["fields"] == ["layer", "position"]


def test_rows_that_are_left_out_leave_the_others_their_names():
    frame = make_frame()
    frame = frame[frame["position"].isin([1, 3, 6])]
    spec = panel(frame)
    assert labels(spec) == [f"{TOKENS[1]} *", f"{TOKENS[3]} *", TOKENS[6]]
    assert drawn_height(spec) == 3 * figures.ROW


def test_title_and_layers_can_stand_above_a_panel_that_scrolls():
    frame = make_frame(tokens=tuple(f"t{i}" for i in range(60)))
    below = panel(frame, strip=True, title="Hidden state")
    above = figures.layer_strip(frame, "hidden", title="Hidden state").to_dict()
    assert "title" not in below
    assert all(layer["encoding"]["x"]["axis"] is None for layer in below["layer"])
    assert above["title"]["text"] == "Hidden state"
    assert above["encoding"]["x"]["axis"]["orient"] == "top"
    # Both keep the same room for the labels, so that a layer stands above its own column.
    room = [axis["minExtent"] for axis in (token_axis(below), above["encoding"]["y"]["axis"])]
    assert room[0] == room[1]


@pytest.mark.parametrize(("layers", "tokens"), [(30, 90), (48, 110)])
def test_a_long_tweet_is_sent_in_less_than_a_megabyte(layers, tokens):
    """As rows of JSON; Streamlit sends them as Arrow columns, in a fraction of that."""
    frame = make_frame(tokens=tuple(f"\u00b7t{i}" for i in range(tokens)), layers=layers)
    rng = np.random.default_rng(0)
    frame["effect"] += rng.standard_normal(len(frame))
    frame["standard_error"] += rng.random(len(frame))
    with alt.data_transformers.enable("default", max_rows=None):
        sizes = [len(json.dumps(panel(frame, kind))) for kind in ("hidden", "mlp", "attn")]
    assert max(sizes) < 1_000_000
    columns = [pa.Table.from_pandas(figures._slim(part)).nbytes for part in parts_of(frame)]
    assert sum(columns) < 400_000


def parts_of(frame):
    drawn = frame.assign(row=0, shade=0.0, state=0)
    return [drawn[drawn["kind"] == kind] for kind in ("hidden", "mlp", "attn")]


def test_one_sample_has_no_standard_error():
    drawn = rows(panel(make_frame(samples=1)))
    assert drawn["standard_error"].isna().all()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_scale_is_diverging_and_centred_on_a_transparent_zero(theme):
    scale = panel(theme=theme)["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == [-1, -0.5, 0, 0.5, 1]  # shares of the scale's end
    assert len(scale["range"]) == 5
    assert scale["range"][2].endswith(", 0)")
    assert scale["clamp"] is True


def test_labels_have_room_however_many_tokens_there_are():
    for count in (3, 30, 120):
        spec = panel(make_frame(tokens=tuple(f"t{i}" for i in range(count))))
        assert drawn_height(spec) >= 18 * count
        assert token_axis(spec)["labelOverlap"] is False
        assert token_axis(spec)["labelFontSize"] < 18


def test_a_tall_panel_names_its_layers_above_too():
    short, tall = panel(), panel(make_frame(tokens=tuple(f"t{i}" for i in range(60))))
    sides = [
        [layer["encoding"]["x"]["axis"]["orient"] for layer in spec["layer"]]
        for spec in (short, tall)
    ]
    assert sides == [["bottom"] * 4, ["bottom"] * 4 + ["top"]]
    assert tall["resolve"] == {"axis": {"x": "independent"}}


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (6, 6), (12, 12), (30, 6), (48, 10)])
def test_layer_ticks_are_round_and_few(layers, count):
    values = panel(make_frame(layers=layers))["layer"][0]["encoding"]["x"]["axis"]["values"]
    assert values[0] == 0
    assert len(values) == count
    assert values[-1] < layers


def test_labels_can_be_kept_for_narrow_windows_or_left_out():
    """A narrow window shows them: tests/system/test_browser.py."""
    assert not any(labels(panel(labels="narrow")))
    assert labels(panel(labels="never")) == []


def test_what_a_token_holds_is_never_code():
    nasty = ('"]+alert(1)+["', "\\", "\u2028", "<b>bold</b>", "'", "\n")
    shown = labels(panel(make_frame(tokens=nasty)))
    # A separator of lines is drawn as the space that it is.
    assert [label.removesuffix("*").strip() for label in shown] == [text.strip() for text in nasty]


def test_a_kind_that_was_not_traced_is_refused():
    frame = make_frame()
    with pytest.raises(ValueError, match="no site of kind 'attn'.*'hidden', 'mlp'"):
        panel(frame[frame["kind"] != "attn"], "attn")


def test_a_sharper_picture_changes_the_data_alone():
    """The browser then redraws cells in place instead of building the chart anew."""
    before, after = make_frame(samples=2), make_frame(samples=3)
    after["effect"] *= 1.7
    ends = [scale_end(frame) for frame in (before, after)]
    assert ends[0] != ends[1]
    first, second = [
        without_data(panel(frame, end=end))
        for frame, end in zip((before, after), ends, strict=True)
    ]
    assert first == second


@pytest.mark.parametrize("corrupt", ["tweet", "word:0", (0,)])
def test_rows_of_words_have_the_names_and_stars_of_their_frame(corrupt):
    model = make_model("gpt2")
    settings = TraceSettings(samples=1, corrupt=corrupt)
    result = trace(model, make_probe(model), "unbelievably good, bad days", settings)
    words = findings.by_words(findings.cells(result), result)
    rows = rows_module.rows_of(result, words=True)
    behind = {row - rows.first: name for row, name in rows.labels.items() if row >= rows.first}
    assert behind == rows_module.Rows.of(words).labels
    assert len(behind) < rows.first
    assert any(label.endswith(" *") for label in behind.values())


def test_shares_and_words_change_the_data_alone(result):
    views = View(result), View(result, share=True), View(result, words=True)
    assert len(views[2].frame) < len(views[0].frame)
    raw, share, worded = [
        without_data(
            panel(view.frame, end=view.end, rows=rows_module.rows_of(view.result, words=view.words))
        )
        for view in views
    ]
    assert raw == share == worded


# --- the scale -----------------------------------------------------------------------------------


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
    assert scales[0] == scales[1] == scales[2]
    effects = pd.concat(pd.DataFrame(data) for data in list(spec["datasets"].values())[:3])
    assert effects["shade"].tolist() == pytest.approx((effects["effect"] / 5.0).tolist())
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
