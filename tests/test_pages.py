"""The pages, run as Streamlit runs them, on a small random model that stands in for GPT-2."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from tiny_models import save_folder

from core import hub, session
from core.datasets import dataset_file
from core.jobs import Progress
from core.models import model_folder
from core.results import PROXIES
from core.session import probing, tracing

ROOT = Path(session.__file__).parents[2]
PATIENCE = 60.0  # seconds until a job that hangs is called failed
NAMES = ("trace", "probes", "average", "compare", "interventions", "method")
SENTENCES = ("good day", "great happy day", "bad day", "awful sad hours")


@pytest.fixture(autouse=True)
def small_world(own_home):
    """A cache folder that holds a tiny "gpt2" and a few tweets, and a queue of this test alone."""
    folder = save_folder(model_folder("gpt2"), "gpt2", layers=4)
    hub.write_description(folder, key="gpt2", source="made by hand", revision="0")
    texts = [f"{sentence} {i}" for i in range(10) for sentence in SENTENCES]
    ratings = [2.0 if i % 4 < 2 else -2.0 for i in range(len(texts))]
    dataset_file("vader-tweets").parent.mkdir(parents=True)
    pd.DataFrame({"text": texts, "rating": ratings, "row": range(len(texts))}).to_parquet(
        dataset_file("vader-tweets")
    )
    yield
    session.queue().close()
    st.cache_resource.clear()
    st.cache_data.clear()


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


def charts(page: AppTest) -> list[dict]:
    return [json.loads(chart.proto.spec) for chart in page.get("vega_lite_chart")]


def titles(page: AppTest) -> list[str]:
    return [chart["title"]["text"] for chart in charts(page) if "title" in chart]


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


def test_an_empty_page_says_what_will_be_there_and_which_model_is_chosen():
    page = open_page()
    assert page.selectbox("model").value == "gpt2"
    assert "original experiment" in page.caption[0].value
    assert any("Not trained yet" in caption.value for caption in page.caption)
    assert any("What you will see" in text.value for text in page.markdown)
    assert page.button("stop").disabled
    assert not charts(page)


def test_an_example_fills_the_tweet():
    page = open_page()
    name, text = next(iter(session.example_tweets().items()))
    page.button_group("example").set_value(name).run()
    assert page.text_area("tweet").value == text


def test_a_trace_shows_three_panels_on_one_scale_and_what_they_mean():
    page = run_trace(open_page(), "good day, terrible hours")
    assert not page.exception
    assert not page.error
    assert page.subheader[0].value.startswith(("Positive, P(positive) ", "Negative, P(positive) "))
    assert any("Total effect" in text.value for text in page.markdown)
    assert titles(page) == ["Hidden state", "MLP", "Attention"]
    bar, *panels = charts(page)
    scales = [panel["layer"][0]["encoding"]["color"]["scale"]["domain"] for panel in panels]
    assert scales[0] == scales[1] == scales[2]
    end = scales[0][-1]
    assert scales[0] == [-end, -end / 2, 0, end / 2, end]
    assert bar["encoding"]["x"]["scale"]["domain"] == [-end, end]
    assert any("2 noise samples" in caption.value for caption in page.caption)
    assert page.button("stop").disabled
    assert [button.proto.label for button in page.get("download_button")] == [
        "Save as PNG",
        "Save as SVG",
    ]


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
    assert any(PROXIES["probability"] in text.value for text in page.markdown)


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


def test_one_word_can_be_corrupted():
    page = open_page()
    page.text_area("tweet").set_value("good day, bad hours").run()
    page.selectbox("corrupt").set_value("One word").run()
    word = page.selectbox("word:good day, bad hours")
    assert word.options == ["good", "day", ",", "bad", "hours"]
    word.set_value(3)
    page.button("run").click().run()
    finish(page)
    result = page.session_state["job:trace"].progress().partial
    assert result.settings.corrupt == "word:3"
    starred = [
        label for label in json.loads(label_literal(charts(page)[1])) if label.endswith(" *")
    ]
    assert starred == ["\u00b7bad *"]


def label_literal(panel: dict) -> str:
    expression = panel["layer"][0]["encoding"]["y"]["axis"]["labelExpr"]
    return expression.removesuffix("[datum.value]")


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
    monkeypatch.setattr("core.export.figure_bytes", lambda chart, form: made.append(form))
    run_trace(open_page(), "good day")
    assert made == []


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
