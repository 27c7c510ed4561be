"""The Probes page: choose texts, train, read the report, keep, and go on to a trace."""

import json
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from tiny_models import save_folder

from core import hub, session
from core.datasets import dataset_file
from core.models import model_folder
from core.probes import Probe, kept_folder

ROOT = Path(session.__file__).parents[1]
PATIENCE = 120.0  # seconds until a job that hangs is called failed
SENTENCES = ("good day", "great happy day", "bad day", "awful sad hours")


@pytest.fixture(autouse=True)
def small_world(own_home):
    """A cache folder that holds a tiny "gpt2" and a few tweets, and a queue of this test alone."""
    folder = save_folder(model_folder("gpt2"), "gpt2", layers=3)
    hub.write_description(folder, key="gpt2", source="made by hand", revision="0")
    texts = [f"{sentence} {i}" for i in range(10) for sentence in SENTENCES]
    # Two labels that no text tells, so that a probe has something to be wrong about.
    ratings = [2.0 if i % 4 < 2 else -2.0 for i in range(len(texts))]
    ratings[0], ratings[3] = -2.0, 2.0
    dataset_file("vader-tweets").parent.mkdir(parents=True)
    pd.DataFrame({"text": texts, "rating": ratings, "row": range(100, 140)}).to_parquet(
        dataset_file("vader-tweets")
    )
    yield
    session.queue().close()
    st.cache_resource.clear()
    st.cache_data.clear()


def open_page() -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    return app.switch_page("pages/probes.py").run()


def train(page: AppTest) -> AppTest:
    page.button("train").click().run()
    return finish(page)


def without_controls(page: AppTest) -> AppTest:
    page.toggle("controls").set_value(False)
    return page


def finish(page: AppTest) -> AppTest:
    page.session_state["job:probe"].wait(PATIENCE)
    return page.run()


def charts(page: AppTest) -> list[str]:
    specs = [json.loads(chart.proto.spec) for chart in page.get("vega_lite_chart")]
    return [spec["title"]["text"] for spec in specs if "title" in spec]


def said(page: AppTest) -> str:
    drawn = [*page.markdown, *page.caption, *page.subheader, *page.error, *page.info]
    return "\n".join(element.value for element in drawn).replace("\\", "")


def test_an_empty_page_says_what_will_be_there():
    page = open_page()
    assert not page.exception
    assert "What you will see" in said(page)
    assert "20 positive and 20 negative" in said(page)
    assert not charts(page)


def test_a_probe_is_trained_judged_beside_its_controls_and_kept():
    page = train(open_page())
    assert not page.exception
    assert not page.error
    table = next(frame.value for frame in page.dataframe if "Accuracy" in frame.value)
    assert list(table[""]) == [
        "This probe",
        "The majority class",
        "The raw rule",
        "Shuffled labels",
        "The untrained twin",
        "Bag of words",
        "The VADER lexicon",
    ]
    assert "This proxy" in said(page)
    assert charts(page) == [
        "Accuracy beside its controls",
        "Confusion matrix",
        "Calibration",
        "ROC",
        "Would more texts help?",
    ]
    (path,) = kept_folder().glob("*.json")
    assert Probe.load(path).report.controls


def test_a_wrong_tweet_opens_in_the_trace_page():
    page = train(without_controls(open_page()))
    wrong = next(button for button in page.button if button.key.startswith("open:"))
    row = int(wrong.key.removeprefix("open:"))
    wrong.click().run()
    assert not page.exception
    assert page.title[0].value == "Trace"
    text = session.tweets().set_index("row")["text"][row]
    assert page.text_area("tweet").value == text
    page.session_state["job:trace"].wait(PATIENCE)
    page.switch_page("pages/trace.py").run()  # this harness does not follow to another page
    result = page.session_state["job:trace"].progress().partial
    assert result.prompt.tweet == text
    assert "Hidden state" in charts(page)
