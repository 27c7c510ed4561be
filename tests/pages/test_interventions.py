"""The Interventions page: choose an intervention, see it before and after, and save it."""

import pytest
from drawn import titles
from small_pages import ended, outcome, said, visit
from streamlit.testing.v1 import AppTest
from tiny_held import tweets_with_neutral_ones
from tiny_world import small_world

from core.dashboard import intervening
from core.interventions.plan import Plan

TWEET = "My flight got cancelled, terrible service"


@pytest.fixture(autouse=True)
def world(own_home):
    with small_world(3, *tweets_with_neutral_ones(), trained=True):
        yield


def ask(page: AppTest, what: str = "steer", **options: object) -> AppTest:
    """Choose an intervention, quick to judge."""
    page.text_area("tweet").set_value(TWEET)
    page.segmented_control("intervention:what").set_value(what)
    page.run()
    page.slider("intervention:controls").set_value(1)
    page.slider("intervention:texts").set_value(5)
    page.slider("intervention:samples").set_value(2)
    for name, value in options.items():
        sorts = (page.selectbox, page.number_input, page.slider, page.text_input, page.toggle)
        for sort in (*sorts, page.segmented_control):
            if f"intervention:{name}" in {one.key for one in sort}:
                sort(f"intervention:{name}").set_value(value)
    return page.run()


def intervene(page: AppTest) -> AppTest:
    return ended(page.button("intervene").click().run(), "intervention")


def test_an_empty_page_says_what_will_be_there_and_what_does_not_follow():
    page = visit("interventions")
    assert not page.exception
    assert "What you will see" in said(page)
    assert "It does not show that it is the place to change it" in said(page)
    assert not titles(page)


@pytest.mark.parametrize("what", ["edit", "steer", "ablate", "replace"])
def test_every_intervention_is_shown_before_and_after_beside_its_controls(what):
    page = intervene(ask(visit("interventions"), what))
    assert not page.exception
    assert not page.error
    words = said(page)
    assert "P(positive)" in words
    assert "Before" in words
    assert "After" in words
    assert "Largest traced effects" in words
    drawn = titles(page)
    assert "Shift of the log-odds" in drawn
    assert any(title.startswith("Before:") for title in drawn)
    assert any(title.startswith("After:") for title in drawn)
    tables = [frame.value for frame in page.dataframe if "probability" in frame.value]
    assert len(tables) == 2


def test_a_patched_direction_asks_for_the_other_tweet_first():
    page = ask(visit("interventions"), "exchange")
    assert page.button("intervene").disabled
    assert "Type the other tweet" in said(page)
    page.text_input("intervention:other").set_value("great day").run()
    page = intervene(page)
    assert not page.error
    assert "patch means at layer" in said(page).lower()


def test_a_sweep_of_the_layers_is_drawn_beside_the_traced_effect():
    page = intervene(ask(visit("interventions"), "ablate", **{"sweep:2": "layer"}))
    assert not page.error
    assert "Efficacy and traced effect by layer" in titles(page)
    assert "Rank correlation" in said(page)


def test_a_sweep_of_the_strength_is_drawn_beside_its_cost():
    page = intervene(ask(visit("interventions"), "steer", **{"sweep:3": "strength"}))
    assert not page.error
    assert {"The tweet", "Neutral texts"} <= set(titles(page))


def test_a_cell_of_the_trace_page_can_be_taken():
    page = visit("interventions")
    page.session_state["cell"] = ("mlp", 1, 3)
    page = ask(page, "edit")
    page.selectbox("intervention:where").set_value("cell").run()
    page = intervene(page)
    assert not page.error
    judged = outcome(page, "intervention")
    assert judged.site == (1, 3)
    assert not judged.located
    assert "as chosen" in said(page)


def test_an_address_names_tweet_and_cell():
    page = visit("interventions", tweet=TWEET, kind="mlp", layer="1", position="2")
    assert page.text_area("tweet").value == TWEET
    assert page.selectbox("intervention:where").value == "cell"
    assert page.segmented_control("intervention:what").value == "edit"


@pytest.mark.parametrize("layer", ["-1", "x", "9999999999999999999999"])
def test_an_address_that_makes_no_sense_breaks_nothing(layer):
    page = visit("interventions", tweet="<b>x</b>", kind="mlp", layer=layer, position="2")
    assert not page.exception


def test_mistakes_are_one_sentence():
    page = visit("interventions")
    page.text_area("tweet").set_value("").run()
    page = intervene(page)
    assert len(page.error) == 1
    assert "empty" in page.error[0].value
    page = ask(page, "steer", after=50)
    page = intervene(page)
    assert "There is no layer 50" in page.error[0].value.replace("\\", "")


def test_the_settings_make_the_same_plan_again():
    page = intervene(ask(visit("interventions"), "steer", after=1))
    judged = outcome(page, "intervention")
    saved = Plan.from_json(judged.plan.to_json())
    assert (saved.what, saved.layer, saved.text, saved.model) == ("steer", 1, TWEET, "gpt2")
    assert intervening.headline(judged) in said(page)


def test_markup_in_a_tweet_stays_text():
    page = visit("interventions")
    page.text_area("tweet").set_value("**great** [day](http://example.org) :smile:").run()
    page.segmented_control("intervention:what").set_value("steer").run()
    page.slider("intervention:texts").set_value(0)
    page.slider("intervention:controls").set_value(0)
    page.slider("intervention:samples").set_value(1)
    page = intervene(page.run())
    assert not page.error
    for element in (*page.markdown, *page.caption):
        assert "[day](http" not in element.value
