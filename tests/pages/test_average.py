"""The Average page: begin, watch and hold sweeps, and look at what they found from every side."""

import json
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import psutil
import pytest
from average_traces import records
from drawn import charts, titles
from pair_files import CEBAB, CONTRAST, IMDB, ORIGINAL, SST2
from paths import ROOT
from streamlit.testing.v1 import AppTest
from tiny_probes import make_probe
from tiny_sweeps import as_pairs
from tiny_world import keep_model, keep_tweets, own_queue

from core import dashboard
from core.dashboard import average_views, averaging, noise_and_pairs, sweeping
from core.data.datasets import load_dataset
from core.models.loading import load_model
from core.prompts.counterfactuals import EDITS
from core.sweeps import study, sweep, two_corruptions
from core.sweeps.average import average
from core.sweeps.store import Store, sweeps
from core.sweeps.sweep import Selection
from core.sweeps.two_corruptions import TwoCorruptions
from core.tracing.result import TraceSettings

PATIENCE = 240.0  # seconds until what hangs is called failed
SENTENCES = (
    *("good day , I love the service and my flight", "great happy day , here I got it"),
    *("bad day , waiting again for my flight", "awful sad hours , the service was here", "happy"),
    "terrible day",
)


@pytest.fixture(autouse=True)
def small_world(own_home, monkeypatch, tmp_path):
    """A cache folder that holds a tiny "gpt2" and a few tweets; no example, and no other jobs."""
    keep_model(layers=4)
    texts = [f"{sentence} {i}" for i in range(6) for sentence in SENTENCES]
    ratings = [2.0 if any(w in text for w in ("good", "happy")) else -2.0 for text in texts]
    keep_tweets(texts, ratings, first_row=500)
    monkeypatch.setattr(averaging, "FILE", tmp_path / "average.json")
    with own_queue():
        yield
        for store in sweeps():
            store.stop()


