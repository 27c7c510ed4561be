"""The Probes page: choose texts, train, read the report, keep, and go on to a trace."""

import re

import pandas as pd
import pytest
from drawn import titles
from paths import ROOT
from playwright.sync_api import expect
from served import browse, open_dashboard, serve
from small_pages import PATIENCE, ended, said, visit
from streamlit.testing.v1 import AppTest
from tiny_world import SENTENCES, WRONG, small_world

from core import dashboard
from core.dashboard import probing
from core.errors import UserError
from core.probes.library import kept_folder
from core.probes.probe import Probe

LONG = 120_000  # ms: two slow cores, and others on them


@pytest.fixture(autouse=True)
def world(own_home):
    with small_world(layers=3, ratings=WRONG, first_row=100):
        yield


def train(page: AppTest) -> AppTest:
    return ended(page.button("train").click().run(), "probe")


def without_controls(page: AppTest) -> AppTest:
    page.toggle("controls").set_value(False)
    return page


def test_an_empty_page_says_what_will_be_there():
    page = visit("probes")
    assert not page.exception
    assert "What you will see" in said(page)
    assert "20 positive and 20 negative" in said(page)
    assert not titles(page)


def test_a_probe_is_trained_judged_beside_its_controls_and_kept():
    page = train(visit("probes"))
    assert not page.exception
    assert not page.error
    table = next(frame.value for frame in page.dataframe if "Accuracy" in frame.value)
    assert list(table[""]) == [
        *("This probe", "The majority class", "The raw rule", "Shuffled labels"),
        *("The untrained twin", "Bag of words", "The VADER lexicon"),
    ]
    assert "This proxy" in said(page)
    assert titles(page) == [
        "Accuracy beside its controls",
        next(title for title in titles(page) if title.startswith("Accuracy by layer")),
        "Confusion matrix",
        "Calibration",
        "ROC",
        "Learning curve",
    ]
    (path,) = kept_folder().glob("*.json")
    assert Probe.load(path).report.controls


def test_a_wrong_tweet_opens_in_the_trace_page():
    page = train(without_controls(visit("probes")))
    wrong = next(button for button in page.button if button.key.startswith("open:"))
    row = int(wrong.key.removeprefix("open:"))
    wrong.click().run()
    assert not page.exception
    assert page.title[0].value == "Trace"
    text = dashboard.tweets().set_index("row")["text"][row]
    assert page.text_area("tweet").value == text
    page.session_state["job:trace"].wait(PATIENCE)
    page.switch_page("pages/trace.py").run()  # this harness does not follow to another page
    result = page.session_state["job:trace"].progress().partial.result
    assert result.prompt.tweet == text
    assert "Hidden state" in titles(page)


# --- what a probe learns from --------------------------------------------------------------------


def upload(page: AppTest, name: str, content: str) -> AppTest:
    page.button_group("source").set_value("Your file").run()
    page.file_uploader("upload").upload(name, content.encode(), "text/csv").run()
    return page


def table_of(labels: tuple[str, str], count: int = 24) -> str:
    lines = [f"{SENTENCES[i % 4]} {i},{labels[i % 4 > 1]}" for i in range(count)]
    return "\n".join(["tweet,feeling", *lines]) + "\n"


def preview(page: AppTest) -> pd.DataFrame:
    return next(frame.value for frame in page.dataframe if "text" in frame.value)


def test_an_uploaded_table_is_described_previewed_and_learned_from():
    page = upload(without_controls(visit("probes")), "mine.csv", table_of(("positive", "negative")))
    assert not page.exception
    assert "mine.csv: commas between the fields" in said(page)
    assert "12 positive and 12 negative texts" in said(page)
    assert list(preview(page)["text"][:2]) == ["good day 0", "great happy day 1"]
    train(page)
    assert not page.error
    (path,) = kept_folder().glob("*.json")
    probe = Probe.load(path)
    assert (probe.dataset, probe.report.n) == ("mine.csv", 24)


