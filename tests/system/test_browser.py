"""The dashboard in a real browser, on a tiny model: type, run, look, stop, come back."""

import re
import sys
from itertools import pairwise
from pathlib import Path

import held_server
import pytest
from playwright.sync_api import Locator, Page, expect
from served import browse, open_dashboard, serve
from tiny_world import make_home

TWEET = "terrible service"
PANELS = ("Hidden state", "MLP", "Attention")
LONG_TWEET = (  # more rows than a figure shows at once
    "Two hours at the gate \U0001f62d and still no news, this is so bad https://example.org/late?id=47"
    " #never again @airline please tell us something"
)
LONG = 300_000  # ms: a whole trace, on two slow cores beside other work

expect.set_options(timeout=120_000)  # two slow cores; what must be seen is seen sooner
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("browser") / "home", layers=12)


@pytest.fixture(scope="module")
def address(home):
    with serve(home, (sys.executable, held_server.__file__)) as address:
        yield address


@pytest.fixture
def samples(home):
    """The file that says how many noise samples are traced until it says another number."""
    file: Path = home / held_server.SAMPLES
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def browser(chromium):
    with browse(chromium) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    page = open_dashboard(browser, address, viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)
    yield page
    page.context.close()


def ask(page: Page, tweet: str) -> None:
    page.get_by_label("Tweet", exact=True).fill(tweet)
    page.get_by_role("button", name="Run trace").click()


def anyway(page: Page, *, samples: int = 10) -> None:
    """Trace whatever the verdict says of a model of random weights, with 1 sample or with 10."""
    drawn = page.locator("[data-test-script-state=notRunning]")
    expect(drawn).to_have_count(1)
    page.get_by_text("Settings", exact=True).click()
    if samples == 1:
        page.locator(".st-key-samples input").first.press("Home")
        expect(page.locator(".st-key-samples")).not_to_contain_text("10")
    name = "Trace what fails the health check"
    for _ in range(20):
        # What a slow server still draws may undo a click; so it counts when all is drawn.
        if not page.get_by_role("switch", name=name).is_checked():
            page.get_by_text(name).click()
        page.wait_for_timeout(500)
        expect(drawn).to_have_count(1)
        if page.get_by_role("switch", name=name).is_checked():
            return
    raise AssertionError("The switch cannot be switched on.")


def trace_all_cells(page: Page) -> None:
    """Go on with a trace that is settled, until nothing is left out."""
    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Trace all cells").click()
    expect(page.get_by_role("button", name="Trace all cells")).to_have_count(0, timeout=LONG)
    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
    expect(caption(page)).not_to_contain_text("wider cell")
    for title in PANELS:  # a coarse heatmap names no layer 5
        expect(panel(page, title).get_by_text("5", exact=True)).to_be_visible()


def panel(page: Page, title: str):
    return page.locator(".stVegaLiteChart", has=page.get_by_text(title, exact=True))


def expect_panels(page: Page, label: str = "service *") -> None:
    """All three panels of the tweet stand there; its tokens are named beside the first."""
    expect(panel(page, PANELS[0]).get_by_text(label)).to_be_visible(timeout=LONG)
    for title in PANELS:
        # For a moment the panels of the tweet before stand there too.
        expect(panel(page, title)).to_have_count(1, timeout=LONG)
        expect(panel(page, title)).to_be_visible(timeout=LONG)


def stop_button(page: Page):
    return page.locator(".st-key-stop button").first


def caption(page: Page) -> Locator:
    return page.get_by_text("A cell is the change in")


def cell_in(page: Page, title: str, token: str, layer: int) -> tuple[float, float]:
    """Where on the screen a cell of a panel with token labels is."""
    chart = panel(page, title)
    chart.scroll_into_view_if_needed()
    row = chart.get_by_text(token, exact=True).bounding_box()
    columns = [chart.get_by_text(str(at), exact=True).bounding_box() for at in (0, 5)]
    left, right = (box["x"] + box["width"] / 2 for box in columns)
    return left + (right - left) / 5 * layer, row["y"] + row["height"] / 2


def click_cell(page: Page, *cell) -> None:
    page.mouse.click(*cell_in(page, *cell))


def test_a_first_visit_shows_an_example(page):
    expect(page.get_by_text("An example, traced before.")).to_be_visible()
    for title in PANELS:
        expect(panel(page, title)).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Early site at")).to_be_visible()