def open_page(**query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.query_params.update(query)
    return settled(app.switch_page("pages/average.py").run())


def settled(page: AppTest) -> AppTest:
    """The page once its background work is over."""
    slots = (
        "job:sweep",
        "job:average",
        "job:average:other",
        "job:punctuation",
        "job:pairs",
        "job:average:corruptions",
    )
    for _ in range(4):
        jobs = [page.session_state[slot] for slot in slots if slot in page.session_state]
        for job in jobs:
            job.wait(PATIENCE)
        page.run()
        if all(page.session_state[slot] in jobs for slot in slots if slot in page.session_state):
            break
    return page


def make_store(
    n: int = 24, *, finished: bool = True, seed: int = 0, tweets: pd.DataFrame | None = None
) -> Store:
    """A sweep of the tiny model, traced in this process."""
    model = load_model("gpt2")
    store = sweep.create(
        model,
        make_probe(model),
        load_dataset("vader-tweets") if tweets is None else tweets,
        TraceSettings(samples=1, seed=seed),
        selection=Selection(n=n, seed=seed),
        data="vader-tweets",
    )
    for status in sweep.run(model, store):
        if not finished and status.done:
            store.pause()
    return store


def said(page: AppTest) -> str:
    drawn = [*page.markdown, *page.caption, *page.subheader, *page.error, *page.info]
    return "\n".join(element.value for element in drawn).replace("\\", "")


def bars(page: AppTest) -> str:
    """What stands in progress bars."""
    return "\n".join(bar.proto.text for bar in page.get("progress"))


def badges(page: AppTest) -> str:
    return " ".join(text.value for text in page.markdown if "badge" in text.value)


def keys(page: AppTest) -> list[str]:
    return [button.key for button in page.button]


def look(page: AppTest, view: str) -> AppTest:
    page.button_group("average:view").set_value(view).run()
    assert not page.exception
    return settled(page)


# --- nothing yet ---------------------------------------------------------------------------------


def test_a_page_without_any_average_says_what_will_be_there():
    page = open_page()
    assert not page.exception
    assert "What you will see" in said(page)
    assert not charts(page)
    assert "sweep:start" in keys(page)


def test_the_example_is_shown_and_labelled_as_what_it_is():
    study.save(study.study(list(records(40))), averaging.FILE)
    page = open_page()
    assert not page.exception
    assert "This is the sweep that comes with SentiTrace" in said(page)
    assert "without tweets" in said(page)
    assert titles(page)[:3] == ["Hidden state", "MLP", "Attention"]
    assert page.metric[0].label == "Average total effect, nats"
    assert "Sentiment word, last token, layers" in said(page)
    assert badges(page).count("Supported") == 4
    for view in average_views.VIEWS:
        look(page, view)
        assert not page.error
    look(page, "sweeps")
    assert "cannot be compared" in said(page)
    look(page, "peaks")
    page.session_state["average:bar"] = {"kind": "mlp", "role": "sentiment_last"}
    page.run()
    assert "This average carries no texts" in said(page)  # its data set is not on this disk


def test_a_broken_example_does_no_harm():
    averaging.FILE.write_text("{}")
    page = open_page()
    assert not page.exception
    assert "holds no study" in said(page)


# --- beginning a sweep ---------------------------------------------------------------------------


def test_a_sweep_is_begun_runs_by_itself_and_its_average_appears(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 3.0)
    page = open_page()
    page.number_input("sweep:n").set_value(12).run()
    page.number_input("sweep:every").set_value(1).run()
    assert "12 tweets, about" in said(page)
    page.button("sweep:start").click().run()
    settled(page)
    assert not page.error
    (store,) = sweeps()
    assert store.manifest["determines"]["selection"]["n"] == 12
    until = time.monotonic() + PATIENCE
    while store.status().state != "done":
        assert time.monotonic() < until, (store.folder / "log.txt").read_text()
        time.sleep(0.5)
    page = open_page()  # another visitor, later
    assert "Done" in badges(page)
    assert "12 of 12 tweets" in bars(page)
    assert "gpt2 on 12 tweets of vader-tweets" in said(page)
    assert titles(page)[:3] == ["Hidden state", "MLP", "Attention"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda page: page.multiselect("sweep:kinds").set_value([]), "Choose at least one kind"),
        (
            lambda page: page.text_input("sweep:containing").set_value("nowhere"),
            "No tweet of the data fits this selection",
        ),
    ],
)
def test_what_cannot_be_swept_is_said_in_a_sentence(change, sentence):
    page = open_page()
    change(page).run()
    assert sentence in said(page)
    page.button("sweep:start").click().run()
    settled(page)
    assert not page.exception
    assert sentence in said(page)
    assert not sweeps()


def test_what_is_asked_for_is_what_is_swept(monkeypatch):
    monkeypatch.setattr(Store, "start", lambda self, **_: [])
    page = open_page()
    page.number_input("sweep:n").set_value(5).run()
    page.selectbox("sweep:label").set_value("Negative").run()
    page.multiselect("sweep:roles").set_value(["last", "sentiment_last"]).run()
    page.number_input("sweep:most").set_value(2).run()
    page.number_input("sweep:samples").set_value(2).run()
    page.multiselect("sweep:kinds").set_value(["mlp"]).run()
    page.number_input("sweep:seed").set_value(3).run()
    page.slider("sweep:length").set_value((2, 40)).run()
    page.selectbox("sweep:corruption").set_value("uniform").run()
    page.button("sweep:start").click().run()
    settled(page)
    (store,) = sweeps()
    determines = store.manifest["determines"]
    assert determines["roles"] == ["last", "sentiment_last"]
    assert determines["most_tokens"] == 2
    assert (
        determines["selection"] | {"n": 5, "label": 0, "shortest": 2, "longest": 40}
        == (determines["selection"])
    )
    settings = store.task.settings
    assert (settings.samples, settings.kinds, settings.seed) == (2, ("mlp",), 3)
    assert (settings.every, settings.corruption) == (2, "uniform")
    assert not store.tweets["label"].any()


# --- pairs ---------------------------------------------------------------------------------------


def over_pairs(page: AppTest, source: str) -> AppTest:
    page.button_group("sweep:over").set_value("pairs").run()
    page.button_group("pairs:source").set_value(source).run()
    assert not page.exception
    return page


