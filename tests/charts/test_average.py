"""What is drawn of an average, by what the charts hold; and the words beside it."""

import math

import altair as alt
import numpy as np
import pandas as pd
import pytest
from average_traces import LAYERS, records
from svg import drawn, texts_of

from core.charts import average as drawing
from core.exporting.figure_files import figure_bytes
from core.sweeps.average import average, average_by, difference
from core.sweeps.average_findings import cells

UNIT = "nats"


@pytest.fixture(scope="module")
def found():
    return average(records(60), replicates=200)


@pytest.fixture(scope="module")
def groups():
    def label(record):
        return "positive" if record.label else "negative"

    return average_by(records(60), label, replicates=200)


def rows_of(spec: dict, name: str = "mean") -> list[dict]:
    """Rows of the first data set of a specification whose rows have this field."""
    sets = [*spec.get("datasets", {}).values()]
    sets += [part["data"]["values"] for part in parts(spec) if "values" in part.get("data", {})]
    return next(rows for rows in sets if rows and name in rows[0])


def parts(spec):
    yield spec
    for place in ("layer", "hconcat", "vconcat"):
        for inner in spec.get(place, ()):
            yield from parts(inner)


def panel(found, kind="hidden", **options):
    frame = cells(found)
    chart = drawing.heatmap(
        frame, kind, titles=found.titles(), end=drawing.effect_end(frame), unit=UNIT, **options
    )
    return chart.to_dict()


def test_a_heatmap_holds_every_mean_at_its_role_and_layer(found):
    rows = rows_of(panel(found))
    roles = found.roles
    expected = found.frame[found.frame["kind"] == "hidden"]
    assert len(rows) == len(expected) == len(roles) * LAYERS
    drawn = {(roles[row["place"]], row["layer"]): row["mean"] for row in rows}
    for cell in expected.itertuples():
        assert drawn[cell.role, cell.layer] == pytest.approx(cell.mean)


def test_panels_share_one_scale_centred_on_zero(found):
    domains = [
        part["encoding"]["color"]["scale"]["domain"]
        for kind in ("hidden", "mlp", "attn")
        for part in panel(found, kind)["layer"]
        if "color" in part.get("encoding", {})
    ]
    assert len(domains) == 3
    assert all(domain == domains[0] for domain in domains)
    assert domains[0][0] == -domains[0][-1]
    assert domains[0][2] == 0
    assert domains[0][-1] >= found.frame["mean"].abs().max()


def test_what_is_fixed_faded_and_largest_is_marked(found):
    rows = rows_of(panel(found))
    last = [row for row in rows if row["layer"] == LAYERS - 1]
    assert all(row["state"] & 1 for row in last)  # the last layer is read at the last token alone
    largest = [row for row in rows if row["state"] & 4]
    assert [(found.roles[row["place"]], row["layer"]) for row in largest] == [("last", LAYERS - 2)]
    early = next(
        row for row in rows if found.roles[row["place"]] == "sentiment_last" and row["layer"] == 3
    )
    assert early["state"] == 0
    other = [row for row in rows if found.roles[row["place"]] == "middle" and not row["state"] & 1]
    # Noise alone: the false discovery rate lets hardly any through.
    assert np.mean([bool(row["state"] & 2) for row in other]) > 0.8


def test_layers_that_were_not_traced_leave_no_hole():
    spec = panel(average(records(12, every=3), replicates=50))
    assert sorted({row["layer"] for row in rows_of(spec)}) == [0, 3, 6, 9]
    axis = spec["layer"][0]["encoding"]["x"]["axis"]
    assert set(axis["values"]) <= {0, 3, 6, 9}
    assert spec["layer"][0]["encoding"]["x"]["type"] == "ordinal"


def test_labels_stand_beside_the_first_panel_alone(found):
    """A narrow window is not what draws here: tests/system/test_browser.py."""
    for labels in ("always", "narrow", "never"):
        shown = texts_of(drawn(panel(found, labels=labels)))
        assert ("Sentiment word, last token" in shown) == (labels == "always")


def test_a_kind_that_is_not_there_is_refused(found):
    with pytest.raises(ValueError, match="no site of kind 'heads'"):
        panel(found, "heads")


