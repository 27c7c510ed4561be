"""Every link that a page gives is opened, and every "Copy as" of every page is run."""

import re
from urllib.parse import parse_qs

import pandas as pd
import pytest
from copied import run_commands, run_python
from paths import ROOT
from small_pages import ended, errors, open_page, outcome, run_trace
from streamlit.testing.v1 import AppTest
from tiny_held import tweets_with_neutral_ones
from tiny_probes import make_probe
from tiny_world import small_world

import core
from core.dashboard import saving
from core.exporting.code import Code
from core.exporting.recipe import Recipe, Recipes
from core.interventions.plan import Plan
from core.models.loading import load_model
from core.probes.library import keep
from core.storage import kept_settings
from core.sweeps.study import Options
from core.sweeps.sweep import Selection
from core.tracing.result import TraceSettings

TWEET = "terrible day, 'bad' $(x) & <b>"


@pytest.fixture(autouse=True)
def world(own_home):
    with small_world(2, *tweets_with_neutral_ones(), trained=True):
        yield


@pytest.fixture
def shares(monkeypatch):
    """What pages share, by key: (share, what makes the settings)."""
    found, draw = {}, saving._choices

    def choices(key, charts, tables, caption, recipe, share):
        found[key] = (share, recipe)
        draw(key, charts, tables, caption, recipe, share)

    monkeypatch.setattr(saving, "_choices", choices)
    return found


def opened(name: str, link: str) -> AppTest:
    """A page in a new session, by a link."""
    page = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=60)
    page.session_state["anyway"] = True
    page.query_params.update(parameters(link))
    page.run()
    assert not page.exception
    return page


def parameters(link: str) -> dict[str, str | list[str]]:
    """What a link asks, as a page's own address has it."""
    found = parse_qs(link.removeprefix("?"), strict_parsing=True)
    return {key: values if len(values) > 1 else values[0] for key, values in found.items()}


def short_link(page: AppTest, key: str) -> str:
    """The link that a press of the button makes."""
    page.segmented_control(f"share:{key}").set_value("link").run()
    page.button(f"link:{key}:keep").click().run()
    assert not page.exception
    (link,) = [code.value for code in page.code]
    assert re.match(r"\?settings=[0-9a-f]{20}", link)
    return link


