"""The pages, run as Streamlit runs them, on a small random model that stands in for GPT-2."""

import json
import sys
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from drawn import charts, data_of, titles
from paths import ROOT
from small_pages import PATIENCE, ended, open_app, open_page, outcome, run_trace, said
from streamlit.testing.v1 import AppTest
from svg import drawn, texts_of
from tiny_probes import make_probe
from tiny_world import keep_model, small_world

from core import dashboard
from core.dashboard import cell_panel as cells
from core.dashboard import follow_ups, probing, tracing
from core.probes.library import keep, key_of
from core.prompts.template import Template
from core.server.job_queue import Progress
from core.tracing.findings import Health, findings
from core.tracing.result import PROXIES
from core.tracing.view import effect_line, rounded

trace_module = sys.modules["core.tracing.tracer"]
NAMES = ("trace", "probes", "average", "compare", "interventions", "method")


@pytest.fixture
def untrained():
    """Asks for a world whose model has no probe yet."""


@pytest.fixture(autouse=True)
def world(own_home, request):
    with small_world(layers=4, trained="untrained" not in request.fixturenames):
        yield


def finish(page: AppTest) -> AppTest:
    return ended(page, "trace")


def result_of(page: AppTest):
    return outcome(page, "trace").result


# --- every page ----------------------------------------------------------------------------------


def test_every_page_opens_by_itself_and_within_the_dashboard():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert app.title[0].value == "Trace"
    for name in NAMES:
        for page in (open_page(name), app.switch_page(f"pages/{name}.py").run()):
            assert not page.exception, name
            assert page.title[0].value.lower() == name
            assert len(page.markdown) >= 1, name


# --- the trace page ------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_a_first_visit_shows_an_example_that_is_called_one():
    page = open_page("trace")
    assert not page.exception
    assert page.selectbox("model").value == "gpt2"
    assert any("original experiment" in caption.value for caption in page.caption)
    assert any("Not trained yet" in caption.value for caption in page.caption)
    assert any("An example, traced before" in info.value for info in page.info)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    assert any("Early site at" in text.value for text in page.markdown)
    assert page.button("stop").disabled
    assert "job:trace" not in page.session_state

    # One of the examples fills the tweet.
    name, text = next(iter(dashboard.example_tweets().items()))
    page.button_group("example").set_value(name).run()
    assert page.text_area("tweet").value == text


@pytest.mark.usefixtures("untrained")
def test_a_trace_keeps_its_probe_and_shows_three_panels_on_one_scale_and_what_they_mean():
    page = run_trace(open_page("trace"), "good day, terrible hours")
    assert not page.exception
    assert not page.error
    assert not page.info
    assert page.subheader[0].value.startswith(("Positive, P(positive) ", "Negative, P(positive) "))
    assert any("total effect" in text.value for text in page.markdown)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    bar, *panels = charts(page)[:4]
    scales = [panel["layer"][0]["encoding"]["color"]["scale"]["domain"] for panel in panels]
    assert scales == [[-1, -0.5, 0, 0.5, 1]] * 3
    low, end = bar["encoding"]["x"]["scale"]["domain"]
    assert low == -end
    for number in (1, 2, 3):
        cells = data_of(page, number)
        assert (cells["shade"] * end).tolist() == pytest.approx(cells["effect"].tolist())
    assert any("2 noise samples" in caption.value for caption in page.caption)
    assert page.button("stop").disabled

    kept = probing.kept_probe("gpt2", "logit_pair", Template())
    assert kept is not None
    assert any(f"accuracy {kept.report.accuracy:.1%}" in caption.value for caption in page.caption)
    again = open_page("trace")
    assert any("Trained on 40 tweets" in caption.value for caption in again.caption)


def test_prediction_effect_and_health_stand_before_any_cell_and_stay(monkeypatch):
    go_on = threading.Event()
    read = trace_module._read

    def held(*arguments, **options):
        assert go_on.wait(PATIENCE)
        return read(*arguments, **options)

    monkeypatch.setattr(trace_module, "_read", held)
    page = open_page("trace")
    page.text_area("tweet").set_value("good day, terrible hours")
    page.slider("samples").set_value(4)
    page.button("run").click().run()
    job = page.session_state["job:trace"]
    while (seen := job.progress()).partial is None or seen.partial.verdict.total_samples_done < 40:
        assert seen.active
    page.run()
    assert not page.exception
    assert page.subheader[0].value.startswith(("Positive, P(positive) ", "Negative, P(positive) "))
    judged = job.progress().partial.verdict
    assert judged.samples_done == 4
    effects = dashboard.plain(effect_line(judged))
    sentence = dashboard.plain(findings(judged).health.sentence)
    for line in (effects, sentence):
        assert any(line in text.value for text in page.markdown)
    assert titles(page) == []
    go_on.set()
    finish(page)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    for line in (effects, sentence):
        assert any(line in text.value for text in page.markdown)