def test_lines_have_a_band_and_a_colour_of_their_own_for_each_role(found):
    titles = {role: found.titles()[role] for role in ("sentiment_last", "last")}
    spec = drawing.lines(found.frame, "mlp", titles=titles, unit=UNIT).to_dict()
    rows = rows_of(spec)
    assert {row["series"] for row in rows} == set(titles.values())
    band, line = spec["layer"][1], spec["layer"][2]
    assert band["encoding"]["y"]["field"] == "lower"
    assert band["encoding"]["y2"]["field"] == "upper"
    scale = line["encoding"]["color"]["scale"]
    assert scale["domain"] == list(titles.values())
    assert len(set(scale["range"])) == 2
    assert len(set(map(tuple, line["encoding"]["strokeDash"]["scale"]["range"]))) == 2


def test_lines_leave_trivial_cells_out_and_span_all_layers(found):
    titles = {"last": "Last token"}
    spec = drawing.lines(found.frame, "hidden", titles=titles, unit=UNIT).to_dict()
    assert max(row["layer"] for row in rows_of(spec)) == LAYERS - 2
    assert spec["layer"][1]["encoding"]["x"]["scale"]["domain"] == [0, LAYERS - 1]


def test_a_domain_holds_all_intervals_and_zero(found):
    low, high = drawing.line_domain(found.frame)
    free = found.frame[~found.frame["trivial"]]
    assert low <= min(0, free["lower"].min())
    assert high > free["upper"].max()


def test_a_role_keeps_its_colour_in_both_themes():
    for role, (light, dark) in drawing.COLOURS.items():
        assert light != dark, role
    assert len({pair[0] for pair in drawing.COLOURS.values()}) >= 11


def test_peaks_are_counted_by_role_and_layer(found):
    peaks = found.peaks[found.peaks["kind"] == "attn"]
    spec = drawing.peak_roles(peaks, titles=found.titles(), select="bar", chosen="last").to_dict()
    rows = {row["role"]: row for row in rows_of(spec, "tweets")}
    assert rows["last"]["tweets"] == len(peaks) == 60
    assert rows["last"]["share"] == 1
    assert rows["middle"]["tweets"] == 0
    assert [param["name"] for param in spec["params"]] == ["bar"]
    assert "'last'" in spec["layer"][0]["encoding"]["opacity"]["condition"]["test"]
    spec = drawing.peak_layers(peaks, range(LAYERS), select="bar", of="Last token").to_dict()
    counts = [row["tweets"] for row in rows_of(spec, "tweets")]
    assert counts == [int((peaks["layer"] == layer).sum()) for layer in range(LAYERS)]
    assert spec["title"]["text"] == "By layer, at Last token"


def test_groups_are_drawn_in_two_colours_with_their_names(groups):
    frame = pd.concat(
        [
            each.frame[each.frame["role"] == "sentiment_last"].assign(group=name)
            for name, each in groups.items()
        ]
    )
    spec = drawing.group_lines(frame, "mlp", ["positive", "negative"], unit=UNIT).to_dict()
    scale = spec["layer"][2]["encoding"]["color"]["scale"]
    assert scale["domain"] == ["positive", "negative"]
    assert len(set(scale["range"])) == 2


def test_a_difference_is_drawn_like_an_average(groups, found):
    apart = difference(groups["positive"], groups["negative"])
    frame = apart[apart["kind"] != "total"].rename(columns={"difference": "mean"})
    frame = frame.assign(n=frame["n_first"] + frame["n_second"])
    chart = drawing.heatmap(
        frame, "mlp", titles=found.titles(), end=drawing.effect_end(frame), unit=UNIT
    )
    rows = rows_of(chart.to_dict())
    assert all(math.isfinite(row["lower"]) for row in rows if row["n"] > 30)


def test_totals_have_an_interval_each():
    frame = pd.DataFrame(
        {"group": ["all", "short"], "mean": [3.0, 2.0], "lower": [2.5, 1.0], "upper": [3.5, 3.0]}
        | {"n": [60, 30]}
    )
    spec = drawing.totals(frame, unit=UNIT).to_dict()
    assert [row["group"] for row in rows_of(spec)] == ["all", "short"]
    rule = spec["layer"][1]["encoding"]
    assert (rule["x"]["field"], rule["x2"]["field"]) == ("lower", "upper")


