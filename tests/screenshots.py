"""Take the pictures of the dashboard that the documentation shows: `make screenshots`.

Needs the repository's root on PYTHONPATH, and what `make setup` prepares.

Every state of the Trace page, at 1440 and 420 pixels, in the light and the dark theme, on the
embedded model. The page scrolls inside itself, so that a picture is as high as its window.
"""

import sys
import tempfile
from pathlib import Path

import chromium
from playwright.sync_api import Browser, Page, expect
from served import borrowed_home, browse, open_dashboard, serve

from core.cache import home

FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"
EXAMPLE = "Cancelled flight"
LONG = 1_800_000  # ms
WIDE, NARROW = {"width": 1440, "height": 1130}, {"width": 420, "height": 2560}
EMPTY = {"width": 1440, "height": 800}


def main() -> int:
    """Take every picture; returns the exit code."""
    path = chromium.find()
    if path is None:
        print(chromium.ADVICE, file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        with (
            # One for each theme: a trace that is kept already would not be seen running.
            tempfile.TemporaryDirectory() as folder,
            serve(borrowed_home(home(), Path(folder) / "home")) as address,
            browse(path) as browser,
        ):
            take(browser, address, theme)
    return 0


def take(browser: Browser, address: str, theme: str) -> None:
    """Take the pictures of one theme, in the order in which a visitor sees them."""
    page = open_dashboard(browser, address, viewport=EMPTY, color_scheme=theme)
    keep(page, f"empty-{theme}")

    page.get_by_role("button", name="Run trace").click()
    expect(page.get_by_text("type a few words")).to_be_visible(timeout=LONG)
    keep(page, f"error-{theme}")

    page.set_viewport_size(WIDE)
    page.get_by_text(EXAMPLE).click()
    expect(page.get_by_label("Tweet")).not_to_be_empty()
    page.get_by_role("button", name="Run trace").click()
    expect(page.get_by_text("Hidden state", exact=True)).to_be_visible(timeout=LONG)
    keep(page, f"running-{theme}")

    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
    keep(page, f"done-{theme}")
    page.set_viewport_size(NARROW)
    keep(page, f"done-narrow-{theme}")
    page.set_viewport_size(WIDE)
    page.get_by_text("Settings", exact=True).click()
    keep(page, f"settings-{theme}")
    page.context.close()


def keep(page: Page, name: str) -> None:
    """Save what the window shows, once it has come to rest."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(800)
    page.screenshot(path=FOLDER / f"{name}.png")
    print(f"docs/screenshots/{name}.png", flush=True)


if __name__ == "__main__":
    sys.exit(main())
