"""Take the pictures of the dashboard that the documentation shows: `make screenshots`.

Needs the repository's root on PYTHONPATH, and what `make setup` prepares.

Every state of the Trace page, at 1440 and 420 pixels, in the light and the dark theme, on the
embedded model. The page scrolls inside itself, so that a picture is as high as its window. Pictures
are kept in 256 colours, which is a third of their size.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

import chromium
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from served import borrowed_home, browse, open_dashboard, serve

from core.cache import home

FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"
SHORT = "terrible service"
NEUTRAL = "I am going to the store"
LONG_TWEET = (
    "Two hours at the gate \U0001f62d\U0001f62d and still no news, this is so bad "
    "https://example.org/flight?id=4711&late=yes #delayed #never again @airline please just tell "
    "us something, anything, we are tired \U0001f634 and hungry and the kids are crying \U0001f476"
)
PATIENCE = 1_800_000  # ms
WIDE, NARROW = 1440, 420
HIGH = {WIDE: 1500, NARROW: 2700}  # pixels, of a page without more on it than a trace
CELL = (12, 12)  # layer and position in the example: the early site at " terrible"


def main() -> int:
    """Take every picture; returns the exit code."""
    path = chromium.find()
    if path is None:
        print(chromium.ADVICE, file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(borrowed_home(home(), Path(folder) / "home")) as address,
        browse(path) as browser,
    ):
        for theme in ("light", "dark"):
            take(browser, address, theme)
    return 0


def take(browser: Browser, address: str, theme: str) -> None:
    """Take the pictures of one theme, in the order in which a visitor sees them."""
    page = open_dashboard(browser, address, color_scheme=theme)
    page.set_default_timeout(PATIENCE)

    expect(page.get_by_text("Early site at")).to_be_visible(timeout=PATIENCE)
    keep(page, f"first-visit-{theme}")

    page.goto(f"{address}/?cell=hidden-{CELL[0]}-{CELL[1]}")
    expect(page.get_by_text("Logit lens")).to_be_visible(timeout=PATIENCE)
    keep(page, f"cell-{theme}", {WIDE: 2150, NARROW: 4100})

    page.goto(address)
    page.get_by_text("Each word in turn", exact=True).click()
    page.locator(".st-key-ask-words-start button").first.click()
    expect(page.get_by_text("matters most")).to_be_visible(timeout=PATIENCE)
    keep(page, f"each-word-{theme}", {WIDE: 2150, NARROW: 3500})

    run(page, "   ")
    expect(page.get_by_text("type a few words")).to_be_visible(timeout=PATIENCE)
    keep(page, f"error-{theme}", {WIDE: 900, NARROW: 1500})

    if theme == "light":  # in the dark the samples are kept already, and nothing is seen running
        run(page, SHORT)
        expect(page.get_by_text(re.compile(r"mean of \d noise samples? of"))).to_be_visible(
            timeout=PATIENCE
        )
        keep(page, f"running-{theme}", {WIDE: 1300})
        expect(page.get_by_text("Done in").first).to_be_visible(timeout=PATIENCE)

    run(page, NEUTRAL)
    expect(page.get_by_text("Why the cells are grey")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Done in").first).to_be_visible(timeout=PATIENCE)
    page.locator(".st-key-ask-noise-start button").first.click()
    expect(page.get_by_text("is predicted").first).to_be_visible(timeout=PATIENCE)
    keep(page, f"health-gate-{theme}", {WIDE: 1700, NARROW: 3100})

    page.get_by_text("Settings", exact=True).click()
    page.locator(".st-key-samples input").first.press("Home")
    run(page, LONG_TWEET)
    expect(page.get_by_text("\u00b7bad *").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Done in").first).to_be_visible(timeout=PATIENCE)
    keep(page, f"long-tweet-{theme}", {WIDE: 1800})
    page.context.close()


def run(page: Page, tweet: str) -> None:
    """Type a tweet and have it traced."""
    page.get_by_label("Tweet", exact=True).fill(tweet)
    page.get_by_role("button", name="Run trace").click()


def keep(page: Page, name: str, high: dict[int, int] = HIGH) -> None:
    """Save what windows of these widths and heights show, once the page has come to rest."""
    for width, height in high.items():
        page.set_viewport_size({"width": width, "height": height})
        page.mouse.move(0, 0)
        expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE)
        page.wait_for_timeout(1500)
        path = FOLDER / f"{name}{'' if width == WIDE else '-narrow'}.png"
        with Image.open(io.BytesIO(page.screenshot())) as picture:
            # The method that keeps the few pixels of a frame in their own colour.
            few = picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
            few.save(path, optimize=True)
        print(f"docs/screenshots/{path.name}", flush=True)
    page.set_viewport_size({"width": WIDE, "height": 1500})


if __name__ == "__main__":
    sys.exit(main())