def test_texts_that_the_model_cannot_read_are_left_out_and_counted():
    content = table_of(("positive", "negative")) + f"{'far too long ' * 60},positive\n"
    page = train(upload(without_controls(visit("probes")), "mine.csv", content))
    assert not page.error
    assert "13 positive and 12 negative texts" in said(page)
    reason = "the text and its suffix make more than 128 tokens (1)"
    assert f"1 of 25 texts is left out, which gpt2 cannot read: {reason}." in said(page)
    (probe,) = probing.probes_of("gpt2").values()
    assert probe.report.n == 24


def test_how_a_file_is_read_can_be_overruled():
    page = upload(visit("probes"), "mine.csv", table_of(("positive", "negative")))
    header = next(box for box in page.selectbox if box.label == "Header")
    header.set_value("none").run()
    assert not page.exception
    assert "without a header, 25 rows" in said(page)


def test_labels_that_can_be_read_in_two_ways_are_asked_for_and_never_guessed():
    page = upload(visit("probes"), "mine.csv", table_of(("happy", "sad")))
    assert page.button("train").disabled
    column = next(box for box in page.selectbox if box.label == "Column of the labels")
    column.set_value("feeling").run()
    assert "say which are positive" in said(page)
    assert page.button("train").disabled
    positive, negative, _ = page.multiselect
    positive.set_value(["happy"])
    negative.set_value(["sad"]).run()
    assert "12 positive and 12 negative texts" in said(page)
    assert not page.button("train").disabled
    assert set(preview(page)["label"][:2]) == {1}


def test_labels_with_dots_are_mapped_and_what_was_read_is_said():
    content = table_of(("Pos.", "Neg.")).replace("feeling", "label")
    page = upload(without_controls(visit("probes")), "mine.csv", content)
    assert "the values neg., pos.: say which are positive" in said(page)
    assert page.button("train").disabled
    positive, negative, _ = page.multiselect
    assert set(positive.options) == {"neg. \u00b7 12", "pos. \u00b7 12"}
    positive.set_value(["pos."])
    negative.set_value(["neg."]).run()
    read_as = "Texts from 'tweet'; labels from 'label': pos. positive, neg. negative."
    assert f"12 positive and 12 negative texts. {read_as}" in said(page)
    train(page)
    assert said(page).count(read_as) == 2  # under the file, and in the report
    (path,) = kept_folder().glob("*.json")
    assert Probe.load(path).read_as == read_as


def test_a_file_without_texts_is_asked_for_them_and_none_is_taken():
    content = "".join(f"73{i:016},{('positive', 'negative')[i % 2]}\n" for i in range(20))
    page = upload(visit("probes"), "mine.csv", content)
    column = next(box for box in page.selectbox if box.label == "Column of the texts")
    assert column.value is None
    assert "No column of mine.csv is sure to hold texts" in said(page)
    assert page.button("train").disabled


def test_any_character_can_be_named_as_the_delimiter():
    content = table_of(("positive", "negative")).replace(",", "@").replace(" day", " day, so")
    page = upload(visit("probes"), "mine.csv", content)
    assert page.button("train").disabled
    delimiter = next(box for box in page.selectbox if box.label == "Delimiter")
    delimiter.set_value("another character").run()
    character = next(box for box in page.text_input if box.label == "Delimiting character")
    character.set_value("@").run()
    assert "12 positive and 12 negative texts" in said(page)
    assert not page.button("train").disabled


def test_a_label_of_both_sentiments_is_refused_and_can_be_taken_back():
    page = upload(
        visit("probes"), "mine.csv", table_of(("4", "0")).replace("tweet,feeling", "text,y")
    )
    assert "12 positive and 12 negative texts" in said(page)
    positive, negative, _ = page.multiselect
    negative.set_value(["4", "0"]).run()
    assert "The label '4' is said to be positive and negative" in said(page)
    assert page.button("train").disabled
    negative.set_value(["0"]).run()
    assert not page.exception
    assert "12 positive and 12 negative texts" in said(page)