def test_how_a_trace_is_shown_is_chosen_without_running_the_model(monkeypatch):
    made = []
    monkeypatch.setattr(
        "core.dashboard.saving.figure", lambda chart, form, **options: made.append(form)
    )
    page = run_trace(open_page("trace"), "awful hours today")
    model = dashboard.model("gpt2")
    calls, before, tokens = model.block_calls, charts(page), row_labels(page)
    page.selectbox("proxy").set_value("probability").run()
    assert charts(page) != before
    assert any(dashboard.plain(PROXIES["probability"]) in text.value for text in page.markdown)

    panels = charts(page)[1:4]
    page.button_group("rows").set_value("words").run()
    words = row_labels(page)
    assert words[:3] == ["awful *", "hours *", "today *"]
    assert len(words) < len(tokens)
    # The browser redraws a panel in place whose specification has not changed.
    assert charts(page)[1:4] == panels

    page.button_group("unit").set_value("share").run()
    assert any("in percent" in caption.value for caption in page.caption)

    page.button_group("panels").set_value("mlp").run()
    assert titles(page) == ["MLP"]
    assert charts(page)[1]["height"]["step"] > before[1]["height"]["step"]
    assert model.block_calls == calls
    # A file is made when it is asked for.
    assert any(button.proto.label == "PNG" for button in page.get("download_button"))
    assert made == []


def test_the_result_and_the_questions_stay_when_the_page_is_left():
    app = open_app()
    run_trace(app, "good day, bad hours", samples=3)
    before = charts(app)
    assert before
    app.switch_page("pages/method.py").run()
    assert not charts(app)
    app.switch_page("pages/trace.py").run()
    assert charts(app) == before
    assert app.text_area("tweet").value == "good day, bad hours"
    assert app.slider("samples").value == 3


def test_words_can_be_clicked_to_be_corrupted():
    page = open_page("trace")
    page.button_group("corrupt").set_value("words").run()
    assert page.button("run").disabled
    assert any("Type a tweet first" in caption.value for caption in page.caption)
    text = "good day, bad hours"
    page.text_area("tweet").set_value(text).run()
    assert page.button_group(f"words:{text}").options == [
        *("good", "day", dashboard.plain(","), "bad", "hours")
    ]
    assert page.button("run").disabled
    assert any("at least one word" in caption.value for caption in page.caption)
    for numbers, corrupt, span in (
        ([3], "word:3", ["\u00b7bad"]),
        ([0, 3], None, ["go", "od", "\u00b7bad"]),
    ):
        page.button_group(f"words:{text}").set_value(numbers).run()
        page.button("run").click().run()
        result = result_of(finish(page))
        assert corrupt in (None, result.settings.corrupt)
        assert [result.tokens[position] for position in result.corrupted_span] == span
        starred = [label for label in row_labels(page) if label.endswith(" *")]
        assert starred == [f"{token} *" for token in span]


def test_tokens_can_be_picked_by_hand():
    text = "awful hours"
    page = open_page("trace")
    page.text_area("tweet").set_value(text).run()
    page.button_group("corrupt").set_value("tokens").run()
    page.button_group(f"tokens:{text}").set_value([1]).run()
    page.button("run").click().run()
    assert result_of(finish(page)).corrupted_span == (1,)


def row_labels(page: AppTest) -> list[str]:
    """What stands beside the rows of the first panel."""
    spec = charts(page)[1]
    data = data_of(page, 1).to_json(orient="records")
    spec["datasets"] = {spec["data"]["name"]: json.loads(data)}
    shown = texts_of(drawn(spec))
    return shown[shown.index("layer") + 1 :]


def test_other_corruptions_reach_the_trace():
    page = open_page("trace")
    page.text_area("tweet").set_value("good day, bad hours")
    page.slider("samples").set_value(2)
    for how, samples in (("uniform", 2), ("mean", 1)):
        page.selectbox("how").set_value(how).run()
        assert page.slider("noise").disabled == (how == "mean")
        page.button("run").click().run()
        result = result_of(finish(page))
        assert (result.settings.corruption, result.samples_done) == (how, samples)
        assert not page.exception
    assert any("exact: the corruption" in unescape(c.value) for c in page.caption)


