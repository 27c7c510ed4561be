"""The pages, run as Streamlit runs them, on a small random model that stands in for GPT-2."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from drawn import charts, data_of, titles
from streamlit.testing.v1 import AppTest
from tiny_world import keep_model, keep_tweets, own_queue

from core import session
from core.jobs import Progress
from core.results import PROXIES
from core.session import asking, cells, probing, tracing

ROOT = Path(session.__file__).parents[2]
PATIENCE = 60.0  # seconds until a job that hangs is called failed
NAMES = ("trace", "probes", "average", "compare", "interventions", "method")


@pytest.fixture(autouse=True)
def small_world(own_home):
    """A cache folder that holds a tiny "gpt2" and a few tweets, and a queue of this test alone."""
    keep_model(layers=4)
    keep_tweets()
    with own_queue():
        yield


def open_page(name: str = "trace") -> AppTest:
    return AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=60).run()


def finish(page: AppTest) -> AppTest:
    """Wait for the job and draw the page as the browser would be told to."""
    page.session_state["job:trace"].wait(PATIENCE)
    return page.run()


def run_trace(page: AppTest, text: str, *, samples: int = 2) -> AppTest:
    page.text_area("tweet").set_value(text)
    page.slider("samples").set_value(samples)
    page.button("run").click().run()
    return finish(page)


def said(text: str) -> str:
    """As Markdown that is to be read as it was typed."""
    return session.plain(text)


def result_of(page: AppTest):
    return page.session_state["job:trace"].progress().partial


# --- every page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_by_itself(name):
    page = open_page(name)
    assert not page.exception
    assert page.title[0].value.lower() == name
    assert len(page.markdown) >= 1


def test_the_dashboard_opens_on_the_trace_page():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not app.exception
    assert app.title[0].value == "Trace"


@pytest.mark.parametrize("name", NAMES)
def test_the_dashboard_leads_to_every_page(name):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app.switch_page(f"pages/{name}.py").run()
    assert not app.exception
    assert app.title[0].value.lower() == name


# --- the trace page ------------------------------------------------------------------------------


def test_a_first_visit_shows_an_example_that_is_called_one():
    page = open_page()
    assert not page.exception
    assert page.selectbox("model").value == "gpt2"
    assert any("original experiment" in caption.value for caption in page.caption)
    assert any("Not trained yet" in caption.value for caption in page.caption)
    assert any("An example, traced before" in info.value for info in page.info)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    assert any("Early site at" in text.value for text in page.markdown)
    assert page.button("stop").disabled
    assert "job:trace" not in page.session_state


def test_an_example_fills_the_tweet():
    page = open_page()
    name, text = next(iter(session.example_tweets().items()))
    page.button_group("example").set_value(name).run()
    assert page.text_area("tweet").value == text


def test_a_trace_shows_three_panels_on_one_scale_and_what_they_mean():
    page = run_trace(open_page(), "good day, terrible hours")
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


def test_the_probe_is_kept_and_its_accuracy_shown():
    page = run_trace(open_page(), "good day")
    kept = probing.kept_probe("gpt2", "logit_pair")
    assert kept is not None
    assert any(f"{kept.report.accuracy:.1%} right" in caption.value for caption in page.caption)
    again = open_page()
    assert any("Trained on 40 tweets" in caption.value for caption in again.caption)


def test_another_proxy_is_read_without_running_the_model():
    page = run_trace(open_page(), "good day, bad hours")
    model = session.model("gpt2")
    calls, spec = model.block_calls, charts(page)
    page.selectbox("proxy").set_value("probability").run()
    assert model.block_calls == calls
    assert charts(page) != spec
    assert any(said(PROXIES["probability"]) in text.value for text in page.markdown)


def test_the_result_and_the_questions_stay_when_the_page_is_left():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    run_trace(app, "good day, bad hours", samples=3)
    before = charts(app)
    app.switch_page("pages/method.py").run()
    assert not charts(app)
    app.switch_page("pages/trace.py").run()
    assert charts(app) == before
    assert app.text_area("tweet").value == "good day, bad hours"
    assert app.slider("samples").value == 3


@pytest.mark.parametrize(
    ("numbers", "corrupt", "span"),
    [([3], "word:3", ["\u00b7bad"]), ([0, 3], None, ["go", "od", "\u00b7bad"])],
)
def test_words_can_be_clicked_to_be_corrupted(numbers, corrupt, span):
    text = "good day, bad hours"
    page = open_page()
    page.text_area("tweet").set_value(text).run()
    page.button_group("corrupt").set_value("words").run()
    words = page.button_group(f"words:{text}")
    assert words.options == [
        "good",
        "day",
        said(","),
        "bad",
        "hours",
    ]
    assert page.button("run").disabled
    assert any("at least one word" in caption.value for caption in page.caption)
    words.set_value(numbers).run()
    page.button("run").click().run()
    finish(page)
    result = result_of(page)
    assert corrupt in (None, result.settings.corrupt)
    assert [result.tokens[position] for position in result.corrupted_span] == span
    starred = [label for label in row_labels(page) if label.endswith(" *")]
    assert starred == [f"{token} *" for token in span]


def test_tokens_can_be_picked_by_hand():
    text = "awful hours"
    page = open_page()
    page.text_area("tweet").set_value(text).run()
    page.button_group("corrupt").set_value("tokens").run()
    page.button_group(f"tokens:{text}").set_value([1]).run()
    page.button("run").click().run()
    assert result_of(finish(page)).corrupted_span == (1,)


def row_labels(page: AppTest) -> list[str]:
    """What stands beside the rows of the first panel."""
    axis = charts(page)[1]["layer"][0]["encoding"]["y"]["axis"]
    labels = json.loads(axis["labelExpr"].removeprefix("(").removesuffix(")[datum.value]"))
    return [labels[str(row)] for row in sorted(set(data_of(page, 1)["row"]))]


def test_words_cannot_be_clicked_before_there_are_any():
    page = open_page()
    page.button_group("corrupt").set_value("words").run()
    assert page.button("run").disabled
    assert any("Type a tweet first" in caption.value for caption in page.caption)


@pytest.mark.parametrize("how", ["uniform", "mean"])
def test_other_corruptions_reach_the_trace(how):
    page = open_page()
    page.selectbox("how").set_value(how).run()
    assert page.slider("noise").disabled == (how == "mean")
    page.text_area("tweet").set_value("good day, bad hours")
    if how == "uniform":
        page.slider("samples").set_value(2)
    page.button("run").click().run()
    result = result_of(finish(page))
    assert result.settings.corruption == how
    assert result.samples_done == (2 if how == "uniform" else 1)
    assert not page.exception
    if how == "mean":
        assert any("exact, since the corruption" in unescape(c.value) for c in page.caption)


def test_a_counterfactual_is_proposed_and_its_length_compared():
    text = "not good"
    page = open_page()
    page.text_area("tweet").set_value(text).run()
    page.selectbox("how").set_value("counterfactual").run()
    assert page.text_input(f"other:{text}").value == "not bad"
    assert any("Lengths match" in caption.value for caption in page.caption)
    page.text_input(f"other:{text}").set_value("not bad hours").run()
    assert any("Lengths differ" in caption.value for caption in page.caption)
    assert page.button("run").disabled
    page.text_input(f"other:{text}").set_value("not bad").run()
    page.button("run").click().run()
    result = result_of(finish(page))
    assert result.settings.counterfactual == "not bad"
    assert [result.tokens[position] for position in result.corrupted_span] == ["\u00b7good"]


def unescape(shown: str) -> str:
    return "".join(unescaped(shown))


def test_settings_reach_the_trace():
    page = open_page()
    page.text_area("tweet").set_value("good day")
    page.slider("noise").set_value(1.5)
    page.number_input("seed").set_value(7)
    page.number_input("window").set_value(2)
    run_trace(page, "good day", samples=1)
    result = page.session_state["job:trace"].progress().partial
    settings = result.settings
    assert (settings.noise_scale, settings.seed, settings.window, settings.samples) == (
        1.5,
        7,
        2,
        1,
    )
    assert math.isnan(result.low_error)  # one sample is drawn without a standard error
    assert not page.exception


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The tweet is empty"),
        (" \n ", "only white space"),
        ("word " * 200, "reads at most 128"),
    ],
)
def test_a_tweet_that_cannot_be_traced_gets_one_sentence(text, sentence):
    page = run_trace(open_page(), text)
    assert not page.exception
    (error,) = page.error
    assert sentence in error.value.replace("\\", "")
    assert "Traceback" not in error.value
    assert not charts(page)
    assert probing.kept_probe("gpt2", "logit_pair") is None  # refused before any training


def test_a_failure_of_the_program_is_one_sentence_too(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("secret internals")

    monkeypatch.setattr(tracing, "trace_progressively", broken)
    page = run_trace(open_page(), "good day")
    assert not page.exception
    (error,) = page.error
    assert "Something went wrong" in error.value
    assert "secret" not in error.value


def test_a_model_that_cannot_be_fetched_gets_one_sentence():
    page = open_page()
    page.text_area("tweet").set_value("good day")
    page.selectbox("model").set_value("distilgpt2")
    page.button("run").click().run()
    finish(page)
    assert not page.exception
    assert len(page.error) == 1


def test_what_somebody_types_is_never_markup():
    text = "**bold** <b>tag</b> [link](http://example.org) $x$ :red[colour] `code` # title"
    page = run_trace(open_page(), text, samples=1)
    assert not page.exception
    assert any(text in shown.value for shown in page.text)
    drawn = [*page.markdown, *page.caption, *page.subheader]
    assert not [element for element in drawn if "example.org" in element.value]


def test_stop_keeps_what_is_there(monkeypatch):
    import threading

    one_done, go_on = threading.Event(), threading.Event()
    trace = tracing.trace_progressively

    def held(*arguments, **options):
        for result in trace(*arguments, **options):
            yield result
            one_done.set()
            assert go_on.wait(PATIENCE)

    monkeypatch.setattr(tracing, "trace_progressively", held)
    page = open_page()
    page.text_area("tweet").set_value("good day, bad hours")
    page.button("run").click().run()
    assert one_done.wait(PATIENCE)
    page.run()
    assert not page.button("stop").disabled
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    assert any("1 noise sample of 10" in caption.value for caption in page.caption)
    assert any("no interval yet" in text.value for text in page.markdown)
    page.button("stop").click().run()
    go_on.set()
    finish(page)
    assert any("Stopped after" in caption.value for caption in page.caption)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    assert page.button("stop").disabled


def test_a_newer_trace_takes_the_place_of_the_one_that_runs(monkeypatch):
    import threading

    begun, go_on = threading.Event(), threading.Event()
    trace = tracing.trace_progressively

    def held(*arguments, **options):
        begun.set()
        assert go_on.wait(PATIENCE)
        yield from trace(*arguments, **options)

    monkeypatch.setattr(tracing, "trace_progressively", held)
    page = open_page()
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
    assert page.session_state["job:trace"].progress().partial.prompt.tweet == "bad hours"


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        ({"state": "waiting", "place": 3}, "In the queue behind 2 others"),
        ({"state": "waiting", "place": 2}, "In the queue behind 1 other"),
        ({"state": "waiting", "place": 1}, "Next in the queue"),
        ({"state": "running"}, "Starting"),
        ({"state": "running", "note": "Tracing", "seconds_left": 12.4}, "Tracing, about 12 s left"),
        (
            {"state": "running", "note": "Tracing", "seconds_left": 200.0},
            "Tracing, about 3 min left",
        ),
        ({"state": "running", "stopping": True}, "Stopping"),
        ({"state": "done", "seconds": 0.2}, "Done in 1 s"),
        ({"state": "stopped", "seconds": 60.0}, "Stopped after 60 s"),
        ({"state": "failed"}, ""),
    ],
)
def test_how_far_a_job_is_in_words(seen, line):
    nothing = {
        "place": 0,
        "fraction": 0.0,
        "note": "",
        "seconds": 0.0,
        "seconds_left": None,
        "version": 0,
        "partial": None,
        "error": "",
        "stopping": False,
    }
    assert session.status_line(Progress(**nothing | seen)) == line


def test_downloads_are_made_when_they_are_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(
        "core.session.saving.figure_bytes", lambda chart, form, **options: made.append(form)
    )
    page = run_trace(open_page(), "good day")
    assert any(button.proto.label == "PNG" for button in page.get("download_button"))
    assert made == []


# --- how a result is shown -----------------------------------------------------------------------


def test_effects_can_be_shown_in_percent_of_the_total_effect():
    page = run_trace(open_page(), "good day, bad hours")
    calls = session.model("gpt2").block_calls
    page.button_group("unit").set_value("share").run()
    assert any("in percent" in caption.value for caption in page.caption)
    assert session.model("gpt2").block_calls == calls


def test_rows_can_be_words():
    page = run_trace(open_page(), "awful hours today")
    tokens, drawn = row_labels(page), charts(page)[1:4]
    page.button_group("rows").set_value("words").run()
    words = row_labels(page)
    assert words[:3] == ["awful *", "hours *", "today *"]
    assert len(words) < len(tokens)
    # The browser redraws a panel in place whose specification has not changed.
    assert charts(page)[1:4] == drawn


def test_one_kind_can_be_shown_large():
    page = run_trace(open_page(), "good day, bad hours")
    small = charts(page)[1]["height"]["step"]
    page.button_group("panels").set_value("mlp").run()
    assert titles(page) == ["MLP"]
    assert charts(page)[1]["height"]["step"] > small


def test_a_long_tweet_scrolls_inside_its_figure_and_is_small_to_send():
    text = "so good \U0001f600 bad https://example.org day, " * 3
    page = run_trace(open_page(), text)
    assert not page.exception
    drawn = charts(page)[1:7]
    assert [chart.get("title", {}).get("text") for chart in drawn] == [
        *("Hidden state", None, "MLP", None, "Attention", None)
    ]
    sent = sum(len(chart.proto.SerializeToString()) for chart in page.get("vega_lite_chart"))
    assert sent < 1_000_000


def test_a_trace_that_says_nothing_is_grey_and_offers_stronger_noise(monkeypatch):
    from core.findings import Health

    monkeypatch.setattr("core.findings.health_of", lambda result: Health(False, "Nothing is left."))
    page = run_trace(open_page(), "good day")
    assert any("Nothing is left" in text.value for text in page.markdown)
    ramp = charts(page)[1]["layer"][0]["encoding"]["color"]["scale"]["range"]
    assert ramp[0].startswith("rgba(90, 90, 90")
    page.button("ask:noise:start").click().run()
    page = answered(page, "noise")
    assert not page.error
    found = page.session_state["job:ask:noise"].progress().partial
    assert found["scale"].tolist() == [1, 2, 3, 4, 5]
    assert any("1 to 5 standard deviations" in caption.value for caption in page.caption)


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
    monkeypatch.setattr(asking, "total_effects", lambda *arguments, **options: frame)
    page = run_trace(open_page(), "good day")
    if not any(button.key == "ask:noise:start" for button in page.button):
        page.button_group("further").set_value("noise").run()
    page.button("ask:noise:start").click().run()
    page = answered(page, "noise")
    assert page.button("use noise").label == "Trace with 2 standard deviations"
    page.button("use noise").click().run()
    assert result_of(finish(page)).settings.noise_scale == 2.0


@pytest.mark.parametrize("how", ["noise", "counterfactual"])
def test_every_control_has_a_sentence_of_help(how):
    page = open_page()
    page.text_area("tweet").set_value("not good").run()
    page.selectbox("how").set_value(how).run()
    if how == "noise":
        page.button_group("corrupt").set_value("words").run()
    page.session_state["cell"] = ("attn", 3, 12)
    page.run()
    kinds = (
        "selectbox",
        "slider",
        "number_input",
        "text_area",
        "text_input",
        "button_group",
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


@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn"])
def test_a_cell_shows_its_samples_words_neighbours_tokens_and_lens(kind):
    page = with_cell(run_trace(open_page(), "good day, bad hours", samples=3), (kind, 1, 2))
    assert not page.exception
    assert not page.error
    shown = titles(page)
    for title in ("Every noise sample", "The two words in the three runs", "Along the layers"):
        assert title in shown
    assert ("Each head alone" in shown) == (kind == "attn")
    headings = [text.value for text in page.markdown]
    assert "**Next tokens**" in headings
    assert "**Logit lens**" in headings
    next_tokens, lens = page.dataframe[0].value, page.dataframe[1].value
    assert list(next_tokens.columns) == ["Clean", "Corrupted", "Restored"]
    assert list(lens.columns) == ["Clean", "Corrupted"]


@pytest.mark.parametrize(("kind", "what"), [("mlp", "edit"), ("hidden", "replace")])
def test_a_cell_can_be_taken_to_the_interventions(kind, what):
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    page = with_cell(run_trace(page, "good day, bad hours"), (kind, 1, 2))
    page.button("cell:intervene").click().run()
    page.switch_page("pages/interventions.py").run()  # this harness does not follow by itself
    assert not page.exception
    assert page.text_area("tweet").value == "good day, bad hours"
    assert page.session_state["intervention:what"] == what
    assert page.session_state["cell"] == (kind, 1, 2)


def test_the_numbers_of_a_cell_are_those_of_the_trace():
    page = run_trace(open_page(), "good day, bad hours", samples=3)
    result = result_of(page)
    samples = cells.sample_table(result, ("mlp", 1, 2))
    assert samples["effect"].tolist() == result.sample_effects["mlp"][:, 1, 2].tolist()
    assert samples["mean"].iloc[0] == pytest.approx(result.effects["mlp"][1, 2])
    runs = cells.run_table(result, ("mlp", 1, 2)).set_index(["run", "word"])["probability"]
    good = result.under("good")
    assert runs["clean", "good"] == pytest.approx(good.high)
    assert runs["corrupted", "good"] == pytest.approx(good.low)
    assert runs["restored", "good"] == pytest.approx(good.low + good.effects["mlp"][1, 2])


def test_arrow_keys_move_between_cells_and_stop_at_the_edges():
    page = with_cell(run_trace(open_page(), "good day"), ("hidden", 0, 1))
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


def test_a_cell_that_another_trace_does_not_have_is_left_out():
    page = run_trace(open_page(), "good day")
    page.session_state["cell"] = ("hidden", 99, 2)
    page.run()
    assert not page.exception
    assert "Every noise sample" not in titles(page)


def test_a_cell_of_a_model_that_is_not_here_is_shown_without_looking():
    page = open_page()  # the example is the embedded model's, which this cache folder lacks
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
    assert any(asking.QUESTIONS[name].sentence in text.value for text in page.markdown)
    page.button(f"ask:{name}:start").click().run()
    return answered(page, name)


@pytest.fixture
def healthy(monkeypatch):
    from core.findings import Health

    monkeypatch.setattr("core.findings.health_of", lambda result: Health(True, "All is well."))


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("name", list(asking.QUESTIONS))
def test_every_further_question_is_answered_in_place(name):
    page = run_trace(open_page(), "good day, bad hours", samples=3)
    before = len(charts(page))
    page = ask_further(page, name)
    assert not page.exception
    assert not page.error
    assert len(charts(page)) > before
    calls = session.model("gpt2").block_calls
    page.selectbox("proxy").set_value("log_ratio").run()
    if name not in ("words", "noise"):  # they are sums over passes, not traces
        assert len(charts(page)) > before
    assert session.model("gpt2").block_calls == calls


@pytest.mark.usefixtures("healthy")
def test_two_corruptions_are_compared_cell_by_cell():
    page = ask_further(run_trace(open_page(), "good day, bad hours", samples=3), "corruption")
    shown = [unescape(text.value) for text in page.markdown]
    assert any("Hidden state: largest at" in text for text in shown)
    assert any("%** are shared" in text for text in shown)
    where = page.dataframe[0].value["where"]
    assert set(where) <= {"in both", "Gaussian noise only", "mean embedding only"}


@pytest.mark.usefixtures("healthy")
def test_an_answer_belongs_to_the_trace_that_was_asked_about():
    page = ask_further(run_trace(open_page(), "good day, bad hours"), "words")
    page = run_trace(page, "awful day")
    assert not any("matters most" in text.value for text in page.markdown)


# --- the address ---------------------------------------------------------------------------------


def reopened(page: AppTest) -> AppTest:
    """A new visitor who follows the link."""
    other = AppTest.from_file(str(ROOT / "pages" / "trace.py"), default_timeout=60)
    for key, values in page.query_params.items():
        other.query_params[key] = values
    return other.run()


def test_a_link_reproduces_the_view_without_running_the_model_again():
    text = "good day, bad hours"
    page = open_page()
    page.text_area("tweet").set_value(text).run()
    page.button_group("corrupt").set_value("words").run()
    page.button_group(f"words:{text}").set_value([0, 3]).run()
    page.slider("noise").set_value(2.5)
    page.number_input("seed").set_value(4)
    page = run_trace(page, text, samples=3)
    page.selectbox("proxy").set_value("log_ratio")
    page.button_group("unit").set_value("share")
    page = with_cell(page, ("mlp", 2, 3))
    before, calls = charts(page), session.model("gpt2").block_calls
    again = reopened(page)
    again.session_state["job:trace"].wait(PATIENCE)
    assert session.model("gpt2").block_calls == calls  # from the samples that are kept
    again.run()
    again.session_state["job:cell"].wait(PATIENCE)
    again.run()
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
    shown = session.plain(text)
    assert "".join(part for part in unescaped(shown)) == text


def unescaped(shown: str):
    characters = iter(shown)
    for character in characters:
        yield next(characters) if character == "\\" else character
