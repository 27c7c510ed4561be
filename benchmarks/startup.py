"""How long until something can be traced? `import core`, then the embedded model.

    python -m benchmarks.startup [--output FILE]

Each figure is the best of three fresh processes, so that files come from the system's memory (a
warm disk):

- `import core`;
- `load_model` of the embedded model, torch and transformers imported by it;
- the same, torch and transformers imported before.

Then what a first visitor waits for, in a browser: a server that has just started, with a cache
folder as set-up leaves it. He presses Run as soon as there is a button, and again with five other
tweets, each when he has stopped the trace before. From each press, which follows the typing at
once: until prediction, total effect and health gate stand, and of the first two also until the
first heatmaps do. Needs Chromium, as the browser tests do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.machine import RESULTS, ROOT, describe, save, say
from core.models.registry import EMBEDDED, is_on_disk
from core.storage.cache import home

sys.path.insert(0, str(ROOT / "tests" / "support"))
import chromium
from served import borrowed_home, browse, serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

TIMES = 3
FIRST = "My flight got cancelled and I love waiting here for hours, terrible service"
LATER = (
    "What a wonderful evening with old friends, great food and even better talk",
    "The worst coffee of my whole life, never again, truly awful",
    "Such a lovely day with the kids, the sun is out and everybody is happy",
    "I hate how this phone dies after an hour, what a waste of money",
    "Best concert I have been to in years, the band was amazing tonight",
)
ANSWERS = {"verdict": "total effect", "heatmaps": "of 10"}
"""What is waited for, and a text that stands on the page from then on."""

MEASURED = {
    "import core": ("", "import core"),
    "load_model with its imports": ("import core", f"core.load_model({EMBEDDED!r})"),
    "load_model": (
        "import core, core.models.loading, torch, transformers\n"
        "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer",
        f"core.load_model({EMBEDDED!r})",
    ),
}


def seconds_of(before: str, measured: str) -> float:
    """Seconds of a statement in a fresh process, after another one."""
    script = (
        f"{before}\nimport time\nbegan = time.perf_counter()\n{measured}\n"
        "print(time.perf_counter() - began)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def press(page: Page, tweet: str, answers: Iterable[str]) -> dict[str, float]:
    """Seconds from the press of Run to each of the answers."""
    page.get_by_role("textbox", name="Tweet").fill(tweet)
    page.keyboard.press("Control+Enter")
    button = page.get_by_role("button", name="Run trace")
    began = time.perf_counter()
    button.click()
    seconds = {}
    main = page.get_by_test_id("stMain")
    main.get_by_text(f"\u201c{tweet}\u201d").wait_for(timeout=600_000)
    for name in answers:
        main.get_by_text(ANSWERS[name]).first.wait_for(timeout=600_000)
        seconds[name] = time.perf_counter() - began
    page.get_by_role("button", name="Stop").click()
    main.get_by_text("Stopped after").wait_for(timeout=600_000)
    return seconds


def first_visit(browser_path: str) -> dict[str, dict[str, float]]:
    """Of each press of a first visitor, seconds until its answers."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = borrowed_home(home(), Path(folder) / "home", shared=("models", "datasets"))
        with serve(fresh) as address, browse(browser_path) as browser:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            began = time.perf_counter()
            page.goto(address)
            page.get_by_role("button", name="Run trace").wait_for(timeout=120_000)
            found = {"page": {"its button": time.perf_counter() - began}}
            found["first press"] = press(page, FIRST, ANSWERS)
            second = press(page, LATER[0], ANSWERS)
            found["second press"] = second
            verdicts = [second["verdict"]]
            verdicts += [press(page, tweet, ["verdict"])["verdict"] for tweet in LATER[1:]]
            found[f"{len(LATER)} later presses"] = {
                "verdict, median": median(verdicts),
                "verdict, slowest": max(verdicts),
            }
            return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "startup.json")
    options = parser.parse_args()
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    found = {}
    for name, (before, measured) in MEASURED.items():
        all_times = [seconds_of(before, measured) for _ in range(TIMES)]
        found[name] = {"best": min(all_times), "all": all_times}
        say(f"{name}: {min(all_times):.2f} s (best of {TIMES})")
    browser = chromium.find()
    if browser is None:
        raise SystemExit(f"The first visit was not measured: {chromium.ADVICE}.")
    visit = first_visit(browser)
    for name, seconds in visit.items():
        say(f"{name}: " + ", ".join(f"{what} {value:.2f} s" for what, value in seconds.items()))
    save(options.output, {"machine": describe(), "seconds": found, "first visit": visit})


if __name__ == "__main__":
    main()