def test_a_counterfactual_is_proposed_and_its_length_compared():
    text = "not good"
    page = open_page("trace")
    page.text_area("tweet").set_value(text).run()
    page.selectbox("how").set_value("counterfactual").run()
    assert page.text_input(f"other:{text}").value == "not bad"
    assert any("Lengths match" in caption.value for caption in page.caption)
    page.text_input(f"other:{text}").set_value("not bad hours").run()
    assert any("Lengths differ" in caption.value for caption in page.caption)
    page.segmented_control("edited").set_value("all").run()
    page.button("run").click().run()
    result = result_of(finish(page))
    assert (result.settings.edited, result.alignment is None) == ("all", False)
    assert page.query_params["edited"] == "all"
    assert "aligned by the edit" in said(page)
    assert not page.exception
    page.text_input(f"other:{text}").set_value("not bad").run()
    page.button("run").click().run()
    result = result_of(finish(page))
    assert result.settings.counterfactual == "not bad"
    assert [result.tokens[position] for position in result.corrupted_span] == ["\u00b7good"]


def test_lengths_are_compared_as_the_chosen_probe_reads_them():
    # "aw" and the suffix's "ful" are one token together.
    probe = replace(make_probe(dashboard.model("gpt2")), suffix="ful hours")
    keep(probe)
    page = open_page("trace")
    page.text_area("tweet").set_value("not bad").run()
    page.selectbox("how").set_value("counterfactual").run()
    page.text_input("other:not bad").set_value("not aw").run()
    assert any("Lengths match: both make 5" in caption.value for caption in page.caption)
    page.selectbox("features").set_value(key_of(probe)).run()
    assert any("it makes 3 tokens" in caption.value for caption in page.caption)
    page.text_input("other:not bad").set_value("not good").run()
    assert any("Lengths match: both make 4" in caption.value for caption in page.caption)
    page.button("run").click().run()
    assert len(result_of(finish(page)).prompt) == 4


def unescape(shown: str) -> str:
    return "".join(unescaped(shown))


def test_settings_reach_the_trace():
    page = open_page("trace")
    page.slider("noise").set_value(1.5)
    page.number_input("seed").set_value(7)
    page.number_input("window").set_value(2)
    result = result_of(run_trace(page, "good day", samples=1))
    found = {name: getattr(result.settings, name) for name in ("noise_scale", "seed", "window")}
    assert found == {"noise_scale": 1.5, "seed": 7, "window": 2}
    assert result.settings.samples == 1
    # One sample of the cells is drawn without a standard error; the total effect has its own.
    assert all(np.isnan(errors).all() for errors in result.standard_errors.values())
    assert result.total_samples_done == 40
    assert not page.exception


@pytest.mark.usefixtures("untrained")
def test_a_tweet_that_cannot_be_traced_gets_one_sentence():
    page = open_page("trace")
    for text, sentence in (
        ("", "The tweet is empty"),
        (" \n ", "only white space"),
        ("word " * 200, "reads at most 128"),
    ):
        page = run_trace(page, text)
        assert not page.exception
        (error,) = page.error
        assert sentence in error.value.replace("\\", "")
        assert "Traceback" not in error.value
        assert not charts(page)
    assert (
        probing.kept_probe("gpt2", "logit_pair", Template()) is None
    )  # refused before any training