def test_precision_goes_on_to_the_wanted_width(found):
    history = found.history[found.history["kind"] == "total"]
    now = float(history["reach"].iloc[-1])
    needed = 60 + found.more_tweets(now / 2)
    spec = drawing.precision(history, wanted=now / 2, needed=needed, unit=UNIT).to_dict()
    onward = rows_of(spec, "reach")
    sets = [
        part["data"]["values"] for part in spec["layer"] if "values" in part.get("data", {})
    ] or list(spec["datasets"].values())
    onward = next(rows for rows in sets if rows[-1]["n"] >= needed and len(rows) > 5)
    assert onward[0]["reach"] == pytest.approx(now)
    assert onward[-1]["reach"] <= now / 2 * 1.01
    # Half the width takes four times as many.
    assert needed == pytest.approx(4 * 60, abs=2)


def test_an_ablation_has_a_line_for_each_group():
    frame = pd.DataFrame(
        [
            {"group": group, "layer": layer, "mean": 0.1, "lower": 0.0, "upper": 0.2, "n": 20}
            for group in ("punctuation", "other", "sentiment", "difference")
            for layer in (0, 2)
        ]
    )
    names = {"punctuation": "Punctuation", "other": "Other tokens"}
    spec = drawing.ablation_lines(frame, names, unit=UNIT).to_dict()
    assert {row["series"] for row in rows_of(spec)} == set(names.values())
    assert spec["layer"][1]["encoding"]["x"]["axis"]["title"] == "ablated from this layer on"


def test_a_caption_says_what_of_how_many_and_how(found):
    caption = drawing.heatmap_caption(found)
    for said in (
        *("A cell is the mean over tweets", "log-odds of positive (nats)"),
        *("60 tweets, 1 noise sample each", "95% percentile bootstrap over tweets"),
        "MLP and Attention sites cover 3 layers",
        *("Gaussian noise of 3 standard deviations (seed 0)", "towards the clean prediction"),
        *("made-by-hand", "Hatched cells are fixed by construction"),
    ):
        assert said in caption, said
    some = average(records(8, every=3), normalised=True, interval="normal", replicates=20)
    caption = drawing.caption_of(some)
    assert "share of the total effect" in caption
    assert "95% t interval" in caption
    assert "Every 3rd layer of 12" in caption


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_whole_figure_can_be_saved(found, theme):
    frame = cells(found)
    figure = drawing.heatmap_figure(
        frame,
        titles=found.titles(),
        unit=UNIT,
        title="Made by hand",
        caption=drawing.heatmap_caption(found),
        theme=theme,
    )
    spec = figure.to_dict()
    assert spec["title"]["text"] == ["Made by hand"]
    assert len(spec["vconcat"][0]["hconcat"]) == 3
    assert figure_bytes(figure, "png")[:4] == b"\x89PNG"
    panels = [
        drawing.lines(found.frame, kind, titles={"last": "Last token"}, unit=UNIT, theme=theme)
        for kind in ("hidden", "mlp", "attn")
    ]
    lines = drawing.line_figure(panels, title="Lines", theme=theme)
    assert isinstance(lines, alt.VConcatChart)
    assert b"Last token" in figure_bytes(lines, "svg")


def test_each_cell_is_coloured_by_the_corruptions_that_find_it():
    frame = pd.DataFrame(
        [
            ("mlp", 0, "last", "both", False, 0.5, 0.4),
            ("mlp", 2, "last", "noise only", False, 0.3, 0.0),
            ("mlp", 4, "last", "neither", True, 0.0, 0.0),
            ("attn", 0, "last", "pairs only", False, 0.0, 0.2),
        ],
        columns=["kind", "layer", "role", "significant", "trivial", "noise", "pairs"],
    )
    for theme in ("light", "dark"):
        chart = drawing.agreement(frame, "mlp", titles={"last": "Last token"}, theme=theme)
        spec = chart.to_dict()
        (rows,) = spec["datasets"].values()
        assert [(row["layer"], row["significant"]) for row in rows] == [
            (0, "both"),
            (2, "noise only"),
        ]
        scale = spec["layer"][0]["encoding"]["color"]["scale"]
        assert len(set(scale["range"])) == len(scale["domain"]) == 4