def test_typing_a_tweet_and_pressing_run_shows_three_panels_that_sharpen_in_place(page, samples):
    samples.write_text("1")
    anyway(page)
    ask(page, TWEET)
    # The example of a first visit, of ten samples, makes way for this tweet's first one.
    expect(page.get_by_text(re.compile(r"\b1 noise sample\b")).first).to_be_visible(timeout=LONG)
    expect_panels(page)
    expect(page.get_by_role("heading", name=re.compile(r"P\(positive\)"))).to_be_visible()
    place = panel(page, "Hidden state").bounding_box()

    # Further samples are drawn where the first one stood.
    samples.write_text("2")
    expect(page.get_by_text("the mean of 3 noise samples")).to_be_visible(timeout=LONG)
    expect_panels(page)
    assert panel(page, "Hidden state").bounding_box() == place

    # Stop keeps what is there.
    expect(stop_button(page)).to_be_enabled()
    stop_button(page).click()
    expect(page.get_by_text("Stopping")).to_be_visible()
    samples.unlink()
    expect(page.get_by_text("Stopped after")).to_be_visible(timeout=LONG)
    expect(stop_button(page)).to_be_disabled()
    expect_panels(page)

    # So does leaving the page.
    before = caption(page).inner_text()
    page.get_by_role("link", name="Method").click()
    expect(page.get_by_role("heading", name="Method")).to_be_visible()
    page.get_by_role("link", name="Trace").click()
    expect_panels(page)
    expect(caption(page)).to_have_text(before)
    expect(page.get_by_label("Tweet", exact=True)).to_have_value(TWEET)

    # Run goes on from the samples that were done.
    page.get_by_role("button", name="Run trace").click()
    expect(page.get_by_text("the mean of 10 noise samples")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)

    # Settled, it says what it has left out, and goes on when asked.
    expect(caption(page)).to_contain_text("all layers near where a site may be")
    trace_all_cells(page)

    # On a narrow screen the panels stand one below the other, each with its tokens, in the page.
    page.set_viewport_size({"width": 420, "height": 1000})
    for title in PANELS:
        expect(panel(page, title).get_by_text("service *")).to_be_visible()
    boxes = [panel(page, title).bounding_box() for title in PANELS]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 420 for box in boxes)
    page.wait_for_function("document.documentElement.scrollWidth <= 420")

    # The picture can be taken away.
    page.set_viewport_size({"width": 1440, "height": 1000})
    page.get_by_role("button", name="Save").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").first.click()
    assert "service *" in download.value.path().read_text(encoding="utf-8")


def test_a_cell_is_clicked_moved_shown_in_another_proxy_and_found_again_by_its_link(page, browser):
    anyway(page, samples=1)
    tweet = "a terrible service"  # one that no other test has traced to its last cell
    ask(page, tweet)
    expect_panels(page)
    trace_all_cells(page)
    click_cell(page, "Hidden state", "\u00b7service *", 4)
    heading = page.get_by_role("heading", name=re.compile("layer 4, Hidden state"))
    expect(heading).to_be_visible()
    expect(page.get_by_text("Logit lens")).to_be_visible(timeout=LONG)
    expect(page).to_have_url(re.compile(r"cell=hidden-4-\d+"))
    position = int(re.search(r"cell=hidden-4-(\d+)", page.url)[1])

    # Arrow keys lead to its neighbours, and a click leads back.
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name=re.compile("layer 5, Hidden state"))).to_be_visible()
    expect(page).to_have_url(re.compile(f"cell=hidden-5-{position}"))
    page.keyboard.press("ArrowDown")
    expect(page).to_have_url(re.compile(f"cell=hidden-5-{position + 1}"))
    click_cell(page, "Hidden state", "\u00b7service *", 4)
    expect(heading).to_be_visible()

    # Keys that are typed are typed.
    page.get_by_label("Tweet", exact=True).press("ArrowLeft")
    page.wait_for_timeout(1000)
    expect(heading).to_be_visible()

    # Another proxy is read from the same run: no work begins.
    took = page.get_by_text("Done in").first.inner_text()
    page.get_by_role("combobox", name="Effect measured in").click()
    page.get_by_role("option", name="P(good)", exact=True).click()
    expect(page.get_by_text("A cell is the change in P(good)")).to_be_visible()
    expect(page).to_have_url(re.compile("proxy=good"))
    expect(page.get_by_text("Done in").first).to_have_text(took)

    # The address leads a new visitor to the same view.
    expect(page.get_by_text("Logit lens")).to_be_visible(timeout=LONG)
    sentences, explained = page.locator(".st-key-said").inner_text(), caption(page).inner_text()
    other = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    other.goto(page.url)
    other.set_default_timeout(120_000)
    expect(other.get_by_role("heading", name=re.compile("layer 4, Hidden"))).to_be_visible(
        timeout=LONG
    )
    expect_panels(other)
    expect(other.get_by_text("Done in").first).to_be_visible(timeout=LONG)
    expect(other.locator(".st-key-said")).to_have_text(sentences, use_inner_text=True)
    expect(caption(other)).to_have_text(explained, use_inner_text=True)
    expect(other.get_by_label("Tweet", exact=True)).to_have_value(tweet)
    expect(other).to_have_url(page.url)
    other.context.close()

    # From the cell a person goes on to change it.
    page.get_by_role("button", name="Intervene here").click()
    expect(page.get_by_role("heading", name="Interventions", exact=True)).to_be_visible()
    expect(page.get_by_label("Tweet", exact=True)).to_have_value(tweet)