def test_a_failure_of_the_program_is_one_sentence_too(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("secret internals")

    monkeypatch.setattr(tracing, "trace_progressively", broken)
    page = run_trace(open_page("trace"), "good day")
    assert not page.exception
    (error,) = page.error
    assert "Something went wrong" in error.value
    assert "secret" not in error.value


def test_a_model_that_cannot_be_fetched_gets_one_sentence():
    page = open_page("trace")
    page.text_area("tweet").set_value("good day")
    page.selectbox("model").set_value("distilgpt2")
    page.button("run").click().run()
    finish(page)
    assert not page.exception
    assert len(page.error) == 1


def test_what_somebody_types_is_never_markup():
    text = "**bold** <b>tag</b> [link](http://example.org) $x$ :red[colour] `code` # title"
    page = run_trace(open_page("trace"), text, samples=1)
    assert not page.exception
    assert any(text in shown.value for shown in page.text)
    drawn = [*page.markdown, *page.caption, *page.subheader]
    assert not [element for element in drawn if "example.org" in element.value]


def test_stop_keeps_what_is_there(monkeypatch):
    one_done, go_on = threading.Event(), threading.Event()
    trace = tracing.trace_progressively

    def held(*arguments, **options):
        for result in trace(*arguments, **options):
            yield result
            if result.has_cells:
                one_done.set()
                assert go_on.wait(PATIENCE)

    monkeypatch.setattr(tracing, "trace_progressively", held)
    page = open_page("trace")
    page.text_area("tweet").set_value("good day, bad hours")
    page.button("run").click().run()
    assert one_done.wait(PATIENCE)
    page.run()
    assert not page.button("stop").disabled
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    assert any("1 noise sample of 10" in caption.value for caption in page.caption)
    # The health of the tweet is that of all ten corrupted runs, which came before the first cell.
    verdict = outcome(page, "trace").verdict
    sentence = dashboard.plain(findings(verdict).health.sentence)
    assert any(sentence in text.value for text in page.markdown)
    page.button("stop").click().run()
    go_on.set()
    finish(page)
    assert any("Stopped after" in caption.value for caption in page.caption)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    assert page.button("stop").disabled


def test_a_newer_trace_takes_the_place_of_the_one_that_runs(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    trace = tracing.trace_progressively

    def held(*arguments, **options):
        begun.set()
        assert go_on.wait(PATIENCE)
        yield from trace(*arguments, **options)

    monkeypatch.setattr(tracing, "trace_progressively", held)
    page = open_page("trace")
    page.text_area("tweet").set_value("good day")
    page.slider("samples").set_value(2)
    page.button("run").click().run()
    assert begun.wait(PATIENCE)
    first = page.session_state["job:trace"]
    page.text_area("tweet").set_value("bad hours")
    page.button("run").click().run()
    go_on.set()
    finish(page)
    assert first.progress().state == "stopped"
    assert result_of(page).prompt.tweet == "bad hours"


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        ({"state": "waiting", "place": 3}, "In the queue behind 2 others"),
        ({"state": "waiting", "place": 2}, "In the queue behind 1 other"),
        ({"state": "waiting", "place": 1}, "Next in the queue"),
        ({"state": "running"}, "Starting"),
        ({"state": "running", "note": "Tracing", "seconds_left": 12.4}, "Tracing, about 12 s left"),
        ({"state": "running", "note": "Tracing", "seconds_left": 200}, "Tracing, about 3 min left"),
        ({"state": "running", "stopping": True}, "Stopping"),
        ({"state": "done", "seconds": 0.2}, "Done in 1 s"),
        ({"state": "stopped", "seconds": 60.0}, "Stopped after 60 s"),
        ({"state": "failed"}, ""),
    ],
)
def test_how_far_a_job_is_in_words(seen, line):
    nothing = {"place": 0, "fraction": 0.0, "note": "", "seconds": 0.0, "seconds_left": None}
    nothing |= {"version": 0, "partial": None, "error": "", "stopping": False}
    assert dashboard.status_line(Progress(**nothing | seen)) == line


# --- how a result is shown -----------------------------------------------------------------------


def test_a_long_tweet_scrolls_inside_its_figure_and_is_small_to_send():
    text = "so good \U0001f600 bad https://example.org day, " * 3
    page = run_trace(open_page("trace"), text)
    assert not page.exception
    drawn = charts(page)[1:7]
    assert [chart.get("title", {}).get("text") for chart in drawn] == [
        *("Hidden state", None, "MLP", None, "Attention", None)
    ]
    sent = sum(len(chart.proto.SerializeToString()) for chart in page.get("vega_lite_chart"))
    assert sent < 1_000_000


def test_a_trace_that_says_nothing_is_grey_and_offers_stronger_noise(monkeypatch):
    monkeypatch.setattr(
        "core.tracing.findings.health_of", lambda result: Health(False, "Nothing is left.")
    )
    page = run_trace(open_page("trace"), "good day")
    assert any("Nothing is left" in text.value for text in page.markdown)
    ramp = charts(page)[1]["layer"][0]["encoding"]["color"]["scale"]["range"]
    assert ramp[0].startswith("rgba(90, 90, 90")
    page.button("ask:noise:start").click().run()
    page = answered(page, "noise")
    assert not page.error
    found = page.session_state["job:ask:noise"].progress().partial
    assert found["scale"].tolist() == [1, 2, 3, 4, 5]
    assert any("1 to 5 standard deviations" in caption.value for caption in page.caption)


