"""Do several people at once get their own traces, all of them? Headless browsers on one server.

    python -m benchmarks.load [--sessions 8] [--traces 10] [--samples 1] [--output FILE]

Starts one server with a fresh cache folder that shares the prepared model and probes, opens as
many browser sessions as asked, and lets each trace tweets of its own, one after the other. A trace
counts as lost when it has not ended within `--patience` seconds, as wrong when the page shows
another tweet than its own, as an error when the page shows one. Needs Chromium, as the browser
tests do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.machine import RESULTS, ROOT, describe, save, say
from core.models.registry import EMBEDDED, is_on_disk
from core.storage.cache import home

sys.path.insert(0, str(ROOT / "tests" / "support"))
import chromium
from served import borrowed_home, browse, serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

WORDS = ("terrible", "wonderful", "awful", "lovely", "sad", "happy", "broken", "brilliant")


@dataclass
class Session:
    """What one visitor met."""

    number: int
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    begun: float = 0.0  # seconds until the page could be used


def tweet_of(session: int, trace: int) -> str:
    """A tweet that no other session traces."""
    return f"visitor {session} says {WORDS[(session + trace) % len(WORDS)]} {trace}"


def visit(session: Session, address: str, path: str, options: argparse.Namespace) -> None:
    """One visitor's whole stay, in a browser of his own."""
    with browse(path) as browser:
        began = time.perf_counter()
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.set_default_timeout(options.patience * 1000)
        page.goto(f"{address}/?samples={options.samples}")
        page.get_by_role("button", name="Run trace").wait_for()
        session.begun = time.perf_counter() - began
        for number in range(options.traces):
            tweet = tweet_of(session.number, number)
            began = time.perf_counter()
            outcome = trace(page, tweet, options.patience)
            session.seconds.append(time.perf_counter() - began)
            if outcome == "lost":
                session.lost += 1
            elif outcome == "wrong":
                session.wrong += 1
            elif outcome:
                session.errors.append(outcome)
            say(f"visitor {session.number}: {number + 1} of {options.traces}, {outcome or 'right'}")


def trace(page: Page, tweet: str, patience: float) -> str:
    """Trace a tweet; "" when it came out right, else what went wrong."""
    from playwright.sync_api import TimeoutError as Lost

    page.get_by_label("Tweet", exact=True).fill(tweet)
    page.get_by_role("button", name="Run trace").click()
    shown = page.get_by_text(f"\u201c{tweet}\u201d")
    error = page.get_by_role("alert").filter(has_text="omething went wrong")
    try:
        # A stale result of the tweet before is another text; "Done in" is this one's end.
        shown.or_(error).first.wait_for(timeout=patience * 1000)
        if error.count():
            return error.first.inner_text()
        page.get_by_text("Done in").first.wait_for(timeout=patience * 1000)
    except Lost:
        return "lost"
    others = page.get_by_text("\u201cvisitor ").all_inner_texts()
    return "wrong" if any(tweet not in other for other in others) else ""


def watch(process: psutil.Process, peak: list[int], stop: threading.Event) -> None:
    """Remember the most memory that the server took."""
    while not stop.wait(0.5):
        try:
            family = [process, *process.children(recursive=True)]
            used = sum(
                each.memory_info().rss
                for each in family
                if "streamlit" in each.name() or any("streamlit" in part for part in each.cmdline())
            )
        except psutil.Error:
            continue
        peak[0] = max(peak[0], used)


def main() -> None:
    """Serve, visit, count and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--traces", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1, help="Noise samples of each trace.")
    parser.add_argument("--patience", type=float, default=1800, help="Seconds for one trace.")
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    options = parser.parse_args()
    path = chromium.find()
    if path is None:
        raise SystemExit(chromium.ADVICE)
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    sessions = [Session(number) for number in range(options.sessions)]
    peak, stop = [0], threading.Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(borrowed_home(home(), Path(folder) / "home")) as address,
    ):
        watching = threading.Thread(target=watch, args=(psutil.Process(), peak, stop))
        watching.start()
        began = time.perf_counter()
        visits = [
            threading.Thread(target=visit, args=(session, address, path, options))
            for session in sessions
        ]
        for each in visits:
            each.start()
        for each in visits:
            each.join()
        whole = time.perf_counter() - began
        stop.set()
        watching.join()
    found = summary(sessions, options, whole, peak[0])
    save(options.output, {"machine": describe(), **found})
    say(
        f"{found['ended']} of {found['asked']} traces right in {whole:.0f} s: "
        f"{found['errors']} errors, {found['lost']} lost, {found['wrong']} wrong"
    )
    if found["ended"] != found["asked"]:
        raise SystemExit(1)


def summary(
    sessions: list[Session], options: argparse.Namespace, whole: float, peak: int
) -> dict[str, Any]:
    """What all visitors met together."""
    seconds = sorted(second for session in sessions for second in session.seconds)
    asked = options.sessions * options.traces
    errors = sum(len(session.errors) for session in sessions)
    wrong = sum(session.wrong for session in sessions)
    # What a visitor whose browser failed never asked is lost as well.
    lost = sum(session.lost for session in sessions) + asked - len(seconds)
    return {
        "sessions": options.sessions,
        "traces": options.traces,
        "samples": options.samples,
        "asked": asked,
        "ended": asked - errors - wrong - lost,
        "errors": errors,
        "wrong": wrong,
        "lost": lost,
        "said": sorted({error for session in sessions for error in session.errors}),
        "seconds": whole,
        "median": statistics.median(seconds) if seconds else None,
        "slowest": seconds[-1] if seconds else None,
        "first_paint": max(session.begun for session in sessions),
        "server_memory": peak,
        # The longest stay over the shortest: 1 where the queue is fair.
        "fairness": max(sum(s.seconds) for s in sessions)
        / max(min(sum(s.seconds) for s in sessions), 1e-9),
    }


if __name__ == "__main__":
    main()
