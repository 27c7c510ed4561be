"""Take the pictures of the dashboard that the documentation shows: `make screenshots`.

    PYTHONPATH=. python tests/support/screenshots.py [--pages trace probes ...] [--folder FOLDER]

Needs what `make setup` prepares. Every page in every state that a visitor meets (first visit,
running, done, refused), at 1440 and 420 pixels, in the light and the dark theme, on the embedded
model. Encodings and sweeps of this disk are used where there are any. Pictures are kept in 256
colours, which is a third of their size.
"""

import argparse
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import chromium
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from served import borrowed_home, browse, serve

from core.dashboard.average_views import VIEWS
from core.storage.cache import home

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
PATIENCE = 1_800_000  # ms
WIDE, NARROW = 1440, 420
WINDOW, HIGHEST = 1000, 4600  # pixels
SHORT = "terrible service"
NEUTRAL = "I am going to the store"
LONG_TWEET = (
    "Two hours at the gate \U0001f62d\U0001f62d and still no news, this is so bad "
    "https://example.org/flight?id=4711&late=yes #delayed #never again @airline please just tell "
    "us something, anything, we are tired \U0001f634 and hungry and the kids are crying \U0001f476"
)
CELL = (12, 12)  # layer and position in the example: the early site at " terrible"
UPLOAD = (
    "tweet,sentiment\n"
    + "".join(
        f'"{text} {number}",{label}\n'
        for number in range(12)
        for text, label in (
            ("Best coffee in town, thanks for the smile", "positive"),
            ("Two hours on hold and then they hung up", "negative"),
            ("The new album is wonderful, on repeat all day", "positive"),
            ("My order came broken again, so disappointed", "negative"),
        )
    )
    + ",positive\nNo label here,\nWhat is this,sideways\nToo,many,fields\n"
)


@dataclass(frozen=True)
class Camera:
    """A visitor with one theme, whose looks are kept."""

    browser: Browser
    address: str
    theme: str
    folder: Path

    def open(self, path: str = "/") -> Page:
        """Visit a page for the first time."""
        page = self.browser.new_context(
            viewport={"width": WIDE, "height": WINDOW}, color_scheme=self.theme
        ).new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(self.address + path)
        page.locator("h1").first.wait_for()
        return page

    def keep(self, page: Page, name: str, widths: tuple[int, ...] = (WIDE, NARROW)) -> None:
        """Save the whole page at these widths, once it has come to rest."""
        for width in widths:
            # The page scrolls inside itself, so that a picture is as high as its window.
            page.set_viewport_size({"width": width, "height": WINDOW})
            self._rest(page)
            high = page.evaluate(
                "() => document.querySelector('[data-testid=stMain]').scrollHeight"
            )
            page.set_viewport_size({"width": width, "height": min(int(high), HIGHEST)})
            self._rest(page)
            path = self.folder / f"{name}-{self.theme}{'' if width == WIDE else '-narrow'}.png"
            with Image.open(io.BytesIO(page.screenshot())) as picture:
                # The method that keeps the few pixels of a frame in their own colour; the step of
                # k-means keeps large areas in theirs.
                few = picture.convert("RGB").quantize(
                    256, method=Image.Quantize.MAXCOVERAGE, kmeans=1
                )
                few.save(path, optimize=True)
            print(path.name, flush=True)
        page.set_viewport_size({"width": WIDE, "height": WINDOW})

    @staticmethod
    def _rest(page: Page) -> None:
        page.mouse.move(0, 0)
        expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE)
        page.wait_for_timeout(1500)


def trace(camera: Camera) -> None:
    """The Trace page, in the order in which a visitor sees its states."""
    page = camera.open()
    wait(page.get_by_text("Early site at"))
    camera.keep(page, "first-visit")

    page.goto(f"{camera.address}/?cell=hidden-{CELL[0]}-{CELL[1]}")
    wait(page.get_by_text("Logit lens"))
    camera.keep(page, "cell")

    page.goto(camera.address)
    page.get_by_text("Each word in turn", exact=True).click()
    page.locator(".st-key-ask-words-start button").first.click()
    wait(page.get_by_text("matters most: its total effect"))
    camera.keep(page, "each-word")

    ask(page, "   ", "Run trace")
    wait(page.get_by_text("type a few words"))
    camera.keep(page, "error")

    ask(page, SHORT, "Run trace")
    if camera.theme == "light":  # in the dark its samples are kept already
        wait(page.get_by_text(re.compile(r"mean of \d noise samples? of")))
        camera.keep(page, "running", (WIDE,))
    wait(page.get_by_text("Done in"))

    ask(page, NEUTRAL, "Run trace")
    wait(page.get_by_text("Why the cells are grey"))
    wait(page.get_by_text("Done in"))
    page.locator(".st-key-ask-noise-start button").first.click()
    wait(page.get_by_text("is predicted"))
    camera.keep(page, "health-gate")

    page.get_by_text("Settings", exact=True).click()
    page.locator(".st-key-samples input").first.press("Home")
    page.get_by_text("Settings", exact=True).click()
    ask(page, LONG_TWEET, "Run trace")
    wait(page.get_by_text("\u00b7bad *"))
    wait(page.get_by_text("Done in"))
    camera.keep(page, "long-tweet")
    page.context.close()