def equal(first: pd.DataFrame, second: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(first, second, check_dtype=False, rtol=1e-5, atol=1e-7)


def start_from(page: AppTest, recipe, name: str = "trace") -> AppTest:
    """The page after a settings file was opened."""
    content = recipe.to_json().encode()
    page.file_uploader(f"open:{name}:file").upload(
        "settings.json", content, "application/json"
    ).run()
    return ended(page, name)


def traced(**settings):
    model = load_model("gpt2")
    probe = settings.pop("probe", None) or core.probe_for(
        model, core.load_dataset("vader-tweets"), dataset="vader-tweets"
    )
    how = TraceSettings(**{"samples": 2, "total_samples": 40, **settings})
    return core.trace(model, probe, TWEET, how)


# --- the trace page ------------------------------------------------------------------------------


def test_a_trace_its_view_and_its_code(shares, tmp_path):
    page = open_page("trace")
    page.segmented_control("unit").set_value("share")
    page.slider("noise").set_value(2.5)
    page = run_trace(page, TWEET)
    page.session_state["cell"] = ("mlp", 1, 2)
    page.selectbox("proxy").set_value("probability").run()
    result = outcome(page, "trace").result
    share, recipe = shares["trace"]
    assert dict(share.shown) == {"proxy": "probability", "unit": "share", "cell": "mlp-1-2"}
    assert parameters(share.link) == dict(page.query_params)

    again = ended(opened("trace", share.link), "trace")
    assert dict(again.query_params) == dict(page.query_params)
    assert again.session_state["cell"] == ("mlp", 1, 2)
    found = outcome(again, "trace").result
    assert Recipe.of(found) == Recipe.of(result)
    equal(found.frame(), result.frame())

    shown = result.under("probability")
    for form in ("python", "command"):
        page.segmented_control("share:trace").set_value(form).run()
        assert not page.exception
        (code,) = [code.value for code in page.code]
        made = Code(code, code)
        if form == "python":
            names = run_python(made)
            equal(names["result"].frame(), shown.frame())
            assert names["view"].share
        else:
            run_commands(made, tmp_path)
            cells = pd.read_csv(tmp_path / "cells.csv")
            equal(cells[["effect", "layer"]], shown.frame()[["effect", "layer"]])
    assert recipe().to_json() == Recipe.of(shown).to_json()


@pytest.mark.parametrize(
    "settings",
    [
        {"direction": "corrupt", "kinds": ("mlp", "attn")},
        {"severed": "mlp", "kinds": ("hidden",), "every": 2, "corrupt": (1, 2)},
        {
            "corruption": "counterfactual",
            "counterfactual": "great day indeed",
            "every": 2,
            "total_samples": None,
        },
        {"total_samples": None, "window": 1, "corrupt": "word:1", "corruption": "uniform"},
    ],
    ids=["noising", "frozen, every second layer", "pair", "samples of the total effect"],
)
def test_what_no_widget_asks_has_a_link_too(shares, settings):
    result = traced(**settings)
    page = start_from(open_page("trace"), Recipe.of(result))
    share, _ = shares["trace"]
    again = ended(opened("trace", share.link), "trace")
    assert dict(again.query_params) == dict(page.query_params)
    assert Recipe.of(outcome(again, "trace").result) == Recipe.of(result)
    equal(outcome(again, "trace").result.frame(), result.frame())


def test_a_further_analysis_has_a_link_and_code(shares, tmp_path):
    page = run_trace(open_page("trace"), TWEET)
    page.button_group("further").set_value("reverse").run()
    page.button("ask:reverse:start").click().run()
    ended(page, "ask:reverse")
    share, _ = shares["noising"]
    other = outcome(page, "ask:reverse")
    again = opened("trace", share.link)
    ended(again, "trace")
    ended(again, "ask:reverse")
    assert again.query_params["further"] == "reverse"
    equal(outcome(again, "ask:reverse").frame(), other.frame())
    equal(run_python(share.code())["result"].frame(), other.frame())


def test_what_is_too_long_or_of_another_probe_has_a_short_link(shares, own_home):
    model = load_model("gpt2")
    result = traced(probe=make_probe(model))  # which nobody has kept
    page = start_from(open_page("trace"), Recipe.of(result))
    share, _ = shares["trace"]
    assert share.link is None
    page.segmented_control("unit").set_value("share").run()
    assert not (own_home / "links").exists()  # nothing is kept unless that is asked for
    link = short_link(page, "trace")
    assert "unit=share" in link
    again = ended(opened("trace", link), "trace")
    assert Recipe.of(outcome(again, "trace").result) == Recipe.of(result)
    assert again.segmented_control("unit").value == "share"
    assert again.query_params["settings"] == parameters(link)["settings"]
    code = shares["trace"][0].code()
    assert code.file


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ("?settings=0123456789abcdef0123", "not kept here"),
        ("?settings=../../probes/a", "not kept here"),
        ("?settings=%2Fetc%2Fpasswd", "not kept here"),
        ("?tweet=bad&model=gpt2&probe=0123", "not kept here"),
        ("?tweet=bad&model=gpt2&probe=logit_pair&severed=mlp", "Frozen paths"),
    ],
)
def test_a_link_that_cannot_be_followed_is_told(link, sentence):
    page = opened("trace", link)
    assert sentence in errors(page)
    assert "job:trace" not in page.session_state


