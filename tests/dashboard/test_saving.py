"""The "Save" button in a browser: files arrive, and what there is to tell of them is shown."""

from pathlib import Path

import pytest
from playwright.sync_api import expect
from served import browse, serve

pytestmark = [pytest.mark.browser]

BOX = "this character is a box, since no font on this machine has it: <U+F1234>"
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    script = "tests/support/saving_page.py"
    with serve(tmp_path_factory.mktemp("home"), script) as address, browse(chromium) as browser:
        page = browser.new_page(accept_downloads=True)
        page.set_default_timeout(120_000)  # the server's first page, on two busy cores
        page.goto(address)
        page.get_by_role("button", name="Save").click()
        yield page


def row_of(page, name):
    """The buttons of a figure, by their forms."""
    return lambda form: page.locator(f".st-key-save-figures-{name.lower()}-{form} button")


def saved(page, button):
    with page.expect_download() as download:
        button.click()
    content = Path(download.value.path()).read_bytes()
    # The run that the press began has ended, and the popover is still open.
    expect(page.get_by_text("Making the file")).to_have_count(0)
    expect(button).to_be_visible()
    return content


def test_files_arrive_and_what_is_to_be_told_of_them_is_told(page):
    fine, lacking, aborting = (row_of(page, name) for name in ("Fine", "Lacking", "Aborting"))
    assert saved(page, fine("png")).startswith(b"\x89PNG")
    expect(page.get_by_role("alert")).to_have_count(0)

    assert saved(page, lacking("pdf")).startswith(b"%PDF")
    expect(page.get_by_role("alert")).to_contain_text(BOX)

    assert b"<svg" in saved(page, lacking("svg"))
    expect(page.get_by_role("alert")).to_have_count(0)

    # The drawing library really aborts; the server does not, and the next figure is drawn.
    aborting("png").click()
    expect(page.get_by_role("alert")).to_contain_text("the drawing library broke off (Aborted)")
    assert saved(page, fine("pdf")).startswith(b"%PDF")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert b'"mark"' in saved(page, aborting("json"))
