"""The dashboard in a real browser, on the embedded model: type, run, look, stop, come back."""

import re

import pytest
from playwright.sync_api import Page, expect
from served import borrowed_home, browse, open_dashboard, serve

TWEET = "terrible service"
PANELS = ("Hidden state", "MLP", "Attention")
LONG = 900_000  # ms: the first run may have to train the probe, on two slow cores

pytestmark = [pytest.mark.browser, pytest.mark.embedded]


@pytest.fixture(scope="module")
def address(embedded_home, tmp_path_factory):
    home = borrowed_home(embedded_home, tmp_path_factory.mktemp("browser") / "home")
    with serve(home) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium):
    with browse(chromium) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    page = open_dashboard(browser, address, viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(30_000)
    yield page
    page.context.close()


def ask(page: Page, tweet: str) -> None:
    page.get_by_label("Tweet").fill(tweet)
    page.get_by_role("button", name="Run trace").click()


def panel(page: Page, title: str):
    return page.locator(".stVegaLiteChart", has=page.get_by_text(title, exact=True))


def expect_panels(page: Page) -> None:
    for title in PANELS:
        expect(panel(page, title)).to_be_visible(timeout=LONG)


def stop_button(page: Page):
    return page.locator(".st-key-stop button")


def test_typing_a_tweet_and_pressing_run_shows_three_panels_that_sharpen_in_place(page):
    ask(page, TWEET)
    expect_panels(page)
    expect(page.get_by_role("heading", name=re.compile(r"P\(positive\)"))).to_be_visible()
    first = panel(page, "Hidden state")
    expect(first.get_by_text("service *")).to_be_visible()

    # A further sample redraws the same chart, where it stands.
    drawing = first.locator("svg, canvas").first.element_handle()
    place = first.bounding_box()
    expect(page.get_by_text(re.compile(r"the mean of (?!1 )\d+ noise samples"))).to_be_visible(
        timeout=LONG
    )
    assert drawing.evaluate("node => node.isConnected")
    assert panel(page, "Hidden state").bounding_box() == place

    # Stop keeps what is there.
    expect(stop_button(page)).to_be_enabled()
    stop_button(page).click()
    expect(page.get_by_text("Stopped after")).to_be_visible(timeout=LONG)
    expect(stop_button(page)).to_be_disabled()
    expect_panels(page)

    # So does leaving the page.
    caption = page.get_by_text("A cell is the change in").inner_text()
    page.get_by_role("link", name="Method").click()
    expect(page.get_by_role("heading", name="Method")).to_be_visible()
    page.get_by_role("link", name="Trace").click()
    expect_panels(page)
    assert page.get_by_text("A cell is the change in").inner_text() == caption
    assert page.get_by_label("Tweet").input_value() == TWEET

    # On a narrow screen the panels stand one below the other, each with its tokens, in the page.
    page.set_viewport_size({"width": 420, "height": 1000})
    for title in PANELS:
        expect(panel(page, title).get_by_text("service *")).to_be_visible()
    boxes = [panel(page, title).bounding_box() for title in PANELS]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 420 for box in boxes)

    # The picture can be taken away.
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as SVG").click()
    assert "service *" in download.value.path().read_text(encoding="utf-8")


def test_a_tweet_that_cannot_be_read_gets_one_sentence(page):
    ask(page, "   ")
    expect(page.get_by_text("The tweet", exact=False).last).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("type a few words")
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_the_dark_theme_follows_the_browser(browser, address):
    page = open_dashboard(browser, address, color_scheme="dark")
    background = page.locator(".stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background)[:3])) < 120
    page.context.close()