def probes(camera: Camera) -> None:
    """The Probes page: before, the report of the built-in tweets, a person's own file, refusals."""
    page = camera.open("/probes")
    camera.keep(page, "probes-first")
    page.get_by_role("button", name="Train probe").click()
    wait(page.get_by_text("Done in"))
    wait(page.get_by_text("Accuracy by layer", exact=False))
    camera.keep(page, "probes-report")

    page.get_by_text("Your file", exact=True).click()
    upload(page, "my tweets.csv", UPLOAD.encode())
    wait(page.get_by_text("24 positive and 24 negative"))
    page.get_by_text("Preview", exact=True).click()
    camera.keep(page, "probes-upload", (WIDE,))
    page.get_by_text("Preview", exact=True).click()
    page.get_by_text("rows that cannot be used").last.click()
    camera.keep(page, "probes-refused-rows", (WIDE,))

    upload(page, "a picture.csv", b"\x89PNG\r\n\x1a\n\x00\x01\xff")
    wait(page.get_by_role("alert"))
    camera.keep(page, "probes-error", (WIDE,))
    page.context.close()


def average(camera: Camera) -> None:
    """The Average page: the form, and every side of what was found."""
    page = camera.open("/average")
    wait(page.get_by_text("Details"))
    for name, title in VIEWS.items():
        page.get_by_role("radio", name=title).click()
        camera.keep(page, f"average-{name}", (WIDE, NARROW) if name == "layers" else (WIDE,))
    page.get_by_text("New sweep").click()
    camera.keep(page, "average-form", (WIDE,))
    page.context.close()


def compare(camera: Camera) -> None:
    """The Compare page: before, while it runs, and a model beside its untrained twin."""
    page = camera.open("/compare")
    page.get_by_text("Models on this disk").click()
    camera.keep(page, "compare-first", (WIDE,))
    page.get_by_text("Models on this disk").click()
    ask(page, SHORT, "Compare")
    if camera.theme == "light":
        page.wait_for_timeout(4000)
        camera.keep(page, "compare-running", (WIDE,))
    wait(page.get_by_text("Done in"))
    camera.keep(page, "compare")
    page.get_by_role("radio", name="Stored averages").click()
    camera.keep(page, "compare-averages", (WIDE,))
    page.context.close()


def interventions(camera: Camera) -> None:
    """The Interventions page: before, refused, while it runs, and a tweet that was steered."""
    page = camera.open("/interventions")
    camera.keep(page, "interventions-first")
    page.get_by_role("button", name="Intervene").click()
    wait(page.get_by_role("alert"))
    camera.keep(page, "interventions-error", (WIDE,))
    page.get_by_role("radio", name="Steer").click()
    ask(page, SHORT, "Intervene")
    if camera.theme == "light":
        page.wait_for_timeout(4000)
        camera.keep(page, "interventions-running", (WIDE,))
    wait(page.get_by_text("Done in"))
    camera.keep(page, "interventions")
    page.context.close()


def others(camera: Camera) -> None:
    """Pages that have one state."""
    for name in ("method", "diagnostics"):
        page = camera.open(f"/{name}")
        camera.keep(page, name)
        page.context.close()


TAKEN: dict[str, Callable[[Camera], None]] = {
    each.__name__: each for each in (trace, probes, average, compare, interventions, others)
}


def wait(what: Locator) -> None:
    """Wait until it can be seen."""
    expect(what.first).to_be_visible(timeout=PATIENCE)


def ask(page: Page, tweet: str, button: str) -> None:
    """Type a tweet and have the page's work done on it."""
    page.get_by_label("Tweet", exact=True).fill(tweet)
    page.get_by_role("button", name=button, exact=True).click()


def upload(page: Page, name: str, content: bytes) -> None:
    """Give the page a file of one's own."""
    page.get_by_test_id("stFileUploader").locator("input").set_input_files(
        {"name": name, "mimeType": "text/csv", "buffer": content}
    )


def main() -> int:
    """Take the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description="Take the pictures of the documentation.")
    parser.add_argument("--pages", nargs="+", choices=list(TAKEN), default=list(TAKEN))
    parser.add_argument("--themes", nargs="+", choices=["light", "dark"], default=["light", "dark"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    path = chromium.find()
    if path is None:
        print(chromium.ADVICE, file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        own = borrowed_home(home(), Path(temporary) / "home")
        if (home() / "features").is_dir():
            (own / "features").symlink_to(home() / "features", target_is_directory=True)
        if (home() / "sweeps").is_dir():
            shutil.copytree(home() / "sweeps", own / "sweeps")
        with serve(own) as address, browse(path) as browser:
            for name in options.pages:
                for theme in options.themes:
                    TAKEN[name](Camera(browser, address, theme, options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
