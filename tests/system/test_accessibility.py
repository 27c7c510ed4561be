"""Who can use the pages: with a keyboard, with a screen reader, in both themes, on a telephone.

axe-core (Deque; it comes with axe-playwright-python) looks at every page with a result on it.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import axe_playwright_python
import pandas as pd
import pytest
from playwright.sync_api import Page, expect
from served import browse, serve
from tiny_world import make_home

from core.dashboard.as_table import laid_out, table_html

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
TWEET = "terrible service"
WIDTHS = (1440, 420)
THEMES = ("light", "dark")
GRAVE = ("serious", "critical")
HIGHEST = 24  # pixels that a thing to tap is high at least (WCAG 2.2, 2.5.8)

FEWEST = 5  # things that Tab leads to on any page
MOST_CELLS = 400  # of its tables

SMALL = {
    "[aria-label^=Help]": "the mark beside a label; style.css gives a finger more room around it",
    "[data-testid=stMultiSelect] [tabindex='-1']": "the field around it opens the list as well; "
    "what is chosen is unchosen in the list, by Backspace and by Clear all",
    "[aria-label='Clear all']": "22.5 pixels in a field of Streamlit's, with nothing close to it",
}
"""What is smaller in markup that Streamlit makes, and why that keeps nobody out."""

expect.set_options(timeout=120_000)
pytestmark = pytest.mark.browser


# --- every page, with a result on it -------------------------------------------------------------


def example(page: Page) -> None:
    expect(page.get_by_text("Early site at")).to_be_visible()
    open_tables(page)


def trace(page: Page) -> None:
    page.get_by_text("Settings", exact=True).click()
    page.locator(".st-key-samples input").first.press("Home")
    page.get_by_text("Trace what fails the health check").click()
    ask(page, "Run trace")
    expect(page.get_by_text("Done in")).to_be_visible()
    page.get_by_role("button", name="Largest cell").click()
    expect(page.get_by_text("Logit lens")).to_be_visible()
    open_tables(page)


def probes(page: Page) -> None:
    page.get_by_role("button", name="Train probe").click()
    expect(page.get_by_text("Done in")).to_be_visible()


def average(page: Page) -> None:
    expect(page.get_by_text("Details").first).to_be_visible()
    expect(page.get_by_text("As a table")).to_have_count(1)
    open_tables(page)


def compare(page: Page) -> None:
    ask(page, "Compare")
    expect(page.get_by_text("Done in")).to_be_visible()
    expect(page.get_by_text("As a table")).to_have_count(2)
    open_tables(page)


def interventions(page: Page) -> None:
    page.get_by_role("radio", name="Steer").click()
    ask(page, "Intervene")
    expect(page.get_by_text("Done in")).to_be_visible()
    open_tables(page)


def as_it_is(page: Page) -> None:
    expect(page.locator("h1")).to_be_visible()


PAGES: dict[str, tuple[str, Callable[[Page], None]]] = {
    "example": ("/", example),
    "trace": ("/", trace),
    "probes": ("/probes", probes),
    "average": ("/average", average),
    "compare": ("/compare", compare),
    "interventions": ("/interventions", interventions),
    "method": ("/method", as_it_is),
    "diagnostics": ("/diagnostics", as_it_is),
}


def ask(page: Page, button: str) -> None:
    page.get_by_label("Tweet", exact=True).fill(TWEET)
    page.get_by_role("button", name=button, exact=True).click()


def open_tables(page: Page) -> None:
    """Open the text version of every heatmap."""
    for closed in page.get_by_text("As a table", exact=True).all():
        before = page.get_by_role("table").count()
        closed.click()
        page.wait_for_function(
            "before => document.querySelectorAll('table').length > before", arg=before
        )


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with serve(make_home(tmp_path_factory.mktemp("access") / "home", layers=8)) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium):
    with browse(chromium) as browser:
        yield browser


@pytest.fixture(params=PAGES)
def page(request, browser, address) -> Iterator[Page]:
    path, make = PAGES[request.param]
    page = browser.new_context(
        viewport={"width": WIDTHS[0], "height": 1000}, reduced_motion="reduce"
    ).new_page()
    page.set_default_timeout(60_000)
    page.goto(address + path)
    page.locator("h1").first.wait_for()
    make(page)
    yield page
    page.context.close()


# --- what is held against them -------------------------------------------------------------------


def test_axe_finds_nothing_serious_on_a_page_and_all_of_it_can_be_reached_by_keyboard(page):
    found = []
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 1000})
            settled(page, theme)
            found += [f"{theme}, {width}: {one}" for one in grave(page)]
            if width == WIDTHS[1]:
                page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
                found += [f"{theme}: too small to tap: {one}" for one in too_small(page)]
    page.set_viewport_size({"width": WIDTHS[0], "height": 1000})
    found += [f"focus cannot be seen: {one}" for one in unseen_focus(page)]
    assert not found, "\n".join(found)


def settled(page: Page, theme: str) -> None:
    """Wait until the page is drawn, whole and in this theme, and nothing moves."""
    page.wait_for_function(
        """dark => {
          const [red] = getComputedStyle(document.querySelector('.stApp')).backgroundColor
            .match(/\\d+/g);
          return (red < 128) === dark
            && document.querySelector('.stApp').dataset.testScriptState === 'notRunning'
            && !document.querySelector('[data-testid=stSkeleton], [data-stale=true]')
            && document.getAnimations().every(one => one.playState !== 'running');
        }""",
        arg=theme == "dark",
    )


def grave(page: Page) -> list[str]:
    """What axe finds that keeps people out."""
    page.evaluate(AXE + ";0")  # a script, so that no policy of the page is in the way
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in result["violations"]
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]


def too_small(page: Page) -> list[str]:
    """Buttons, choices and boxes that a finger would miss."""
    return page.evaluate(
        """([least, out]) => [...document.querySelectorAll(
            'button, summary, label:has([type=radio], [type=checkbox])')]
          .filter(node => !node.matches(out) && node.checkVisibility(
            {visibilityProperty: true, opacityProperty: true}))
          .map(node => [node, node.getBoundingClientRect()])
          .filter(([node, box]) => box.width > 1 && (box.height < least || box.width < least))
          .map(([node, box]) => `${box.width}x${box.height} ${node.outerHTML.slice(0, 200)}`)""",
        [HIGHEST, ", ".join(SMALL)],
    )


LOOK = """node => {
  const seen = [node, ...node.querySelectorAll('*')];
  // The box of a radio button or a checkbox that is drawn stands beside the one that has the focus.
  if (node.tagName === 'INPUT') seen.push(...(node.closest('label')?.querySelectorAll('*') ?? []));
  for (let up = node, i = 0; i < 8 && up.parentElement; i++) seen.push(up = up.parentElement);
  return seen.map(one => ['', '::before', '::after'].map(part => {
    const style = getComputedStyle(one, part || null);
    return [style.outlineStyle, style.outlineWidth, style.outlineColor, style.boxShadow,
      style.borderColor, style.backgroundColor, style.textDecoration, style.opacity].join();
  }).join()).join();
}"""


def unseen_focus(page: Page) -> list[str]:
    """Walk through the page with Tab; what looks the same with the focus and without it."""
    page.add_style_tag(content="* { transition: none !important; animation: none !important }")
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    found, walked, stayed = [], [], 0
    while True:
        page.keyboard.press("Tab")
        node = page.evaluate_handle("document.activeElement")
        if walked:
            # In a table that is drawn on a canvas Tab leads through the cells, and then out of it.
            if node.evaluate("(node, before) => node === before", walked[-1][0]):
                stayed += 1
                assert stayed < MOST_CELLS, f"Tab is caught in {walked[-1][1]}"
                continue
            before, name, with_focus = walked[-1]
            if before.evaluate(LOOK) == with_focus:
                found.append(name)
        if node.evaluate("node => node === document.body || node.hasAttribute('data-walked')"):
            assert len(walked) >= FEWEST, "Tab does not lead through the page"
            return found
        node.evaluate("node => node.setAttribute('data-walked', '')")
        walked.append(
            (node, node.evaluate("node => node.outerHTML.slice(0, 240)"), node.evaluate(LOOK))
        )


@pytest.fixture
def telephone(browser, address) -> Iterator[Page]:
    page = browser.new_context(
        viewport={"width": WIDTHS[1], "height": 800}, has_touch=True, is_mobile=True
    ).new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    yield page
    page.context.close()


def test_a_finger_opens_a_cell_a_table_and_a_help(telephone):
    chart = telephone.locator(".stVegaLiteChart", has=telephone.get_by_text("Hidden state"))
    token = chart.get_by_text("\u00b7terrible *", exact=True)
    expect(token).to_be_visible()
    chart.scroll_into_view_if_needed()
    row, column = token.bounding_box(), chart.get_by_text("10", exact=True).bounding_box()
    telephone.touchscreen.tap(column["x"] + column["width"] / 2, row["y"] + row["height"] / 2)
    expect(
        telephone.get_by_role("heading", name=re.compile("layer 10, Hidden state"))
    ).to_be_visible()

    telephone.get_by_text("As a table", exact=True).tap()
    expect(telephone.get_by_role("region", name="Hidden state")).to_be_visible()
    telephone.wait_for_function("document.documentElement.scrollWidth <= innerWidth")

    telephone.get_by_role("button", name="Help for Effect measured in").tap()
    expect(telephone.get_by_text("Read from the same run")).to_be_visible()


def test_a_table_says_what_a_heatmap_shows_and_no_token_in_it_is_markup():
    cells = pd.DataFrame(
        {
            "layer": [0, 0, 1, 1],
            "position": [0, 2, 0, 2],
            "effect": [-1.5, 0.25, 0.0, float("nan")],
            "trivial": [False, False, True, False],
            "faded": [False, True, False, False],
        }
    )
    table = laid_out(cells, {0: "<b>bad</b>", 1: "unseen", 2: "\u00b7**x** *"})
    assert table.loc["layer 0"].tolist() == ["\u22121.5", "0.25 ns"]
    assert table.loc["layer 1"].tolist() == ["0 fixed", ""]
    estimated = laid_out(cells.assign(estimated=[True, False, True, False]), {0: "a", 2: "b"})
    assert estimated["a"].tolist() == ["\u22121.5 est.", "0 fixed"]
    assert laid_out(cells, {0: "very", 2: "very"}).columns.tolist() == ["0 very", "2 very"]
    written = table_html("<i>MLP</i>", table)
    assert "&lt;b&gt;bad&lt;/b&gt;" in written
    assert "<b>" not in written
    assert "<i>" not in written