def test_rows_that_cannot_be_used_are_listed_and_can_be_saved():
    content = table_of(("1", "0")).replace("tweet,feeling", "text,label") + ",1\n=cmd(),maybe\n"
    page = upload(visit("probes"), "mine.csv", content)
    assert "2 rows cannot be used" in said(page)
    refused = next(frame.value for frame in page.dataframe if "reason" in frame.value)
    assert list(refused["row"]) == [24, 25]
    assert "Save all as CSV" in [button.proto.label for button in page.get("download_button")]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.csv", "", "empty"),
        ("noise.csv", "\0\1\2\3" * 50, "noise.csv"),
        ("**bold**.csv", "", "**bold**.csv"),
        ("texts.csv", "good day, all\nbad day\nfine, so, fine\n", "so its texts have no labels"),
    ],
)
def test_a_file_that_is_no_table_gets_one_sentence(name, content, sentence):
    page = upload(visit("probes"), name, content)
    assert not page.exception
    (error,) = page.error
    assert sentence in error.value.replace("\\", "")
    assert "**" not in error.value
    assert page.button("train").disabled


def test_two_files_of_texts_and_labels_belong_together():
    page = visit("probes")
    page.button_group("source").set_value("Your file").run()
    texts = "\n".join(f"{SENTENCES[i % 4]} {i}" for i in range(20)).encode()
    labels = "\n".join("2" if i % 4 < 2 else "0" for i in range(19)).encode() + b"\n1"
    page.file_uploader("upload").set_value(
        [("val_labels.txt", labels, "text/plain"), ("val_text.txt", texts, "text/plain")]
    ).run()
    assert not page.error
    assert "the numbers 0, 1, 2, which can be read in more than one way" in said(page)
    for box, value in zip(page.multiselect, "201", strict=True):
        box.set_value([value])
    page.run()
    assert "10 positive and 9 negative texts, 1 neutral left out" in said(page)


def add(page: AppTest, name: str, content: str) -> AppTest:
    """Upload another file, as a person does who does not first remove the one before."""
    page.file_uploader("upload").set_value(
        [
            *((file.name, file.getvalue(), file.type) for file in page.session_state.uploads),
            (name, content.encode(), "text/csv"),
        ]
    ).run()
    return page


def test_a_second_file_replaces_the_first():
    page = upload(without_controls(visit("probes")), "mine.csv", table_of(("positive", "negative")))
    add(page, "better.csv", table_of(("positive", "negative"), 20))
    assert not page.error
    (told,) = page.info
    assert told.value.replace("\\", "") == (
        "better.csv is used, the newest file. Not used: mine.csv. Only texts and their labels, one "
        "of each a line, are read together: mine.csv has 2 columns."
    )
    assert "10 positive and 10 negative texts" in said(page)
    assert any(box.label == "Header" for box in page.selectbox)  # it can be read otherwise
    train(page)
    (probe,) = probing.probes_of("gpt2").values()
    assert (probe.dataset, probe.report.n) == ("better.csv", 20)

    add(page, "better.csv", table_of(("positive", "negative"), 16))
    assert "Not used: mine.csv, the earlier better.csv." in said(page)
    assert "8 positive and 8 negative texts" in said(page)
    page.file_uploader("upload").set_value(("mine.csv", table_of(("1", "0")).encode(), "")).run()
    assert "Not used" not in said(page)
    assert "12 positive and 12 negative texts" in said(page)


def test_a_pair_is_used_beside_a_file_that_is_not():
    page = upload(visit("probes"), "mine.csv", table_of(("positive", "negative")))
    texts = "\n".join(f"{SENTENCES[i % 4]} {i}" for i in range(20))
    add(page, "tweets.txt", texts)
    (error,) = page.error  # that file alone has no labels
    assert "so its texts have no labels" in error.value
    assert "tweets.txt is used" in said(page)
    add(page, "sides.txt", "\n".join(str(int(i % 4 < 2)) for i in range(20)))
    assert not page.error
    assert "tweets.txt with sides.txt are used. Not used: mine.csv." in said(page)
    assert "10 positive and 10 negative texts" in said(page)
    add(page, "fewer.txt", "\n".join("01" * 9))
    assert "sides.txt has 20 lines and fewer.txt has 18." in said(page)


