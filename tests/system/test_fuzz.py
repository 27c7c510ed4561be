"""Whatever people type: nothing crashes, nothing becomes markup, tokens shown are those used."""

import html
import json
import re
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies
from markdown_it import MarkdownIt
from paths import ROOT
from streamlit.testing.v1 import AppTest
from tiny_models import make_model
from tiny_probes import make_probe
from tiny_world import SENTENCES, small_world

from core import dashboard
from core.charts import figures
from core.errors import UserError
from core.exporting import figure_files
from core.prompts.prompt import DEFAULT_SUFFIX, build_prompt
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace
from core.tracing.view import View

PATIENCE = 120.0
PARTS = (
    "good",
    " bad",
    DEFAULT_SUFFIX,
    " I am feeling good",
    "\u0627\u0644\u062e\u062f\u0645\u0629",  # Arabic
    "\u202ereversed\u202c",
    "\u2067\u05e9\u05dc\u05d5\u05dd\u2069",  # Hebrew in an isolate
    "\u200b\u200d\u2060\ufeff",
    "e\u0301\u0302\u0303" + "\u0336" * 12,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "\U000e0041\U000f0000\U00100000",
    "\U00020000\u3042\uac00\u0e01\u0e33",
    "\ud800",
    "\udc00\ud83d",
    "\0",
    "\x1b[31m",
    "\r\n\u2028\u0085\v",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</style><b>",
    "&lt;b&gt;&#60;",
    "**bold** _it_ ~~gone~~ `code`",
    "[link](http://evil.test) ![p](http://evil.test/p.png) <http://evil.test>",
    "http://evil.test www.evil.test me@evil.test",
    "# head\n- list\n1. one\n> quote\n---\n| a | b |\n|---|---|",
    "$x^2$ $$\\frac{1}{2}$$ \\(y\\)",
    ":red[colour] :material/delete: :smile: :streamlit: :shield-badge[x] <-",
    "```\nfence\n```",
    "    indented",
    "\\",
    "'\"`${7*7}{{7*7}}%s{0}",
    "=1+1\t@x",
    "datum.x; '); alert('",
)
EVERY_PLANE = strategies.characters(codec=None, exclude_categories=())
WILD = strategies.lists(
    strategies.one_of(strategies.sampled_from(PARTS), strategies.text(EVERY_PLANE, max_size=8)),
    min_size=1,
    max_size=5,
).map("".join)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def one_sentence(mistake: UserError) -> str:
    said = str(mistake)
    assert len(said) < 600, said
    assert said.endswith("."), said
    assert "\n" not in said, said
    said.encode()  # it can be shown
    return said


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
@given(text=WILD)
@example(text="a" * 100_000)
@example(text="<b>" * 33_334)
@example(text="\u0301" * 100_000)
@example(text=DEFAULT_SUFFIX * 3)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_a_text_becomes_its_own_tokens_or_one_sentence(variant, text):
    model = make_model(variant)
    try:
        prompt = build_prompt(model, text)
    except UserError as mistake:
        one_sentence(mistake)
        return
    assert prompt.text == text.strip() + DEFAULT_SUFFIX
    assert list(prompt.ids) == model.tokenizer(prompt.text)["input_ids"]
    assert len(prompt.labels) == len(prompt.ids)
    for label in prompt.labels:
        assert label
        label.encode()
        # Nothing in a label hides, breaks the line or turns the text around.
        assert not [c for c in label if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    # The suffix that a text brings itself is the tweet's; the prompt's own comes after.
    own = [token for token in prompt.tokens if token.start >= len(prompt.tweet)]
    assert "".join(prompt.text[token.start : token.end] for token in own) == DEFAULT_SUFFIX


# --- Markdown ------------------------------------------------------------------------------------


@given(text=WILD)
@settings(max_examples=400)
def test_plain_text_is_no_markup_in_markdown(text):
    shown = dashboard.plain(text)
    shown.encode()
    rendered = MARKDOWN.render(shown)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    words = " ".join(whole.replace("\0", "\ufffd").split())
    if not words:
        assert rendered in ("", "<p></p>\n")
        return
    found = re.fullmatch(r"<p>(.*)</p>\n", rendered, flags=re.DOTALL)
    assert found, rendered
    assert "<" not in found[1], rendered
    assert html.unescape(found[1]).split() == words.split()


@given(text=WILD)
@settings(max_examples=200)
def test_what_streamlit_reads_beyond_markdown_has_lost_its_marks(text):
    bare = re.sub(r"\\.", "", dashboard.plain(text), flags=re.DOTALL)
    assert not set(bare) & set("$:[]<>`*_~|")


# --- figures -------------------------------------------------------------------------------------


def traced(text: str):
    model = make_model("gpt2")
    settings = TraceSettings(kinds=("hidden",), samples=1, window=1)
    return trace(model, make_probe(model), text, settings)


@given(text=WILD)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_a_figure_shows_the_tokens_that_were_used(text):
    try:
        result = traced(text)
    except UserError as mistake:
        one_sentence(mistake)
        return
    spec = figures.trace_heatmaps(result).to_dict()
    json.dumps(spec, allow_nan=False).encode()
    labels = list(result.frame().drop_duplicates("position").sort_values("position")["token"])
    assert labels == list(result.prompt.labels)
    for said in (View(result).headline, View(result).effect_line, View(result).caption):
        said.encode()


DRAWN = [part for part in PARTS if part.isprintable() and part.strip()]


@pytest.mark.parametrize("first", range(7))
def test_a_drawn_figure_shows_each_label_as_it_is_and_holds_no_code(first):
    result = traced(f"good {' '.join(DRAWN[first::7])} bad")
    drawing = figure_files.figure_bytes(figures.trace_heatmaps(result), "svg").decode()
    elements = list(ElementTree.fromstring(drawing).iter())
    names = {element.tag.rpartition("}")[2] for element in elements}
    assert not names & {"script", "img", "image", "a", "iframe", "foreignObject", "b"}
    assert not [key for element in elements for key in element.attrib if key.startswith("on")]
    texts = {element.text for element in elements}
    for label in result.prompt.labels:
        # Corrupted tokens carry a star after the label.
        assert label in texts or f"{label} *" in texts or f"{label}*" in texts, label


# --- pages ---------------------------------------------------------------------------------------


@pytest.fixture
def world(own_home):
    with small_world(layers=2, trained=True):
        yield


MARK = "ZQZ"
MARKUP = (
    f"good <b>{MARK}</b> <script>{MARK}</script> **{MARK}** [{MARK}](http://evil.test) ${MARK}$"
    f" :red[{MARK}] `{MARK}` <img src={MARK}> bad"
)


def expect_no_markup_of(page: AppTest) -> None:
    """Nothing that is read as Markdown makes markup of the mark; nothing is allowed to be HTML."""
    kinds = ("markdown", "caption", "error", "info", "warning", "success", "subheader", "title")
    for kind in kinds:
        for element in page.get(kind):
            value = element.value
            if MARK not in value:
                continue
            assert not getattr(element, "allow_html", False)
            bare = re.sub(r"\\.", "", value)
            assert not re.search(rf"[*`$<\[(]{MARK}", bare), value
            rendered = MARKDOWN.render(value)
            assert not re.search(rf"<(?!p)[^>]*>[^<]*{MARK}", rendered), rendered


@pytest.mark.usefixtures("world")
def test_the_trace_page_survives_what_is_typed_and_shows_it_as_text():
    page = AppTest.from_file(str(ROOT / "pages" / "trace.py"), default_timeout=60).run()
    assert not page.exception
    page.slider("samples").set_value(1)
    for text in (
        MARKUP,
        "\0",
        "\u202e" + MARKUP[:40],
        "e\u0301\u0336 \u0627\u0644 \U0001f468\u200d\U0001f469",
        "# bad\n- **good**\n\n    code",
        f"good day{DEFAULT_SUFFIX}",
        "a" * 100_000,
    ):
        page.text_area("tweet").set_value(text)
        page.button("run").click().run()
        page.session_state["job:trace"].wait(PATIENCE)
        page.run()
        assert not page.exception, text[:60]
        expect_no_markup_of(page)
        traced = page.session_state["job:trace"].progress().partial
        if traced is None:
            (error,) = page.error
            assert error.value
        else:
            assert traced.result.prompt.tweet == text.strip()


@pytest.mark.usefixtures("world")
def test_the_probes_page_shows_names_columns_and_labels_of_a_file_as_text():
    page = AppTest.from_file(str(ROOT / "pages" / "probes.py"), default_timeout=60).run()
    page.button_group("source").set_value("Your file").run()
    lines = [f'"{SENTENCES[i % 4]} {i} **{MARK}**","{("yes", "no")[i % 4 > 1]}"' for i in range(24)]
    wild = f'"good","<b>{MARK}</b> :red[{MARK}] **{MARK}**"'
    content = "\n".join([f'"**{MARK}** <b>{MARK}</b>","[{MARK}](http://evil.test)"', *lines, wild])
    name = f"**{MARK}** <b>{MARK}</b> [{MARK}](x) `{MARK}`.csv"
    page.file_uploader("upload").upload(name, content.encode(), "text/csv").run()
    assert not page.exception
    expect_no_markup_of(page)
    for box in page.selectbox:
        if box.label.startswith("Column of the"):
            box.set_value(box.options[box.label.endswith("labels")])
    page.run()
    assert not page.exception
    expect_no_markup_of(page)
    assert np.any([MARK in caption.value for caption in page.caption])
