"""Where does a visitor come in? Every address of a fresh server leads into the whole dashboard."""

import pytest
from paths import ROOT
from playwright.sync_api import expect
from served import browse, serve
from streamlit.testing.v1 import AppTest

LONG = 120_000  # ms
IMPATIENT = """async () => {
  const options = () => document.querySelectorAll('.st-key-rows [role=radio]');
  const end = Date.now() + LONG;  // evaluate() itself would wait for ever
  while (options().length < 2) {
    if (Date.now() > end) throw new Error(`no words to click on: ${document.body.innerText}`);
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  for (let click = 0; click < 21; click++) {
    options()[(click + 1) % 2]?.click();
    await new Promise(resolve => setTimeout(resolve, 100));
  }
}"""
"""Clicks on words and tokens by turns as soon as they are there; the last is on words."""


@pytest.mark.browser
def test_a_first_visitor_by_the_address_of_a_page_finds_the_whole_dashboard(chromium, tmp_path):
    with serve(tmp_path / "home") as address, browse(chromium) as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}/probes")
        expect(page.get_by_role("heading", name="Probes")).to_be_visible(timeout=LONG)
        for name in ("Trace", "Probes", "Method"):
            expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
        # The list that Streamlit would make of the folder `pages`.
        expect(page.get_by_role("link", name="app", exact=True)).to_have_count(0)
        expect(page.get_by_test_id("stSidebarNav")).to_have_count(0)
        expect(page).to_have_title("SentiTrace")

        # What was chosen before the server had learned better is still chosen after.
        page.get_by_text("Your file", exact=True).click()
        expect(page.get_by_test_id("stFileUploader")).to_be_visible()
        page.get_by_role("link", name="Method").click()
        expect(page.get_by_role("heading", name="Method")).to_be_visible()
        page.get_by_role("link", name="Probes").click()
        expect(page.get_by_test_id("stFileUploader")).to_be_visible()


@pytest.mark.browser
def test_a_first_visitor_may_click_before_the_page_is_whole(chromium, tmp_path):
    with serve(tmp_path / "home") as address, browse(chromium) as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        mistakes: list[str] = []
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        page.goto(address)
        page.evaluate(IMPATIENT.replace("LONG", str(LONG)))
        expect(page.get_by_text("A word's cells are")).to_be_visible(timeout=LONG)
        expect(page.get_by_role("radio", name="Words", exact=True).last).to_be_checked()
        assert not mistakes


@pytest.mark.usefixtures("own_home")
def test_a_page_that_is_run_again_stands_once():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    for _ in range(2):
        app.run()
        assert [title.value for title in app.title] == ["Trace"]
        assert not app.exception


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("entry", ["app.py", "pages/method.py"])
def test_a_page_stands_once_in_its_frame_whichever_file_is_run(entry):
    app = AppTest.from_file(str(ROOT / entry), default_timeout=60).run()
    if entry == "app.py":
        app.switch_page("pages/method.py").run()
    assert [title.value for title in app.title] == ["Method"]
    assert not app.exception