def test_the_file_is_still_there_when_the_page_is_left_and_opened_again():
    page = upload(visit("probes"), "mine.csv", table_of(("positive", "negative")))
    page.switch_page("pages/method.py").run()
    page.switch_page("pages/probes.py").run()
    assert "12 positive and 12 negative texts" in said(page)


def test_a_hub_that_cannot_be_reached_is_told_in_one_sentence():
    page = visit("probes")
    page.button_group("source").set_value("Hugging Face hub").run()
    page.button("fetch").click().run()
    page.session_state["job:data"].wait(PATIENCE)
    page.run()
    (error,) = page.error
    assert "hub" in error.value
    assert page.button("train").disabled


# --- what it reads -------------------------------------------------------------------------------


def test_lists_of_words_are_read_together():
    page = without_controls(visit("probes"))
    page.selectbox("reads").set_value("verbalizers").run()
    page.text_input("Positive words").set_value("good, happy")
    page.text_input("Negative words").set_value("bad,  sad ,")
    train(page)
    assert not page.error
    (probe,) = probing.probes_of("gpt2").values()
    assert probe.words_positive == (" good", " happy")
    assert probe.words_negative == (" bad", " sad")


def test_a_word_of_several_tokens_gets_one_sentence():
    page = without_controls(visit("probes"))
    page.text_input("Positive word").set_value("unfathomable")
    train(page)
    (error,) = page.error
    assert "unfathomable" in error.value


def test_a_probe_of_states_shows_every_layer_and_serves_the_trace_page():
    page = without_controls(visit("probes"))
    page.selectbox("reads").set_value("layer").run()
    page.number_input("layer:gpt2").set_value(1)
    train(page)
    assert "Accuracy by layer; this probe reads layer 1" in titles(page)
    ((key, probe),) = probing.probes_of("gpt2").items()
    assert (probe.features, probe.layer) == ("hidden:1", 1)
    page.switch_page("pages/trace.py").run()
    page.selectbox("features").set_value(key)
    page.text_area("tweet").set_value("good day")
    page.slider("samples").set_value(1)
    page.button("run").click().run()
    page.session_state["job:trace"].wait(PATIENCE)
    assert page.session_state["job:trace"].progress().partial.result.probe == probe


def test_settings_reach_the_probe():
    page = without_controls(visit("probes"))
    page.number_input("folds").set_value(3)
    page.number_input("probe:seed").set_value(7)
    page.text_input("name").set_value("  My [probe](x) ")
    train(page)
    (probe,) = probing.probes_of("gpt2").values()
    assert (probe.report.folds, probe.seed, probe.name) == (3, 7, "My [probe](x)")
    assert any("My [probe](x)" in name for name in page.selectbox("shown").options)


def test_the_untrained_twin_can_be_left_out():
    page = visit("probes")
    page.toggle("twin").set_value(False)
    train(page)
    names = [
        control.name for control in next(iter(probing.probes_of("gpt2").values())).report.controls
    ]
    assert "the untrained twin" not in names
    assert "bag of words" in names


# --- keeping -------------------------------------------------------------------------------------


def test_the_report_stays_when_the_page_is_left():
    page = train(without_controls(visit("probes")))
    before = titles(page)
    page.switch_page("pages/method.py").run()
    page.switch_page("pages/probes.py").run()
    assert titles(page) == before
    again = visit("probes")  # another visitor
    assert titles(again) == before


def test_a_probe_is_renamed_and_deleted():
    page = train(without_controls(visit("probes")))
    ((key, _),) = probing.probes_of("gpt2").items()
    page.text_input(f"rename:{key}").set_value("first try")
    page.button("rename").click().run()
    assert [probe.name for probe in probing.probes_of("gpt2").values()] == ["first try"]
    assert any("first try" in name for name in page.selectbox("shown").options)
    page.button("delete").click().run()
    assert not page.exception
    assert probing.probes_of("gpt2") == {}
    assert "What you will see" in said(page)