def test_pairs_made_of_the_tweets_are_counted_and_swept(monkeypatch):
    monkeypatch.setattr(Store, "start", lambda self, **_: [])
    page = over_pairs(open_page(), "made")
    assert page.button("sweep:start").disabled
    page.button("pairs:make").click().run()
    page = settled(page)
    assert not page.error
    made = page.session_state["job:pairs"].progress().partial
    assert made.describe() in said(page)
    (counts,) = [frame.value for frame in page.dataframe if "same_length" in frame.value]
    assert counts["kept"].tolist() == made.counts["kept"].tolist()
    kind, number = next(iter(made.frame["edit"].value_counts().items()))
    assert f"{number:,} {EDITS[kind]}" in said(page)
    page.number_input("sweep:n").set_value(5).run()
    page.selectbox("sweep:edited").set_value("all").run()
    page.selectbox("sweep:direction").set_value("corrupt").run()
    assert "5 pairs" in said(page)
    page.button("sweep:start").click().run()
    settled(page)
    (store,) = sweeps()
    settings = store.task.settings
    assert (settings.corruption, settings.edited, settings.direction) == (
        *("counterfactual", "all", "corrupt"),
    )
    assert set(store.tweets["counterfactual"]) <= set(made.frame["counterfactual"])
    assert store.manifest["origin"]["data"] == "vader-tweets, pairs"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("paired.tsv", IMDB),
        ("cebab.csv", CEBAB),
        ("sst2.tsv", SST2),
        ("pairs.csv", "text,counterfactual,label\ngood day,bad day,1\nbad day,good day,0\n"),
    ],
)
def test_files_of_the_published_shapes_are_swept_without_a_question(monkeypatch, name, content):
    monkeypatch.setattr(Store, "start", lambda self, **_: [])
    page = over_pairs(open_page(), "file")
    page.file_uploader("pairs:upload").upload(name, content.encode(), "text/csv").run()
    assert not page.exception
    assert not page.error
    assert "pair" in said(page)
    page.button("sweep:start").click().run()
    settled(page)
    (store,) = sweeps()
    assert store.task.settings.corruption == "counterfactual"


def test_the_two_files_of_a_contrast_set_are_read_together():
    page = over_pairs(open_page(), "file")
    page.file_uploader("pairs:upload").set_value(
        [
            ("test_contrast.tsv", CONTRAST.encode(), ""),
            ("test_original.tsv", ORIGINAL.encode(), ""),
        ]
    ).run()
    assert "test_original.tsv and test_contrast.tsv, row by row" in said(page)
    assert not page.button("sweep:start").disabled


def test_what_a_file_of_pairs_leaves_open_is_asked():
    page = over_pairs(open_page(), "file")
    rows = [("good day", "bad day", "up"), ("bad day", "good day", "down")]
    content = "\n".join(
        json.dumps(dict(zip(("one", "two", "felt"), row, strict=True))) for row in rows
    )
    page.file_uploader("pairs:upload").upload("mine.jsonl", content.encode(), "").run()
    assert "name the two columns of texts" in said(page)
    assert page.button("sweep:start").disabled
    for title, column in (("Texts", "one"), ("Counterfactuals", "two"), ("Labels", "felt")):
        next(box for box in page.selectbox if box.label == title).set_value(column).run()
    assert "say which are positive" in said(page)
    positive, negative, _ = [box for box in page.multiselect if ":pairs:" in box.key]
    positive.set_value(["up"])
    negative.set_value(["down"]).run()
    assert not page.exception
    assert "2 pairs of 2 texts" in said(page)
    assert not page.button("sweep:start").disabled