def test_a_link_names_no_folder_and_gets_past_no_limit(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    page = opened("trace", f"?tweet=bad&model={tmp_path}/model&probe=logit_pair&every=2")
    assert "job:trace" not in page.session_state
    result = traced(samples=3)
    id = kept_settings.keep(Recipe.of(result).to_json())
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    monkeypatch.setenv("SENTITRACE_MAX_SAMPLES", "2")
    for link in (f"?settings={id}", "?tweet=bad&model=gpt2&probe=logit_pair&samples=3&every=2"):
        page = ended(opened("trace", link), "trace")
        assert "at most 2 noise samples" in errors(page)


def test_a_public_server_keeps_no_probe_of_a_visitors_file(shares, monkeypatch, own_home):
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    probe = make_probe(load_model("gpt2"))
    page = start_from(open_page("trace"), Recipe.of(traced(probe=probe)))
    page.segmented_control("share:trace").set_value("link").run()
    assert not [button for button in page.button if button.key == "link:trace:keep"]
    assert not (own_home / "links").exists()
    keep(probe)  # by the server's owner
    page.run()
    assert shares["trace"][0].link is not None


# --- the other pages -----------------------------------------------------------------------------


def test_a_comparison_its_view_and_its_code(shares, tmp_path):
    page = open_page("compare")
    page.text_area("tweet").set_value(TWEET)
    page.slider("compare:samples").set_value(2)
    page.button("compare:run").click().run()
    ended(page, "compare")
    page.segmented_control("compare:depth").set_value("relative")
    page.segmented_control("compare:share").set_value(True).run()
    compared = [one.result for one in outcome(page, "compare")]
    share, recipe = shares["compare"]
    for link in (share.link, f"?settings={kept_settings.keep(recipe().to_json())}"):
        again = ended(opened("compare", link), "compare")
        assert not errors(again)
        found = [one.result for one in outcome(again, "compare")]
        assert Recipes.of(found) == Recipes.of(compared)
        if "settings" not in link:
            assert dict(again.query_params) == dict(page.query_params)
            assert again.segmented_control("compare:depth").value == "relative"
    again = start_from(open_page("compare"), recipe(), "compare")
    assert Recipes.of([one.result for one in outcome(again, "compare")]) == Recipes.of(compared)
    code = share.code()
    assert not code.file
    table = core.display_of(core.show(*compared, share=True)).table()
    made = run_python(code)["result"]
    assert made.how.depth == "relative"
    equal(core.display_of(made).table()[["effect"]], table[["effect"]])
    run_commands(code, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect"]], table[["effect"]])


PROMPT = "service {tweet} day"
WORDS = (" hours", " day")


def ask_for_words(page: AppTest, contrast: str, prompt: str) -> AppTest:
    """Two words in a prompt of one's own, in a page's fields."""
    for field, word in zip(("target", "distractor"), WORDS, strict=True):
        page.text_input(f"{contrast}:{field}").set_value(word.strip())
    page.text_input(prompt).set_value(PROMPT)
    return page.run()


def test_a_comparison_by_two_words_in_a_prompt_of_ones_own(shares):
    page = open_page("compare")
    page.text_area("tweet").set_value(TWEET)
    page.selectbox("compare:features").set_value("contrast").run()
    page.slider("compare:samples").set_value(2)
    page = ask_for_words(page, "compare:contrast", "compare:prompt")
    page.button("compare:run").click().run()
    ended(page, "compare")
    compared = [one.result for one in outcome(page, "compare")]
    assert {result.probe.words for result in compared} == {WORDS}
    share, recipe = shares["compare"]
    for link in (share.link, f"?settings={kept_settings.keep(recipe().to_json())}"):
        again = ended(opened("compare", link), "compare")
        assert not errors(again)
        found = [one.result for one in outcome(again, "compare")]
        assert Recipes.of(found) == Recipes.of(compared)
        if "settings" not in link:
            assert dict(again.query_params) == dict(page.query_params)
            assert again.text_input("compare:prompt").value == PROMPT
    made = run_python(share.code())["results"]
    for result, other in zip(compared, made, strict=True):
        equal(result.frame(), other.frame())


def test_an_intervention_by_two_words_in_a_prompt_of_ones_own(shares):
    page = open_page("interventions")
    page.text_area("tweet").set_value("My flight got cancelled, terrible service")
    page.selectbox("features").set_value("contrast").run()
    page = ask_for_words(page, "contrast", "prompt")
    page.segmented_control("intervention:what").set_value("steer").run()
    for key, value in (("controls", 1), ("texts", 5), ("samples", 2)):
        page.slider(f"intervention:{key}").set_value(value)
    page.number_input("intervention:after").set_value(0)
    page.button("intervene").click().run()
    ended(page, "intervention")
    assert not errors(page)
    done = outcome(page, "intervention")
    share, recipe = shares["intervention"]
    plan = Plan.from_json(recipe().to_json())
    assert (plan.features, plan.prompt) == ("contrast", PROMPT)
    assert (*plan.good, *plan.bad) == WORDS
    for link in (share.link, f"?settings={kept_settings.keep(plan.to_json())}"):
        again = ended(opened("interventions", link), "intervention")
        assert not errors(again)
        assert outcome(again, "intervention").plan == plan
        equal(outcome(again, "intervention").judged, done.judged)
        assert again.text_input("prompt").value == PROMPT
    equal(run_python(share.code())["result"].judged, done.judged)


def test_an_intervention_its_view_and_its_code(shares, tmp_path):
    page = open_page("interventions")
    page.text_area("tweet").set_value("My flight got cancelled, terrible service")
    page.segmented_control("intervention:what").set_value("steer").run()
    for key, value in (("controls", 1), ("texts", 5), ("samples", 2)):
        page.slider(f"intervention:{key}").set_value(value)
    page.number_input("intervention:after").set_value(0)
    page.button("intervene").click().run()
    ended(page, "intervention")
    page.segmented_control("intervention:shown").set_value("attn").run()
    done = outcome(page, "intervention")
    share, recipe = shares["intervention"]
    plan = Plan.from_json(recipe().to_json())
    for link in (share.link, f"?settings={kept_settings.keep(plan.to_json())}"):
        again = ended(opened("interventions", link), "intervention")
        assert not errors(again)
        found = outcome(again, "intervention")
        assert found.plan == plan
        equal(found.judged, done.judged)
        assert again.slider("intervention:texts").value == 5
        assert again.number_input("intervention:after").value == 0
        if "settings" not in link:
            assert dict(again.query_params) == dict(page.query_params)
            assert again.segmented_control("intervention:shown").value == "attn"
    code = share.code()
    equal(run_python(code)["result"].judged, done.judged)
    run_commands(code, tmp_path)
    equal(pd.read_csv(tmp_path / "evaluation.csv")[["value"]], done.judged[["value"]])


def sweeps():
    model, tweets = load_model("gpt2"), core.load_dataset("vader-tweets")
    probe = core.probe_for(model, tweets, dataset="vader-tweets")
    return [
        core.sweep(
            model,
            probe,
            tweets,
            TraceSettings(samples=n, every=2),
            selection=Selection(n=6),
            data="vader-tweets",
        )
        for n in (1, 2)
    ]


def test_an_average_its_view_and_its_code(shares, tmp_path):
    store, other = sweeps()
    page = opened("average", f"?sweep={store.id}")
    ended(page, "average")
    page.selectbox("average:interval").set_value("normal")
    page.selectbox("average:proxy:tweets").set_value("log_ratio")
    page.toggle("average:normalised").set_value(True).run()
    ended(page, "average")
    page.segmented_control("average:view").set_value("peaks").run()
    study = outcome(page, "average")
    share, recipe = shares["average"]
    again = ended(opened("average", share.link), "average")
    assert dict(again.query_params) == dict(page.query_params)
    assert again.segmented_control("average:view").value == "peaks"
    equal(outcome(again, "average").average.frame, study.average.frame)
    assert recipe().options == Options(normalised=True, interval="normal", proxy="log_ratio")
    code = share.code()
    assert not code.file
    equal(run_python(code)["result"].frame, study.average.frame)
    run_commands(code, tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["mean"]], study.average.frame[["mean"]])


def test_averages_side_by_side_and_their_code(shares, tmp_path):
    stores = sweeps()
    link = "?" + "&".join(f"sweep={store.id}" for store in stores)
    page = opened("compare", f"{link}&share=1&depth=relative")
    ended(page, "compare averages")
    averages = outcome(page, "compare averages")
    share, _ = shares["compare averages"]
    assert dict(page.query_params) == parameters(share.link)
    table = core.display_of(core.show(*averages.values())).table()
    made = run_python(share.code())["result"]
    assert list(made.averages) == list(averages)
    equal(core.display_of(made).table()[["effect"]], table[["effect"]])
    run_commands(share.code(), tmp_path)
    equal(pd.read_csv(tmp_path / "cells.csv")[["effect"]], table[["effect"]])


def test_a_sweep_that_is_not_here_is_told():
    for name, link in (("average", "?sweep=0123"), ("compare", "?sweep=0123&sweep=4567")):
        assert "not on this disk" in errors(opened(name, link))


def test_a_probe_and_its_code(shares, tmp_path):
    page = open_page("probes")
    page.toggle("twin").set_value(False)
    page.button("train").click().run()
    ended(page, "probe")
    probe = outcome(page, "probe").probe
    share, _ = shares["probe"]
    again = opened("probes", share.link)
    assert again.selectbox("shown").value == page.selectbox("shown").value
    made = run_python(share.code())
    assert made["probe"].report.tables().keys() == probe.report.tables().keys()
    for name, table in probe.report.tables().items():
        equal(made["probe"].report.tables()[name], table)
    run_commands(share.code(), tmp_path)
    assert core.Probe.load(tmp_path / "probe" / "probe.json").report == probe.report