def test_words_in_place_of_tokens_and_shares_in_place_of_nats_redraw_the_panels_in_place(page):
    anyway(page, samples=1)
    ask(page, "unbelievably terrible service")
    expect_panels(page)
    trace_all_cells(page)
    drawn = page.locator(".stVegaLiteChart:has-text('layer') svg.marks")
    expect(drawn).to_have_count(3)
    for svg in drawn.all():
        svg.evaluate("svg => svg.setAttribute('data-drawn', 'once')")
    before = panel(page, "Hidden state").bounding_box()
    # Side by side, the first panel names the tokens for all.
    for title in PANELS[1:]:
        expect(panel(page, title).get_by_text("service *")).to_have_count(0)

    page.get_by_role("radio", name="Words", exact=True).last.click()
    expect(panel(page, "Hidden state").get_by_text("unbelievably *", exact=True)).to_be_visible()
    expect(page.get_by_text("A word's cells are those of its last token")).to_be_visible()
    after = panel(page, "Hidden state").bounding_box()
    assert (after["x"], after["width"]) == (before["x"], before["width"])
    assert after["height"] < before["height"]

    page.get_by_role("radio", name="% of total", exact=True).click()
    expect(page.get_by_text("in percent when a site")).to_be_visible()
    expect(page.locator("svg.marks[data-drawn=once]")).to_have_count(3)
    # A click still finds its cell.
    click_cell(page, "Hidden state", "unbelievably *", 3)
    expect(page.get_by_text(re.compile("unbelievably.*layer 3"))).to_be_visible()


def test_a_long_tweet_scrolls_in_its_figure_while_its_layers_stay_in_sight(page):
    anyway(page, samples=1)
    ask(page, LONG_TWEET)
    # The title stands with the layers, above what scrolls.
    hidden = panel_of_key(page, "heatmap-hidden")
    expect(hidden.get_by_text("\u00b7bad *")).to_be_visible(timeout=LONG)
    window = page.locator(".st-key-heatmap-window")
    box = window.bounding_box()
    assert box["height"] <= 540
    layers = page.locator(".st-key-heatmap-strip-hidden")
    top = layers.bounding_box()["y"]
    window.evaluate("node => node.scrollTo(0, 150)")
    page.wait_for_timeout(500)  # what would scroll it back has had its time
    assert window.evaluate("node => node.scrollTop") == 150
    assert layers.bounding_box()["y"] == pytest.approx(top, abs=2)
    tokens = hidden.locator("text").all()
    boxes = [token.bounding_box() for token in tokens]
    rows = sorted(box["y"] for box in boxes if box and box["width"])
    assert min(after - before for before, after in pairwise(rows)) >= 15

    # A layer stands above its own column.
    strip, cells = layers.locator("svg").last, hidden.locator("svg")
    assert strip.bounding_box()["width"] == cells.last.bounding_box()["width"]


def panel_of_key(page: Page, key: str):
    return page.locator(f".st-key-{key} .stVegaLiteChart")


def test_a_tweet_that_cannot_be_read_gets_one_sentence(page):
    ask(page, "   ")
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("type a few words")
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_the_dark_theme_follows_the_browser(browser, address):
    page = open_dashboard(browser, address, color_scheme="dark")
    background = page.locator(".stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background)[:3])) < 120
    expect(panel(page, "Hidden state")).to_be_visible(timeout=LONG)
    label = panel(page, "Hidden state").get_by_text("\u00b7terrible *")
    ink = label.evaluate("node => getComputedStyle(node).fill")
    assert sum(map(int, re.findall(r"\d+", ink)[:3])) > 300
    page.context.close()