def test_a_sweep_over_pairs_is_shown_in_the_logit_difference_and_leads_to_its_pairs():
    model = load_model("gpt2")
    pairs = as_pairs(load_dataset("vader-tweets")[:20])
    twice = pd.concat([pairs, pairs.assign(counterfactual="not " + pairs["text"])[:4]])
    settings = TraceSettings(corruption="counterfactual", edited="all")
    store = sweep.create(model, make_probe(model), twice, settings, data="mine")
    list(sweep.run(model, store))
    page = look(open_page(), "peaks")
    assert "gpt2 on 24 pairs of 20 tweets of mine" in said(page)
    assert "log P(good) - log P(bad) (nats)" in said(page)
    peaks = averaging.study(store).average.peaks
    role = str(peaks[peaks["kind"].astype(str) == "mlp"]["role"].iloc[0])
    page.session_state["average:bar"] = {"kind": "mlp", "role": role}
    page.run()
    table = next(frame.value for frame in page.dataframe if "trace" in frame.value)
    known = set(zip(twice["text"], twice["counterfactual"], strict=True))
    assert set(zip(table["tweet"], table["other"], strict=True)) <= known
    for row in table.to_dict("records"):
        query = {k: v[0] for k, v in parse_qs(urlsplit(row["trace"]).query).items()}
        asked = (query["tweet"], query["how"], query["other"], query["edited"])
        assert asked == (row["tweet"], "counterfactual", row["other"], "all")


def test_noise_and_pairs_stand_side_by_side():
    model, tweets = load_model("gpt2"), load_dataset("vader-tweets")[:24]
    noise = make_store(24, tweets=tweets)
    page = look(open_page(sweep=noise.id), "corruptions")
    assert "There is no sweep over pairs of this model yet" in said(page)
    settings = TraceSettings(corruption="counterfactual")
    pairs = sweep.create(model, make_probe(model), as_pairs(tweets), settings, data="mine")
    list(sweep.run(model, pairs))
    expected = TwoCorruptions(
        *(average(each, normalised=True, proxy="log_ratio") for each in (noise, pairs))
    )
    page = look(open_page(sweep=pairs.id), "corruptions")
    assert not page.exception
    assert not page.error
    assert expected.sentences()[0] in said(page)
    for site in expected.sites:
        assert site.where[1:] in said(page)
    assert titles(page).count("MLP") == 4


def test_the_two_averages_that_come_along_are_shown(monkeypatch, tmp_path):
    study.save(study.study(list(records(40))), averaging.FILE)
    page = look(open_page(), "corruptions")
    assert "The example has no average over pairs" in said(page)
    model, tweets = load_model("gpt2"), load_dataset("vader-tweets")[:12]
    settings = TraceSettings(corruption="counterfactual")
    stores = [make_store(12, tweets=tweets)]
    stores.append(sweep.create(model, make_probe(model), as_pairs(tweets), settings))
    list(sweep.run(model, stores[1]))
    found = TwoCorruptions(*(average(s, normalised=True, proxy="log_ratio") for s in stores))
    monkeypatch.setattr(noise_and_pairs, "FILE", two_corruptions.save(found, tmp_path / "two.json"))
    page = open_page()
    page.selectbox("average:shown").set_value("example").run()
    look(page, "corruptions")
    assert found.sentences()[0] in said(page)


# --- watching and holding ------------------------------------------------------------------------


def test_the_list_names_the_layers_by_an_ordinal():
    model, settings = load_model("gpt2"), TraceSettings(samples=1, every=12)
    tweets = load_dataset("vader-tweets")
    store = sweep.create(model, make_probe(model), tweets, settings, selection=Selection(n=2))
    assert "every 12th layer" in sweeping.describe(store)


def test_a_running_sweep_can_be_paused_and_cancelled():
    store = make_store(finished=False)
    with store.claims() as claims:
        claims.take()
        store.wish("run")
        page = open_page()
        assert "Running" in badges(page)
        assert f"sweep:remove:{store.id}" not in keys(page)
        page.button(f"sweep:pause:{store.id}").click().run()
        assert store.wanted == "pause"
        page.button(f"sweep:cancel:{store.id}").click().run()
        assert store.wanted == "stop"
        assert not page.exception


def test_a_paused_sweep_is_resumed_and_its_average_so_far_is_shown(monkeypatch):
    store = make_store(finished=False)
    assert 0 < store.status().done < 24
    began = []
    monkeypatch.setattr(Store, "start", lambda self, **_: began.append(self.id))
    page = open_page()
    assert "Paused" in badges(page)
    assert f"on {store.status().done} tweets" in said(page)
    page.button(f"sweep:resume:{store.id}").click().run()
    assert began == [store.id]


