"""The Compare page: models chosen, traced one after the other, side by side; models on disk."""

import json
import shutil
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from byte_model import byte_model
from drawn import charts
from hub_server import serve
from small_pages import PATIENCE, ended, open_page, outcome
from streamlit.testing.v1 import AppTest
from tiny_models import make_network, save_folder
from tiny_probes import make_probe
from tiny_world import keep_model, keep_probe, keep_tweets, own_queue

from core import dashboard
from core.charts import comparison as comparison_charts
from core.dashboard import comparing
from core.dashboard.comparing import Compared, Entry
from core.exporting import embedded_settings
from core.exporting.bundle import bundle
from core.exporting.figure_files import figure_bytes
from core.exporting.recipe import read_recipes
from core.models import hub, installed
from core.models.loading import load_model
from core.models.registry import EMBEDDED, model_folder
from core.server.job_queue import Queue
from core.sweeps import comparison, sweep
from core.tracing.result import TraceSettings

TWEET = "terrible day \U0001f621\U0001f621 bad"
SMALL, BYTES = "someone/small-gpt2", "someone/byte-llama"
NAME, HUB_ID = "distilgpt2", "distilbert/distilgpt2"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A GPT-2 and a Llama with another tokenizer, each in a folder of its own."""
    gpt2 = save_folder(tmp_path_factory.mktemp("models") / "small-gpt2", "gpt2", layers=3)
    model = byte_model(layers=2)
    bytes_ = tmp_path_factory.mktemp("models") / "byte-llama"
    # The model's own network is in oneDNN's order, which is not saved.
    network = make_network("llama", layers=2)
    network.config.max_position_embeddings = model.max_positions
    network.save_pretrained(bytes_)
    model.tokenizer.save_pretrained(bytes_)
    return str(gpt2), str(bytes_)


@pytest.fixture
def small_world(own_home, folders):
    """A cache folder with a few tweets and three tiny models, and a queue of this test alone."""
    keep_model(layers=4, source="hub: openai-community/gpt2")
    for name, folder in zip((SMALL, BYTES), folders, strict=True):
        kept = shutil.copytree(folder, model_folder(name))
        hub.write_description(kept, key=kept.name, source=f"hub: {name}", revision="0")
    keep_tweets()
    for name in ("gpt2", SMALL, BYTES):
        keep_probe(name)
    with own_queue():
        yield own_home


def finish(page: AppTest, slot: str = "compare") -> AppTest:
    assert not ended(page, slot).exception
    return page


def compare(page: AppTest, names, twins=(), text=TWEET) -> AppTest:
    page.text_area("tweet").set_value(text)
    page.multiselect("compare:models").set_value(list(names))
    page.slider("compare:samples").set_value(2)
    page.run()
    page.multiselect("compare:twins").set_value(list(twins)).run()
    page.button("compare:run").click().run()
    return finish(page)


def view(page: AppTest, *, share: bool = False) -> comparing.View:
    found = comparing.view_of(outcome(page, "compare"), share=share)
    assert found is not None
    return found


# --- choosing ------------------------------------------------------------------------------------


def test_the_page_opens_with_a_model_and_its_twin(small_world):
    page = open_page("compare")
    assert page.multiselect("compare:models").value == ["gpt2"]
    assert page.multiselect("compare:twins").value == ["gpt2"]
    assert not page.button("compare:run").disabled
    page.multiselect("compare:twins").set_value([]).run()
    assert page.button("compare:run").disabled
    assert any("Choose a second model" in caption.value for caption in page.caption)


def test_choices_say_what_a_model_costs(small_world, folders):
    assert comparing.describe("gpt2").endswith("on disk")
    assert comparing.describe("gpt2-xl").endswith("6,431 MB to download")
    assert comparing.describe(folders[0]) == "small-gpt2 \u00b7 local folder"
    assert comparing.describe("someone/else").endswith("hub")


# --- comparing -----------------------------------------------------------------------------------


def test_models_of_two_tokenizers_and_a_twin_stand_in_common_rows_on_one_scale(small_world):
    page = compare(open_page("compare"), [SMALL, BYTES], twins=[SMALL])
    shown = view(page)
    assert shown.names == (SMALL, f"{SMALL}, untrained", BYTES)
    assert not shown.by_token
    rows = list(dict.fromkeys(shown.cells["token"]))
    assert "\U0001f621\U0001f621" in rows or rows.count("\U0001f621") == 1
    assert rows[-3:] == ["I", "am", "feeling"]
    assert shown.cells.groupby("trace")["position"].nunique().nunique() == 1
    panels = [chart for chart in charts(page) if "layer" in chart and "color" in str(chart)]
    maps = [c for c in panels if "tokens or words down" in c.get("description", "")]
    assert len(maps) >= 9
    scales = {
        json.dumps(chart["layer"][0]["encoding"]["color"]["scale"]["domain"]) for chart in maps[:9]
    }
    assert len(scales) == 1
    captions = " ".join(caption.value for caption in page.caption)
    assert "tokenizers differ" in captions
    assert page.dataframe[0].value["trace"].tolist() == list(shown.names)


def test_a_twin_is_read_by_the_probe_of_its_model(small_world):
    page = compare(open_page("compare"), ["gpt2"], twins=["gpt2"])
    trained, twin = view(page).results
    assert trained.probe == twin.probe
    assert twin.model_identity == f"untrained-0-{trained.model_identity}"
    assert view(page).by_token
    # They are of one shape: their difference is offered.
    assert page.selectbox("compare:pair").value == (0, 1)


def test_depth_and_unit_are_choices(small_world):
    page = compare(open_page("compare"), ["gpt2", SMALL])
    assert view(page).layers == {"gpt2": 4, SMALL: 3}
    before = [c for c in charts(page) if "tokens or words down" in c.get("description", "")]
    assert before[0]["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0, 4]
    page.segmented_control("compare:depth").set_value("relative").run()
    page.segmented_control("compare:share").set_value(True).run()
    assert not page.exception
    after = [c for c in charts(page) if "tokens or words down" in c.get("description", "")]
    assert after[0]["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0, 1]
    assert "% of the total effect" in after[0]["description"]
    assert any("No two of these models" in caption.value for caption in page.caption)


def test_a_model_that_cannot_be_had_is_left_out_with_a_sentence(small_world):
    page = compare(open_page("compare"), ["gpt2", "pythia-70m"], twins=["gpt2"])
    assert len(view(page).names) == 2
    assert len(page.warning) == 1
    assert "pythia" in page.warning[0].value
    assert not page.error


def test_where_no_model_can_be_had_the_page_says_why(small_world):
    page = compare(open_page("compare"), ["pythia-70m", "pythia-160m"])
    assert "the hub was not reached" in page.error[0].value
    page = compare(open_page("compare"), ["gpt2"], twins=["gpt2"], text="  ")
    assert "type a few words" in page.error[0].value


def test_a_model_too_large_for_the_memory_is_refused(small_world, monkeypatch):
    monkeypatch.setattr(comparing, "_free_memory", lambda: (10**6, "computer"))
    page = compare(open_page("compare"), ["gpt2"], twins=["gpt2"])
    assert "GB of memory, and the computer has" in page.error[0].value.replace("\\", "")


def test_models_are_let_go_before_the_next_is_loaded(small_world, folders, monkeypatch):
    import gc
    import weakref

    alive: list[weakref.ref] = []
    most = []
    load = dashboard.load_model

    def watched(*arguments, **options):
        gc.collect()
        most.append(sum(reference() is not None for reference in alive))
        model = load(*arguments, **options)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(dashboard, "load_model", watched)
    entries = [Entry("gpt2"), Entry("gpt2", untrained=True), Entry(folders[0])]
    queue = Queue()
    work = comparing.comparing(entries, "logit_pair", TWEET, TraceSettings(samples=2))
    done = queue.submit("someone", work).wait(PATIENCE)
    queue.close()
    assert done.state == "done"
    assert most == [0, 0, 0]
    assert [one.device for one in done.partial] == ["cpu"] * 3


# --- taking away ---------------------------------------------------------------------------------


def test_a_comparison_is_saved_whole_and_can_be_made_again(small_world):
    page = compare(open_page("compare"), [SMALL, BYTES])
    shown = view(page)
    keys = {button.key for button in page.get("download_button")}
    assert {"save:compare:zip", "save:compare:comparison:pdf"} <= keys
    caption = comparing.caption_of(shown)
    chart = comparison_charts.panels(
        shown.cells, shown.layers, unit=shown.unit, title="Title", caption=caption
    )
    svg = figure_bytes(chart, "svg").decode()
    for name in shown.names:
        assert f"Hidden state, {name}" in svg
    for token in set(shown.cells["token"]):
        assert token in svg
    recipes = comparing.Recipes.of(shown.results)
    content = bundle({}, {"cells": shown.cells}, caption=caption, recipe=recipes.to_json())
    again = [recipe.run() for recipe in read_recipes(content)]
    for before, after in zip(shown.results, again, strict=True):
        pd.testing.assert_frame_equal(before.frame(), after.frame())
    assert embedded_settings.read(content) is not None


# --- the models on this disk ---------------------------------------------------------------------


@pytest.fixture
def served(small_world, folders, monkeypatch):
    with serve({HUB_ID: Path(folders[0])}) as hub_in_miniature:
        monkeypatch.setenv("HF_ENDPOINT", hub_in_miniature.address)
        yield hub_in_miniature


def fetch(page: AppTest, name: str) -> AppTest:
    page.selectbox("fetch:name").set_value(name).run()
    page.button("fetch:go").click().run()
    return finish(page, "fetch")


def test_a_model_is_fetched_listed_and_removed(served):
    page = fetch(open_page("compare"), NAME)
    assert any("is on this disk" in message.value for message in page.success)
    assert {model.name for model in installed.shelved()} == {"gpt2", SMALL, BYTES, NAME}
    for name in (NAME, SMALL):
        page.button(f"remove:{model_folder(name).name}").click().run()
        assert not page.exception
    assert [model.name for model in installed.shelved()] == ["gpt2", BYTES]


@pytest.mark.usefixtures("served")
def test_a_download_does_not_wait_for_what_is_computed():
    free = threading.Event()

    def busy(job):
        free.wait(PATIENCE)
        yield 1.0, None

    computed = dashboard.queue().submit("someone else", busy)
    try:
        page = fetch(open_page("compare"), NAME)
        assert any("is on this disk" in message.value for message in page.success)
        assert computed.progress().active
    finally:
        free.set()


def test_a_download_is_cancelled_and_resumed(served, folders):
    size = (Path(folders[0]) / "model.safetensors").stat().st_size
    served.seconds_a_part = 2.0  # a hundred seconds in all, to be cancelled within
    page = open_page("compare")
    page.selectbox("fetch:name").set_value(NAME).run()
    page.button("fetch:go").click().run()
    job = page.session_state["job:fetch"]
    until = time.monotonic() + PATIENCE
    while not served.sent.get("model.safetensors"):
        assert time.monotonic() < until
        time.sleep(0.05)
    page.run()
    page.button("fetch:cancel").click().run()
    assert job.wait(PATIENCE).state == "stopped"
    page.run()
    assert any("Cancelled" in message.value for message in page.info)
    assert [waiting.name for waiting in installed.unfinished()] == [NAME]
    sent = served.sent["model.safetensors"]
    assert sent < size
    served.seconds_a_part = 0.0
    page.button(f"resume:{NAME}").click().run()
    finish(page, "fetch")
    assert NAME in {model.name for model in installed.shelved()}
    assert served.sent["model.safetensors"] < size + sent


def test_what_arrived_can_be_discarded(served):
    partial = model_folder(NAME).with_name(f".{NAME}.{'a' * 40}.fetching")
    partial.mkdir(parents=True)
    (partial / "model.safetensors.part").write_bytes(b"x" * 1000)
    page = open_page("compare")
    page.button(f"discard:{NAME}").click().run()
    assert not page.exception
    assert installed.unfinished() == []


@pytest.mark.parametrize(
    ("name", "prepare", "sentence"),
    [
        ("pythia-70m", {}, "has no model"),
        (NAME, {"refused": {"listing": 403}}, "asks for an agreement"),
        (NAME, {"cut_after": {"model.safetensors": 50}}, "did not arrive whole"),
        (NAME, {"altered": {"config.json"}}, "altered on its way"),
    ],
)
def test_a_download_that_fails_says_why(served, name, prepare, sentence):
    for attribute, value in prepare.items():
        setattr(served, attribute, value)
    page = fetch(open_page("compare"), name)
    assert sentence in page.error[-1].value.replace("\\", "")
    assert [model.name for model in installed.shelved()] == ["gpt2", BYTES, SMALL]


# --- the embedded model --------------------------------------------------------------------------


@pytest.mark.embedded
def test_the_embedded_model_against_its_twin_and_a_second_family(
    embedded_home, folders, tmp_path, monkeypatch
):
    """On a short tweet with emoji, by hidden states alone: rows are words, in the same places."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(embedded_home / "models", target_is_directory=True)
    monkeypatch.setenv("SENTITRACE_HOME", str(home))
    keep_tweets()
    entries = [Entry(EMBEDDED), Entry(EMBEDDED, untrained=True), Entry(folders[0])]
    settings = TraceSettings(kinds=("hidden",), samples=2, every=3)
    queue = Queue()
    work = comparing.comparing(entries, "logit_pair", TWEET, settings)
    done: tuple[Compared, ...] = queue.submit("someone", work).wait(600).partial
    queue.close()
    st.cache_resource.clear()
    assert [one.says for one in done] == ["", "", ""]
    found = comparing.view_of(done, share=False)
    assert found is not None
    assert found.names == (EMBEDDED, f"{EMBEDDED}, untrained", "small-gpt2")
    words = [word.text for word in found.results[0].prompt.words]
    rows = found.cells.drop_duplicates("position").sort_values("position")["token"].tolist()
    assert "".join(rows) == "".join(words)
    trained, twin, other = found.results
    assert abs(trained.total_effect) > 3 * abs(twin.total_effect)
    assert (trained.layers, other.layers) == (30, 3)


