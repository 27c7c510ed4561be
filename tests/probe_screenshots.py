"""Take pictures of the Probes page: `python tests/probe_screenshots.py [FOLDER]`.

Needs the repository's root on PYTHONPATH, and what `make setup` prepares: the report of the
built-in tweets with its controls, the preview of an upload, and the rows that cannot be used, at
1440 and 420 pixels, in the light and the dark theme. Encodings of this disk are used, if there are
any.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import chromium
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from served import borrowed_home, browse, serve

from core.cache import home

FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"
LONG = 1_800_000  # ms
WIDE, NARROW = {"width": 1440, "height": 1700}, {"width": 420, "height": 3400}
SHORT = {"width": 1440, "height": 1150}
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

Keep = Callable[[Page, str], None]


def take(browser: Browser, address: str, theme: str, keep: Keep) -> None:
    """Take the Probes page's pictures of one theme.

    Args:
        theme: "light" or "dark".
        keep: saves what the window shows under a name.
    """
    page = browser.new_context(viewport=WIDE, color_scheme=theme).new_page()
    page.goto(f"{address}/probes")
    expect(page.get_by_role("heading", name="Probes")).to_be_visible(timeout=LONG)

    # The probe of the built-in tweets; what it needs is encoded and kept by an earlier run.
    page.get_by_role("button", name="Train probe").click()
    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Accuracy by layer", exact=False).first).to_be_visible(timeout=LONG)
    keep(page, f"probes-report-{theme}")
    page.set_viewport_size(NARROW)
    keep(page, f"probes-report-narrow-{theme}")
    page.set_viewport_size(SHORT)

    page.get_by_text("Your file", exact=True).click()
    page.get_by_test_id("stFileUploader").locator("input").set_input_files(
        {"name": "my tweets.csv", "mimeType": "text/csv", "buffer": UPLOAD.encode()}
    )
    expect(page.get_by_text("24 positive and 24 negative")).to_be_visible(timeout=LONG)
    page.get_by_text("Preview", exact=True).click()
    keep(page, f"probes-upload-{theme}")
    page.get_by_text("Preview", exact=True).click()
    page.get_by_text("rows that cannot be used").last.click()
    keep(page, f"probes-refused-{theme}")
    page.set_viewport_size({**NARROW, "height": 1800})
    keep(page, f"probes-refused-narrow-{theme}")
    page.context.close()


def main() -> int:
    """Take every picture; returns the exit code."""
    path = chromium.find()
    if path is None:
        print(chromium.ADVICE, file=sys.stderr)
        return 1
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)

    def keep(page: Page, name: str) -> None:
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)
        with Image.open(io.BytesIO(page.screenshot())) as picture:
            picture.convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png", flush=True)

    with tempfile.TemporaryDirectory() as place:
        own = borrowed_home(home(), Path(place) / "home")
        if (home() / "features").is_dir():
            (own / "features").symlink_to(home() / "features", target_is_directory=True)
        with serve(own) as address, browse(path) as browser:
            for theme in ("light", "dark"):
                take(browser, address, theme, keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
