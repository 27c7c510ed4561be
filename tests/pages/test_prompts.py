"""Prompts of one's own, two words without a probe, and chat templates, on every page."""

import pytest
from paths import ROOT
from small_pages import ended, errors, open_page, outcome, run_trace, said
from streamlit.testing.v1 import AppTest
from tiny_models import CHAT, make_tokenizer
from tiny_world import keep_model, keep_tweets, make_home

from core.models.registry import model_folder
from core.probes.library import kept_folder

TWEET = "good day, terrible hours"
PROMPT = "service {tweet} day"


@pytest.fixture
def home(own_home):
    """A tiny model that has a chat template, and nothing else: no texts, no probe."""
    keep_model(layers=2)
    (model_folder("gpt2") / "chat_template.jinja").write_text(CHAT)
    return own_home


def ask_contrast(page, target: str = "happy", distractor: str = "sad"):
    page.selectbox("features").set_value("contrast").run()
    page.text_input("contrast:target").set_value(target)
    page.text_input("contrast:distractor").set_value(distractor)
    return page.run()


@pytest.mark.usefixtures("home")
def test_two_words_are_traced_on_the_page_without_texts_and_come_back_from_its_address():
    page = ask_contrast(open_page("trace"))
    page.text_input("prompt").set_value(PROMPT)
    page = run_trace(page, TWEET)
    assert not page.exception
    assert not errors(page)
    result = outcome(page, "trace").result
    assert result.prompt.text == f"service {TWEET} day"
    assert result.probe.words == (" happy", " sad")
    assert page.subheader[0].value.startswith(("\u201chappy\u201d above", "\u201csad\u201d above"))
    assert "log P(happy) - log P(sad)" in said(page)
    assert "P(positive)" not in said(page)
    assert not kept_folder().exists()
    link = dict(page.query_params)
    assert (link["probe"], link["target"], link["prompt"]) == ("contrast", "happy", PROMPT)

    again = AppTest.from_file(str(ROOT / "pages" / "trace.py"), default_timeout=60)
    again.query_params.update(link)
    again = ended(again.run(), "trace")
    assert not again.exception
    assert outcome(again, "trace").result.prompt == result.prompt
    assert outcome(again, "trace").result.high == result.high


@pytest.mark.usefixtures("home")
def test_a_chat_is_traced_and_its_rows_are_folded():
    page = ask_contrast(open_page("trace"))
    page.button_group("prompt:format").set_value("chat").run()
    page = run_trace(page, TWEET)
    assert not page.exception
    result = outcome(page, "trace").result
    expected = make_tokenizer().apply_chat_template(
        [{"role": "user", "content": TWEET}, {"role": "assistant", "content": "I am feeling"}],
        chat_template=CHAT,
        tokenize=False,
        continue_final_message=True,
    )
    assert result.prompt.text == expected
    ahead = result.prompt.tweet_span[0]
    assert ahead > 0
    assert f"Rows of {ahead} tokens ahead of the tweet are left out." in said(page)
    page.button_group("around").set_value("all").run()
    assert "are left out" not in said(page)
    assert page.query_params["format"] == "chat"
    assert page.query_params["around"] == "all"


@pytest.mark.usefixtures("home")
def test_a_word_of_several_tokens_is_said():
    page = run_trace(ask_contrast(open_page("trace"), "terrible service"), TWEET)
    assert "tokens and read by the first" in said(page)
    page = run_trace(ask_contrast(open_page("trace"), "sad", "sad"), TWEET)
    assert "begin with the same token" in errors(page)


@pytest.mark.usefixtures("home")
def test_models_are_compared_by_two_words():
    page = open_page("compare")
    page.selectbox("compare:features").set_value("contrast").run()
    assert not page.exception
    assert page.text_input("compare:contrast:target").value == "good"


def test_a_probe_is_trained_in_a_chat_and_interventions_use_it(tmp_path_factory, monkeypatch):
    home = make_home(tmp_path_factory.mktemp("chat"), layers=2)
    monkeypatch.setenv("SENTITRACE_HOME", str(home))
    keep_tweets()
    (model_folder("gpt2") / "chat_template.jinja").write_text(CHAT)
    page = open_page("probes")
    page.button_group("probe:prompt:format").set_value("chat").run()
    page.toggle("controls").set_value(False)
    page.button("train").click().run()
    page = ended(page, "probe")
    assert not page.exception
    assert not errors(page)
    probe = outcome(page, "probe").probe
    assert (probe.prompt_format, probe.opening != "") == ("chat", True)
    assert "of a chat" in said(page)
    trace = open_page("trace")
    chat = next(option for option in trace.selectbox("features").options if ", chat" in option)
    assert chat