# --- stored averages -----------------------------------------------------------------------------


def sweep_of(name: str) -> None:
    """A finished sweep of six tweets by one of the tiny models."""
    model = load_model(name)
    probe = make_probe(model)
    texts = ["bad day", "good day", "awful hours", "great day", "sad bad day", "so happy"]
    tweets = pd.DataFrame({"text": texts, "label": [0, 1, 0, 1, 0, 1], "row": range(6)})
    store = sweep.create(
        model, probe, tweets, TraceSettings(kinds=("hidden",), samples=2), data="by hand"
    )
    assert list(sweep.run(model, store))


def test_stored_averages_stand_side_by_side(small_world):
    page = open_page("compare")
    page.segmented_control("compare:what").set_value("averages").run()
    assert any("Two sweeps are needed" in message.value for message in page.info)
    for name in ("gpt2", BYTES):
        sweep_of(name)
    page.run()
    page.button("compare:average").click().run()
    finish(page, "compare averages")
    found = outcome(page, "compare averages")
    cells = comparison.average_cells(found)
    assert cells.groupby("trace")["layer"].max().tolist() in ([1, 3], [3, 1])
    for name, average in found.items():
        own = cells[(cells["trace"] == name) & (cells["token"] == "Last token")]
        rows = average.frame[average.frame["role"] == "last"]
        assert own["effect"].tolist() == rows["mean"].tolist()
        assert not own["corrupted"].any()
    maps = [c for c in charts(page) if "tokens or words down" in c.get("description", "")]
    assert len(maps) == 2
    assert page.dataframe[0].value["tweets"].tolist() == [6, 6]