def judge_by(monkeypatch, corruption: str) -> None:
    """Let the cells of this corruption alone be readable."""

    def health_of(result):
        if result.settings.corruption == corruption:
            return Health(True, "Much is taken away.")
        return Health(False, "Nothing is left.")

    for module in ("core.tracing.findings", "core.tracing.verdict", "core.dashboard.tracing"):
        monkeypatch.setattr(f"{module}.health_of", health_of)


def test_where_no_cell_can_be_read_what_shows_more_is_offered_and_traced(monkeypatch):
    judge_by(monkeypatch, "mean")
    page = run_trace(open_page("trace", anyway=False), "good day, bad hours", samples=3)
    assert not page.exception
    assert any("Nothing is left" in text.value for text in page.markdown)
    assert titles(page) == []
    offered = outcome(page, "trace")
    assert not offered.result.has_cells
    assert {a.settings.corruption for a in offered.alternatives} >= {"mean", "noise"}
    assert any("With the mean embedding: total effect" in text.value for text in page.markdown)
    assert not any(button.key == "offer:1" for button in page.button)
    page.button("offer:0").click().run()
    finish(page)
    assert not page.exception
    assert result_of(page).settings.corruption == "mean"
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    assert page.selectbox("how").value == "mean"


def test_what_was_not_tried_is_not_said_to_have_failed(monkeypatch):
    judge_by(monkeypatch, "none")
    one, go_on = threading.Event(), threading.Event()
    found = tracing.alternatives

    def held(*arguments, **options):
        for alternative in found(*arguments, **options):
            yield alternative
            one.set()
            assert go_on.wait(PATIENCE)

    monkeypatch.setattr(tracing, "alternatives", held)
    page = open_page("trace", anyway=False)
    page.text_area("tweet").set_value("good day, bad hours")
    page.slider("samples").set_value(3)
    page.button("run").click().run()
    assert one.wait(PATIENCE)
    page.run()
    assert any("Looking for a corruption" in text.value for text in page.markdown)
    page.button("stop").click().run()
    go_on.set()
    finish(page)
    assert any("Stopped before all" in text.value for text in page.markdown)
    assert not any("No other corruption" in text.value for text in page.markdown)


def test_where_nothing_shows_more_the_trace_can_go_on_as_asked(monkeypatch):
    judge_by(monkeypatch, "none")
    page = run_trace(open_page("trace", anyway=False), "good day, bad hours", samples=3)
    assert any("No other corruption or probe shows more" in text.value for text in page.markdown)
    page.button("offer:anyway").click().run()
    finish(page)
    assert not page.exception
    assert result_of(page).samples_done == 3
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    # The next tweet is judged again, unless the settings say otherwise.
    page = run_trace(page, "bad hours", samples=3)
    assert titles(page) == []
    page.toggle("anyway").set_value(True)
    page = run_trace(page, "bad hours", samples=3)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]


def test_the_word_that_matters_most_is_named_before_the_cells():
    page = run_trace(open_page("trace"), "good day, bad hours")
    word, effect = outcome(page, "trace").word
    line = "matters most: with the mean embedding in its place alone, the total effect is "
    assert word in ("good", "day,", "bad", "hours")
    shown = next(text.value for text in page.markdown if line in text.value)
    assert dashboard.plain(rounded(effect)) in shown
    # A kept trace is there at once, and says the same.
    page = run_trace(page, "good day, bad hours")
    assert outcome(page, "trace").verdict is None
    assert shown in [text.value for text in page.markdown]


def test_the_noise_that_works_can_be_taken(monkeypatch):
    frame = pd.DataFrame(
        {
            "scale": [1.0, 2.0, 3.0],
            "total_effect": [0.1, 2.0, 3.0],
            "lower": [-0.2, 1.0, 2.0],
            "upper": [0.4, 3.0, 4.0],
            "probability": [0.9, 0.4, 0.3],
            "word": [" good"] * 3,
            "changes": [True, True, True],
        }
    )
    monkeypatch.setattr(follow_ups, "total_effects", lambda *arguments, **options: frame)
    page = run_trace(open_page("trace"), "good day")
    if not any(button.key == "ask:noise:start" for button in page.button):
        page.button_group("further").set_value("noise").run()
    page.button("ask:noise:start").click().run()
    page = answered(page, "noise")
    assert page.button("use noise").label == "Trace with 2 standard deviations"
    page.button("use noise").click().run()
    assert result_of(finish(page)).settings.noise_scale == 2.0