def test_a_probe_is_exported_and_imported():
    page = train(without_controls(visit("probes")))
    (probe,) = probing.probes_of("gpt2").values()
    page.button("delete").click().run()
    page.file_uploader("import").upload("mine.json", probe.to_json(), "application/json").run()
    assert not page.exception
    assert probing.probes_of("gpt2") == {page.selectbox("shown").value: probe}
    assert "Imported" in said(page)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b'{"features": "<b>x</b>"}', b"\xff"])
def test_a_file_that_is_no_probe_gets_one_sentence(content):
    page = visit("probes")
    page.file_uploader("import").upload("mine.json", content, "application/json").run()
    assert not page.exception
    (error,) = page.error
    assert "cannot be used" in error.value
    assert not list(kept_folder().glob("*.json"))


def test_stop_ends_the_training(monkeypatch):
    import threading

    begun, go_on = threading.Event(), threading.Event()
    real = probing.train_probe

    def held(*arguments, **options):
        begun.set()
        assert go_on.wait(PATIENCE)
        return real(*arguments, **options)

    monkeypatch.setattr(probing, "train_probe", held)
    page = visit("probes")
    page.button("train").click().run()
    assert begun.wait(PATIENCE)
    page.run()
    assert not page.button("stop").disabled
    page.button("stop").click().run()
    go_on.set()
    ended(page, "probe")
    assert "Stopped after" in said(page)
    assert probing.probes_of("gpt2") == {}
    assert page.button("stop").disabled


def test_a_probe_that_has_controls_is_not_lost_to_one_that_never_got_them(monkeypatch):
    from core.probes import controls

    page = train(visit("probes"))
    ((key, before),) = probing.probes_of("gpt2").items()

    def refused(*arguments, **options):
        raise UserError("No controls today.")

    monkeypatch.setattr(controls, "with_controls", refused)
    page.number_input("probe:seed").set_value(5)
    train(page)
    assert "No controls today" in said(page)
    assert probing.probes_of("gpt2") == {key: before}


# --- in a browser --------------------------------------------------------------------------------


@pytest.mark.browser
def test_in_a_browser_a_csv_is_uploaded_learned_from_and_a_wrong_tweet_traced(own_home, chromium):
    with serve(own_home) as address, browse(chromium) as browser:
        page = open_dashboard(browser, address, viewport={"width": 1440, "height": 1400})
        page.set_default_timeout(60_000)
        page.get_by_role("link", name="Probes").click()
        page.get_by_text("Your file").click()
        example = ROOT / "assets" / "example_tweets.csv"
        page.locator(".st-key-upload input[type=file]").set_input_files(example)
        expect(page.get_by_text("30 positive and 30 negative texts")).to_be_visible()
        page.get_by_role("button", name="Train probe").click()
        expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
        expect(page.get_by_text("This proxy")).to_be_visible()
        for title in ("Accuracy beside its controls", "Confusion matrix", "Calibration", "ROC"):
            expect(page.get_by_text(title, exact=True)).to_be_visible()

        # On a narrow screen nothing reaches beyond the page.
        page.set_viewport_size({"width": 420, "height": 1400})
        page.wait_for_function("document.documentElement.scrollWidth <= 420")
        page.set_viewport_size({"width": 1440, "height": 1400})

        key = page.locator("[class*=st-key-open]").first.get_attribute("class")
        name, row = re.search(r"(st-key-open-(\d+))", key).groups()
        tweet = pd.read_csv(example)["text"][int(row)]
        page.locator(f".{name} button").click()
        expect(page.get_by_role("heading", name="Trace")).to_be_visible()
        expect(page.get_by_label("Tweet", exact=True)).to_have_value(tweet)
        # Cells of a random model say nothing, and are asked for all the same.
        page.get_by_role("button", name="Trace as asked").click(timeout=LONG)
        expect(page.get_by_text("Hidden state", exact=True)).to_be_visible(timeout=LONG)
        expect(page.get_by_text("Trained on 60 texts")).to_be_visible()
        expect(page.get_by_text("Traceback")).to_have_count(0)
