"""How soon does a page stand, and how soon does it answer? A headless browser on a warm server.

    python -m benchmarks.paint [--times 5] [--output FILE]

All times are the browser's own, in milliseconds, on a server that has shown every page once:

- a page: from the navigation to its heading, and to the last change of its first seconds (until
  nothing has changed for half a second). Each time a new visitor, who has nothing in his cache.
- an answer that needs no model: from the click to the last change of what the page shows, its text
  and its figures, which are drawn after the text (until nothing has changed for half a second).

Needs Chromium, as the browser tests do. The browser runs on the same machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import RESULTS, ROOT, describe, save, say
from core.dashboard import PAGES
from core.models.registry import EMBEDDED, is_on_disk
from core.storage.cache import home

sys.path.insert(0, str(ROOT / "tests" / "support"))
import chromium
from served import borrowed_home, browse, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ANSWERS = {
    "Trace: effects as shares of the total": ("trace", "% of total", "in percent when one site"),
    "Trace: rows of words": ("trace", "Words", "A word's cells are"),
    "Average: another view": ("average", "Single tweets", "Click a bar"),
    "Compare: stored averages": ("compare", "Stored averages", "Effects in"),
    "Probes: a file of one's own": ("probes", "Your file", "A table with a text and a label"),
}
"""What is clicked: the page, the option, and a text that stands there afterwards."""

STANDS = """() => new Promise(resolve => {
  // The last change before half a second of rest, and when the heading was first there.
  let heading = null, last = performance.now();
  const look = () => {
    last = performance.now();
    if (heading === null && document.querySelector('h1')) heading = last;
  };
  new MutationObserver(look).observe(
    document, {subtree: true, childList: true, characterData: true});
  look();
  const wait = setInterval(() => {
    if (heading !== null && performance.now() - last > 500) {
      clearInterval(wait);
      const paint = performance.getEntriesByName('first-contentful-paint')[0];
      resolve({first: paint ? paint.startTime : null, heading, rest: last});
    }
  }, 50);
})"""

WATCH = """text => {
  // A figure's buttons are not seen before somebody points at it.
  const main = document.querySelector('[data-testid=stMain]');
  const has = () => main.innerText.includes(text);
  const hidden = change => change.target.closest?.('[data-testid=stElementToolbar]');
  window.answer = new Promise(resolve => {
    document.addEventListener('click', () => {
      const began = performance.now();
      let last = began;
      new MutationObserver(changes => {
        if (!changes.every(hidden)) last = performance.now();
      }).observe(
        main, {subtree: true, childList: true, characterData: true, attributes: true});
      const wait = setInterval(() => {
        if (performance.now() - last > 500 && has()) {
          clearInterval(wait);
          resolve(last - began);
        }
      }, 50);
    }, {capture: true, once: true});
  });
  return has();
}"""


def address_of(page: str) -> str:
    """The path of a page."""
    return "/" if page == PAGES[0] else f"/{page}"


def opened(browser: Browser, address: str, page: str) -> dict[str, float]:
    """A new visitor's times of a page, in milliseconds from the navigation."""
    visitor = browser.new_context(viewport={"width": 1440, "height": 1000})
    try:
        view = visitor.new_page()
        view.goto(address + address_of(page), wait_until="commit")
        found: dict[str, float] = view.evaluate(STANDS)
        return found
    finally:
        visitor.close()


def answered(view: Page, option: str, text: str) -> float:
    """Milliseconds from a click to the last change of what it shows."""
    choice = view.get_by_role("radio", name=option, exact=True).last
    choice.wait_for()
    if view.evaluate(WATCH, text):
        raise RuntimeError(f"{text!r} is there before {option!r} is chosen.")
    choice.click()
    found: float = view.evaluate("() => window.answer")
    return found


def main() -> None:
    """Serve, look, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=5, help="Looks at each page and answer.")
    parser.add_argument("--output", type=Path, default=RESULTS / "paint.json")
    options = parser.parse_args()
    path = chromium.find()
    if path is None:
        raise SystemExit(chromium.ADVICE)
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    pages: dict[str, list[dict[str, float]]] = {}
    answers: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(borrowed_home(home(), Path(folder) / "home")) as address,
        browse(path) as browser,
    ):
        for page in PAGES:
            opened(browser, address, page)  # warm
        for page in PAGES:
            pages[page] = [opened(browser, address, page) for _ in range(options.times)]
            say(
                f"{page}: heading {max(one['heading'] for one in pages[page]):.0f} ms, at rest "
                f"{max(one['rest'] for one in pages[page]):.0f} ms (slowest of {options.times})"
            )
        for name, (page, option, text) in ANSWERS.items():
            answers[name] = []
            for _ in range(options.times):
                visitor = browser.new_context(viewport={"width": 1440, "height": 1000})
                view = visitor.new_page()
                view.goto(address + address_of(page))
                view.evaluate(STANDS)
                answers[name].append(answered(view, option, text))
                visitor.close()
            say(f"{name}: {max(answers[name]):.0f} ms (slowest of {options.times})")
    save(
        options.output,
        {"machine": describe(), "times": options.times, "pages": pages, "answers": answers},
    )


if __name__ == "__main__":
    main()