@pytest.mark.parametrize("how", ["noise", "counterfactual"])
def test_every_control_has_a_sentence_of_help(how):
    page = open_page("trace")
    page.text_area("tweet").set_value("not good").run()
    page.selectbox("how").set_value(how).run()
    if how == "noise":
        page.button_group("corrupt").set_value("words").run()
    page.session_state["cell"] = ("attn", 3, 12)
    page.run()
    kinds = (
        *("selectbox", "slider", "number_input", "text_area", "text_input", "button_group"),
        "button",
    )
    own = {"open", "saved", "recipe"}  # of the saved traces, whose widgets have tests of their own
    without = [
        widget.key
        for kind in kinds
        for widget in page.get(kind)
        if not widget.proto.help and not (own & set((widget.key or "").split(":")))
    ]
    assert without == []


# --- one cell ------------------------------------------------------------------------------------


def with_cell(page: AppTest, cell=("hidden", 1, 2)) -> AppTest:
    page.session_state["cell"] = cell
    page.run()
    page.session_state["job:cell"].wait(PATIENCE)
    return page.run()


def test_a_cell_shows_its_samples_words_neighbours_tokens_and_lens():
    page = run_trace(open_page("trace"), "good day, bad hours", samples=3)
    for kind in ("hidden", "mlp", "attn"):
        page = with_cell(page, (kind, 1, 2))
        assert not page.exception
        assert not page.error
        shown = titles(page)
        for title in ("Every noise sample", "Logit pair in the three runs", "Along the layers"):
            assert title in shown, kind
        assert ("Each head alone" in shown) == (kind == "attn")
        headings = [text.value for text in page.markdown]
        assert "**Next tokens**" in headings
        assert "**Logit lens**" in headings
        next_tokens, lens = page.dataframe[0].value, page.dataframe[1].value
        assert list(next_tokens.columns) == ["Clean", "Corrupted", "Restored"]
        assert list(lens.columns) == ["Clean", "Corrupted"]

    # Its numbers are those of the trace.
    result = result_of(page)
    samples = cells.sample_table(result, ("mlp", 1, 2))
    assert samples["effect"].tolist() == result.sample_effects["mlp"][:, 1, 2].tolist()
    assert samples["mean"].iloc[0] == pytest.approx(result.effects["mlp"][1, 2])
    runs = cells.run_table(result, ("mlp", 1, 2)).set_index(["run", "word"])["probability"]
    good = result.under("good")
    assert runs["clean", "good"] == pytest.approx(good.high)
    # Both over the samples of the cell, fewer than those of the total effect.
    low = good.low_samples.mean()
    assert runs["corrupted", "good"] == pytest.approx(low)
    assert runs["restored", "good"] == pytest.approx(low + good.effects["mlp"][1, 2])


@pytest.mark.parametrize(("kind", "what"), [("mlp", "edit"), ("hidden", "replace")])
def test_a_cell_can_be_taken_to_the_interventions(kind, what):
    page = with_cell(run_trace(open_app(), "good day, bad hours"), (kind, 1, 2))
    page.button("cell:intervene").click().run()
    page.switch_page("pages/interventions.py").run()  # this harness does not follow by itself
    assert not page.exception
    assert page.text_area("tweet").value == "good day, bad hours"
    assert page.session_state["intervention:what"] == what
    assert page.session_state["cell"] == (kind, 1, 2)


def test_a_settled_trace_says_what_it_left_out_and_goes_on_when_asked():
    keep_model(layers=12)
    page = run_trace(open_page("trace"), "good day, terrible hours", samples=3)
    settled = outcome(page, "trace").result
    assert settled.is_coarse
    assert "Every 4th layer is traced, and all layers near where a site may be" in said(page)
    # An arrow down to a token of coarse layers finds the nearest one that was traced there.
    traced = settled.traced["hidden"][5]
    position = next(at for at, there in enumerate(traced[:-1]) if there and not traced[at + 1])
    page = with_cell(page, ("hidden", 5, position))
    assert page.session_state["cell"] == ("hidden", 5, position)
    page.button("move:Down").click().run()
    assert page.session_state["cell"] == ("hidden", 4, position + 1)
    page = ended(page.button("all cells").click().run(), "trace")
    whole = outcome(page, "trace").result
    assert not whole.is_coarse
    assert "all cells" not in [button.key for button in page.button]
    assert page.query_params["until"] == "all"
    assert whole.total_effect == settled.total_effect