def test_on_a_public_server_a_sweep_is_held_by_the_session_that_began_it_alone(monkeypatch):
    another = make_store(finished=False)
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    monkeypatch.setattr(Store, "start", lambda self, **_: None)
    page = open_page()
    assert "Paused" in badges(page)
    assert not any(another.id in key for key in keys(page))

    page.button("sweep:start").click().run()
    page = settled(page)
    (mine,) = {store.id for store in sweeps()} - {another.id}
    held = [key for key in keys(page) if key.startswith("sweep:resume:")]
    assert held == [f"sweep:resume:{mine}"]
    assert not any("sweep:resume:" in key for key in keys(open_page()))


def test_who_asks_for_another_visitors_sweep_can_neither_hold_it_nor_set_it_going(monkeypatch):
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    started = []
    monkeypatch.setattr(Store, "start", lambda self, **_: started.append(self.id))
    first = open_page()
    first.button("sweep:start").click().run()
    settled(first)
    (store,) = sweeps()
    assert started == [store.id]

    second = open_page()
    second.button("sweep:start").click().run()
    second = settled(second)
    assert not second.exception
    assert len(sweeps()) == 1  # it is the same one
    assert started == [store.id] * 2  # its process had ended by itself, so it goes on
    assert not any(key.startswith("sweep:resume:") for key in keys(second))

    store.pause()
    second.button("sweep:start").click().run()
    second = settled(second)
    assert started == [store.id] * 2
    assert any("has paused it" in error.value for error in second.error)
    first.run()
    first.button(f"sweep:resume:{store.id}").click().run()
    assert started == [store.id] * 3


def test_a_person_who_has_signed_in_holds_his_sweeps_after_a_reload(monkeypatch):
    monkeypatch.setenv("SENTITRACE_SIGN_IN", "1")
    people = []
    monkeypatch.setattr(sweeping.st, "user", {"sub": "one"})
    people += [sweeping.owner_here(), sweeping.owner_here()]
    monkeypatch.setattr(sweeping.st, "user", {"sub": "two"})
    people.append(sweeping.owner_here())
    assert people[0] == people[1] != people[2]
    assert "one" not in people[0]


def test_the_time_a_sweep_takes_is_not_guessed_from_a_busy_machine(monkeypatch):
    def caption(page):
        return next(text.value for text in page.caption if "tweets" in text.value)

    begun, go_on = threading.Event(), threading.Event()

    def busy(_):
        begun.set()
        assert go_on.wait(PATIENCE)
        yield 1.0, None

    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 3.0)
    held = dashboard.queue().submit("another visitor", busy)
    assert begun.wait(PATIENCE)
    assert "while other work runs here" in caption(open_page())
    go_on.set()
    held.wait(PATIENCE)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 90.0)  # another program's work
    assert "while other work runs here" in caption(open_page())
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 3.0)
    assert "of work" in caption(open_page())
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 90.0)
    assert "of work" in caption(open_page())  # it is known now


def test_a_process_that_died_is_told():
    store = make_store(finished=False)
    store.wish("run")
    page = open_page()
    assert "its process ended early" in bars(page)
    assert f"sweep:resume:{store.id}" in keys(page)


def test_tweets_that_failed_are_listed_and_can_be_tried_again(monkeypatch):
    tweets = load_dataset("vader-tweets").copy()
    tweets["text"] = tweets["text"].astype(object)
    tweets.loc[0, "text"] = "good " * 300
    store = make_store(36, tweets=tweets)
    assert store.status().failed == 1
    page = open_page()
    (table,) = [frame.value for frame in page.dataframe if "reason" in frame.value]
    assert "shorten the tweet" in table["reason"].iloc[0]
    began = []
    monkeypatch.setattr(Store, "start", lambda self, **_: began.append(self.id))
    page.button(f"sweep:retry:{store.id}").click().run()
    assert began == [store.id]
    assert store.status().failed == 0  # its batch is to be traced anew


def test_a_sweep_is_removed_with_its_average():
    store = make_store(8)
    page = open_page()
    page.button(f"sweep:remove:{store.id}").click().run()
    settled(page)
    assert not page.exception
    assert not sweeps()
    assert "What you will see" in said(page)


