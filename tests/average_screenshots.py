"""Take pictures of the Average page: `python tests/average_screenshots.py [FOLDER]`.

Needs the repository's root on PYTHONPATH, and what `make setup` prepares. First the page as a first
visitor finds it, then with copies of the sweeps of this disk, if there are any: every view, at 1440
and 420 pixels, in the light and the dark theme.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import chromium
from playwright.sync_api import Browser, Page
from served import borrowed_home, browse, serve

from core.cache import home
from core.session.average_views import VIEWS

FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"
LONG = 600_000  # ms
WIDE, NARROW = {"width": 1440, "height": 2300}, {"width": 420, "height": 4200}


def main() -> int:
    """Take every picture; returns the exit code."""
    path = chromium.find()
    if path is None:
        print(chromium.ADVICE, file=sys.stderr)
        return 1
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        own = borrowed_home(home(), Path(temporary) / "home")
        with serve(own) as address, browse(path) as browser:
            for theme in ("light", "dark"):
                page = open_page(browser, address, theme, "Average of")
                keep(page, folder / f"average-first-{theme}.png")
                page.context.close()
            if (home() / "sweeps").is_dir():
                shutil.copytree(home() / "sweeps", own / "sweeps")
                for theme in ("light", "dark"):
                    take(browser, address, theme, folder)
    return 0


def take(browser: Browser, address: str, theme: str, folder: Path) -> None:
    """Take the pictures of a finished or half-finished sweep in one theme."""
    page = open_page(browser, address, theme, "Look closer")
    for name, title in VIEWS.items():
        page.get_by_role("radio", name=title).click()
        keep(page, folder / f"average-{name}-{theme}.png")
    page.get_by_role("radio", name=VIEWS["layers"]).click()
    page.set_viewport_size(NARROW)
    keep(page, folder / f"average-narrow-{theme}.png")
    page.set_viewport_size(WIDE)
    page.get_by_text("New sweep").click()
    keep(page, folder / f"average-form-{theme}.png")
    page.context.close()


def open_page(browser: Browser, address: str, theme: str, text: str) -> Page:
    """A visitor's look at the page, once this text is there."""
    page = browser.new_context(viewport=WIDE, color_scheme=theme).new_page()
    page.goto(f"{address}/average")
    page.get_by_text(text).first.wait_for(timeout=LONG)
    return page


def keep(page: Page, path: Path) -> None:
    """Save what the window shows, once it has come to rest."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(4000)
    page.screenshot(path=path)
    print(path, flush=True)


if __name__ == "__main__":
    sys.exit(main())