def test_a_pairs_cells_are_estimated_until_they_are_run():
    keep_model(layers=12)
    page = open_page("trace")
    page.text_area("tweet").set_value("good day, not good").run()
    page.selectbox("how").set_value("counterfactual").run()
    page.button("run").click().run()
    page = finish(page)
    settled = outcome(page, "trace")
    assert not page.exception
    assert settled.result.is_coarse
    assert "Cells of half height are estimates" in said(page)
    assert "Rank correlation of estimates with the cells that were run: Hidden state" in said(page)

    seen = threading.Event()

    def before_the_first_cell(job):
        yield 0.0, replace(settled, result=settled.verdict)
        seen.wait(PATIENCE)

    held = dashboard.queue().submit("a visitor", before_the_first_cell)
    try:
        held.wait_for_partial(PATIENCE)
        page.session_state["job:trace"] = held
        page.run()
        assert not page.exception
        assert titles(page) == ["Hidden state", "MLP", "Attention"]
        assert "Cells of half height are estimates" in said(page)
        assert "Rank correlation" not in said(page)
        assert "save" not in [button.key for button in page.button]
    finally:
        seen.set()


def test_words_are_restored_at_once_where_that_is_asked():
    page = open_page("trace")
    page.segmented_control("restored").set_value("words").run()
    page = run_trace(page, "a disappointing, expensive day")
    result = outcome(page, "trace").result
    assert result.settings.rows == "words"
    assert "A cell is one word: all its tokens at once." in said(page)
    assert "rows" not in [control.key for control in page.segmented_control]
    assert page.query_params["restored"] == "words"
    several = next(t for t, span in result.spans.items() if len(span) > 1)
    page = with_cell(page, ("attn", 1, several))
    ended(page, "cell")
    assert not page.exception
    page.button("move:Down").click().run()
    assert (
        page.session_state["cell"][2] == list(result.spans)[list(result.spans).index(several) + 1]
    )


def test_a_verdict_does_not_wait_for_another_visitors_cells():
    go_on = threading.Event()

    def long(job):
        assert go_on.wait(PATIENCE)
        job.report(0.5)
        assert end.wait(PATIENCE)
        yield 1.0, None

    end = threading.Event()
    other = dashboard.queue().submit("another visitor", long, gives_way=True)
    page = open_page("trace")
    page.text_area("tweet").set_value("good day")
    page.button("run").click().run()
    go_on.set()
    mine = page.session_state["job:trace"]
    assert mine.wait_for_partial(PATIENCE).partial is not None
    assert "total effect" in said(page.run())
    assert other.progress().state == "running"
    end.set()
    assert "A cell is the change" in said(ended(page, "trace"))


def test_arrow_keys_move_between_cells_and_stop_at_the_edges():
    page = with_cell(run_trace(open_page("trace"), "good day"), ("hidden", 0, 1))
    for button, cell in [
        ("Right", ("hidden", 1, 1)),
        ("Down", ("hidden", 1, 2)),
        ("Left", ("hidden", 0, 2)),
        ("Left", ("hidden", 0, 2)),
        ("Up", ("hidden", 0, 1)),
    ]:
        assert page.button(f"move:{button}").proto.shortcut.lower().endswith(button.lower())
        page.button(f"move:{button}").click().run()
        assert page.session_state["cell"] == cell
    page.button("move:close").click().run()
    assert page.session_state["cell"] is None
    assert "Every noise sample" not in titles(page)
    # A cell that another trace does not have is left out.
    page.session_state["cell"] = ("hidden", 99, 2)
    page.run()
    assert not page.exception
    assert "Every noise sample" not in titles(page)


