"""docs/tables.md describes every table that a page offers, column by column, and no other."""

import re

import pandas as pd
import pytest
from paths import ROOT
from small_pages import ended, open_page, run_trace
from streamlit.testing.v1 import AppTest
from tiny_held import tweets_with_neutral_ones
from tiny_world import small_world

import core
from core.dashboard import saving
from core.models.loading import load_model
from core.sweeps.sweep import Selection
from core.tracing.result import TraceSettings

KINDS = {"b": "yes or no", "i": "whole number", "f": "number"}
NOT_OFFERED = {"punctuation / Ablated tokens"}
"""Needs more tweets with inner punctuation than a small world has."""


def described() -> dict[str, list[tuple[str, str]]]:
    """Column and type of every table in the document."""
    found = {}
    text = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    for part in text.split("\n## ")[1:]:
        (saved,) = re.findall(r"^Saved by: (.+)\.$", part, flags=re.MULTILINE)
        rows = re.findall(r"^\| (`[^`]+`|\(no name\)) \| ([a-z ]+) \| .+ \|$", part, re.MULTILINE)
        columns = [("" if name == "(no name)" else name.strip("`"), said) for name, said in rows]
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", saved), columns)
    return found


def type_of(column: pd.Series) -> str:
    if column.dtype == object and set(column.dropna()) <= {True, False}:
        return "yes or no"
    return KINDS.get(column.dtype.kind, "text")


@pytest.fixture
def offered(own_home, monkeypatch):
    """Column and type of every table that pages have offered so far."""
    found, draw = {}, saving._choices

    def choices(key, charts, tables, caption, recipe, share):
        for name, make in tables.items():
            frame = make()
            found[f"{key} / {name}"] = [(str(c), type_of(frame[c])) for c in frame]
            if frame.empty:  # no column says what it would hold
                found[f"{key} / {name}"] = [(str(c), "") for c in frame]
        draw(key, charts, tables, caption, recipe, share)

    monkeypatch.setattr(saving, "_choices", choices)
    with small_world(2, *tweets_with_neutral_ones(), trained=True):
        yield found


def test_every_table_is_described_as_it_is(offered):
    trace()
    compare()
    averages()
    intervene()
    probe()
    document = described()
    assert offered.keys() == document.keys() - NOT_OFFERED
    for name, columns in offered.items():
        said = document[name]
        if not any(kind for _, kind in columns):
            said = [(column, "") for column, _ in said]
        assert said == columns, name


def trace() -> None:
    page = run_trace(open_page("trace"), "terrible day, bad awful")
    page.session_state["cell"] = ("attn", 0, 1)
    ended(page.run(), "cell")
    for question in ("words", "corruption", "reverse", "severed", "noise"):
        page.button_group("further").set_value(question).run()
        page.button(f"ask:{question}:start").click().run()
        ended(page, f"ask:{question}")


def compare() -> None:
    page = open_page("compare")
    page.text_area("tweet").set_value("bad day, awful")
    page.slider("compare:samples").set_value(2)
    page.button("compare:run").click().run()
    ended(page, "compare")


def averages() -> None:
    model, tweets = load_model("gpt2"), core.load_dataset("vader-tweets")
    probe = core.probe_for(model, tweets, dataset="vader-tweets")
    stores = [
        core.sweep(model, probe, tweets, TraceSettings(samples=n), selection=Selection(n=12))
        for n in (1, 2)
    ]
    page = by_link("average", sweep=stores[0].id)
    ended(page, "average")
    for view in ("peaks", "label", "length", "sweeps", "precision"):
        page.segmented_control("average:view").set_value(view).run()
        if view == "sweeps":
            ended(page, "average:other")
    ended(by_link("compare", sweep=[store.id for store in stores]), "compare averages")


def by_link(name: str, **query: object) -> AppTest:
    page = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=60)
    page.query_params.update(query)
    return page.run()


def intervene() -> None:
    page = open_page("interventions")
    page.text_area("tweet").set_value("My flight got cancelled, terrible service")
    page.segmented_control("intervention:what").set_value("steer").run()
    for key, value in (("controls", 1), ("texts", 2), ("samples", 2)):
        page.slider(f"intervention:{key}").set_value(value)
    for sweep in ("layer", "strength"):
        page.selectbox("intervention:sweep:3").set_value(sweep).run()
        page.button("intervene").click().run()
        ended(page, "intervention")


def probe() -> None:
    page = open_page("probes")
    page.toggle("twin").set_value(False)
    page.button("train").click().run()
    ended(page, "probe")