# --- what was found ------------------------------------------------------------------------------


def test_every_side_of_a_sweep_is_drawn():
    make_store(36)
    page = open_page()
    assert not page.exception
    assert page.metric[0].label == "Average total effect, nats"
    assert "95% interval" in said(page)
    look(page, "layers")
    assert titles(page).count("MLP") == 2
    look(page, "label")
    assert "positive minus negative" in said(page)
    assert titles(page).count("MLP") == 3
    look(page, "length")
    assert "Short tweets have up to" in said(page)
    look(page, "precision")
    assert "It is known to" in said(page)
    assert "more tweets" in said(page)
    look(page, "sweeps")
    assert "There is no other sweep yet" in said(page)
    look(page, "layers")
    page.button_group("average:lines:tweet").set_value([]).run()
    assert "Choose a role" in said(page)


def test_how_it_is_counted_can_be_changed():
    make_store(24)
    page = open_page()
    page.selectbox("average:proxy:tweets").set_value("probability").run()
    settled(page)
    assert page.metric[0].label == "Average total effect, probe's probability of positive"
    page.selectbox("average:roles").set_value("paper").run()
    settled(page)
    first = json.dumps(charts(page)[1])
    assert "Last corrupted token" in first
    page.toggle("average:normalised").set_value(True).run()
    settled(page)
    assert "share of the total effect" in said(page)
    page.selectbox("average:interval").set_value("normal").run()
    settled(page)
    assert "95% t interval" in said(page)
    assert not page.exception


def test_a_bar_of_the_peak_histogram_lists_its_tweets_with_links_to_their_traces():
    store = make_store(24)
    page = look(open_page(), "peaks")
    assert "Click a bar" in said(page)
    peaks = averaging.study(store).average.peaks
    mlp = peaks[peaks["kind"].astype(str) == "mlp"]
    role = str(mlp["role"].iloc[0])
    here = mlp[mlp["role"].astype(str) == role]
    page.session_state["average:bar"] = {"kind": "mlp", "role": role}
    page.run()
    table = next(frame.value for frame in page.dataframe if "trace" in frame.value)
    assert len(table) == len(here)
    texts = store.tweets.set_index("row")["text"]
    assert set(table["tweet"]) == {texts[row] for row in here["row"]}
    link = urlsplit(table["trace"].iloc[0])
    query = {name: values[0] for name, values in parse_qs(link.query).items()}
    assert query["tweet"] == table["tweet"].iloc[0]
    assert query["model"] == "gpt2"
    layer = int(here["layer"].iloc[0])
    page.session_state["average:bar"] = {"kind": "mlp", "role": role, "layer": layer}
    page.run()
    table = next(frame.value for frame in page.dataframe if "trace" in frame.value)
    assert set(table["layer"]) == {layer}
    page.button("average:bar:clear").click().run()
    assert "Click a bar" in said(page)


def test_two_sweeps_are_compared_with_the_difference_and_its_interval():
    make_store(24)
    make_store(24, seed=1)
    page = look(open_page(), "sweeps")
    assert "the first minus the second" in said(page)
    assert "Total effects differ by" in said(page)
    assert titles(page).count("Attention") == 3


def test_the_address_names_a_sweep():
    first = make_store(8)
    make_store(8, seed=1)
    page = open_page(sweep=first.id[:8])
    assert page.selectbox("average:shown").value == first.id


def test_punctuation_is_silenced_and_the_result_kept():
    store = make_store(36)
    page = look(open_page(), "punctuation")
    page.button("punctuation:run").click().run()
    settled(page)
    assert not page.exception
    assert not page.error
    assert "Loss" in titles(page)
    assert "Punctuation holds a summary" in said(page)
    assert study.kept_ablation(store) is not None
    again = look(open_page(), "punctuation")
    assert "Loss minus control" in titles(again)
    assert "punctuation:run" not in keys(again)


def test_a_sweep_of_one_sentiment_has_nothing_to_compare():
    tweets = load_dataset("vader-tweets")
    make_store(8, tweets=tweets[tweets["label"] == 1])
    page = look(open_page(), "label")
    assert "one sentiment alone" in said(page)