def test_a_click_takes_the_cell_by_which_the_selection_changed(monkeypatch):
    class State(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__

    state = State()
    monkeypatch.setattr(cells.st, "session_state", state)
    first, second = {"layer": 3, "position": 1}, {"layer": 5, "position": 2}
    for selected, cell in [
        ([first], ("mlp", 3, 1)),
        ([first, second], ("mlp", 5, 2)),
        ([second], ("mlp", 3, 1)),  # clicked again, after the keys have led elsewhere
        ([], ("mlp", 5, 2)),
    ]:
        state["heatmap:mlp"] = {"selection": {"cell": selected}}
        cells.take_click("mlp")
        assert state["cell"] == cell


def test_a_cell_of_a_model_that_is_not_here_is_shown_without_looking():
    page = open_page("trace")  # the example is the embedded model's, which this cache folder lacks
    page.session_state["cell"] = ("hidden", 3, 12)
    page.run()
    assert not page.exception
    assert "Every noise sample" in titles(page)
    assert any("not on this disk" in caption.value for caption in page.caption)


# --- further questions ---------------------------------------------------------------------------


def answered(page: AppTest, name: str) -> AppTest:
    page.session_state[f"job:ask:{name}"].wait(PATIENCE)
    return page.run()


def ask_further(page: AppTest, name: str) -> AppTest:
    page.button_group("further").set_value(name).run()
    assert any(follow_ups.QUESTIONS[name].sentence in text.value for text in page.markdown)
    page.button(f"ask:{name}:start").click().run()
    return answered(page, name)


@pytest.fixture
def healthy(monkeypatch):
    monkeypatch.setattr(
        "core.tracing.findings.health_of", lambda result: Health(True, "All is well.")
    )


@pytest.mark.usefixtures("healthy")
def test_every_further_question_is_answered_in_place():
    page = run_trace(open_page("trace"), "good day, bad hours", samples=3)
    before = len(charts(page))
    for name in follow_ups.QUESTIONS:
        page = ask_further(page, name)
        assert not page.exception, name
        assert not page.error, name
        assert len(charts(page)) > before, name
        calls = dashboard.model("gpt2").block_calls
        page.selectbox("proxy").set_value("log_ratio").run()
        if name not in ("words", "noise"):  # they are sums over passes, not traces
            assert len(charts(page)) > before, name
        assert dashboard.model("gpt2").block_calls == calls
        page.selectbox("proxy").set_value("log_odds").run()
        if name == "corruption":  # two are compared cell by cell
            shown = [unescape(text.value) for text in page.markdown]
            assert any("Hidden state: largest at" in text for text in shown)
            assert any("%** are shared" in text for text in shown)
            where = page.dataframe[0].value["where"]
            assert set(where) <= {"in both", "Gaussian noise only", "mean embedding only"}


@pytest.mark.usefixtures("healthy")
def test_an_answer_belongs_to_the_trace_that_was_asked_about():
    page = ask_further(run_trace(open_page("trace"), "good day, bad hours"), "words")
    answer = "its total effect corrupted alone is"
    assert any(answer in text.value for text in page.markdown)
    page = run_trace(page, "awful day")
    assert not any(answer in text.value for text in page.markdown)


# --- the address ---------------------------------------------------------------------------------


def reopened(page: AppTest) -> AppTest:
    """A new visitor who follows the link."""
    other = AppTest.from_file(str(ROOT / "pages" / "trace.py"), default_timeout=60)
    for key, values in page.query_params.items():
        other.query_params[key] = values
    return other.run()


def test_a_link_reproduces_the_view_without_running_the_model_again():
    text = "good day, bad hours"
    page = open_page("trace")
    page.text_area("tweet").set_value(text).run()
    page.button_group("corrupt").set_value("words").run()
    page.button_group(f"words:{text}").set_value([0, 3]).run()
    page.slider("noise").set_value(2.5)
    page.number_input("seed").set_value(4)
    page = run_trace(page, text, samples=3)
    page.selectbox("proxy").set_value("log_ratio")
    page.button_group("unit").set_value("share")
    page = with_cell(page, ("mlp", 2, 3))
    before = charts(page)
    again = ended(reopened(page), "trace")
    assert result_of(again).seconds == 0.0  # from the samples that are kept
    again = ended(again, "cell")
    assert charts(again) == before
    assert again.text_area("tweet").value == text
    assert again.query_params == page.query_params


@pytest.mark.parametrize(
    "link",
    [
        {"model": "no such model", "tweet": "good day"},
        {"noise": "a lot", "samples": "-3", "proxy": "wish", "unit": "", "cell": "hidden"},
        {"model": "gpt2", "tweet": "good day", "corrupt": "words", "span": "7.900.x"},
        {"model": "gpt2", "tweet": "good day", "how": "counterfactual", "other": "much longer day"},
        {"cell": "hidden-1-2-3", "probe": "../../etc"},
    ],
)
def test_an_address_that_means_nothing_does_no_harm(link):
    page = AppTest.from_file(str(ROOT / "pages" / "trace.py"), default_timeout=60)
    for key, value in link.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "a_b *c* [d](e) $f$ :g: <h> `i` ~j~ # k | l ! m & n http://o.org",
        "\\*",
        "1. x",
    ],
)
def test_plain_text_reads_as_it_was_typed(text):
    shown = dashboard.plain(text)
    assert "".join(part for part in unescaped(shown)) == text


def unescaped(shown: str):
    characters = iter(shown)
    for character in characters:
        yield next(characters) if character == "\\" else character
