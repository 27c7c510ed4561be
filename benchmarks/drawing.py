"""Does a process of its own make figures slower to save? Both ways in one run, in turn.

    python -m benchmarks.drawing [--pairs 6] [--output FILE]

- here: vl-convert draws in the program itself, as it does in the process of its own;
- own: it draws in a process of its own (`core.charts.renderer`).

A figure is a trace of three kinds, from the chart to the whole file
(`core.exporting.figure_files.figure_bytes`). The first is each way's first, for which it has to
begin; Altair has made one before. The later ones are drawn in turn, one here and one there, of
which the fastest count and the median of the pairs' ratios, so that other work on the machine falls
on both. The pause is the longest time for which another thread of the program could not run, in the
fastest half of the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT, describe, save, say

FORMS = ("svg", "png", "pdf")  # an HTML page is drawn where it is opened
SIZES = {"tweet": (12, 14), "long": (30, 64)}
"""Layers and tokens."""


def measure(form: str, size: str, pairs: int) -> dict[str, Any]:
    """Seconds of the first figure and of later ones, and pauses, by ways; in this process."""
    from core.exporting import figure_files

    chart = _chart(*SIZES[size])
    figure_files.figure_bytes(chart, "json")
    ways = {"here": _Here(), "own": figure_files.renderer()}
    first, later, pauses = {}, {way: [] for way in ways}, {way: [] for way in ways}
    for way, drawn_by in ways.items():
        first[way] = _seconds(chart, form, drawn_by)
    for _ in range(pairs):
        for way, drawn_by in ways.items():
            with _Pauses() as pause:
                later[way].append(_seconds(chart, form, drawn_by))
            pauses[way].append(pause.longest)
    ratios = [own / here for here, own in zip(later["here"], later["own"], strict=True)]
    return {
        "first": first,
        "later": {way: min(seconds) for way, seconds in later.items()},
        "ratio": statistics.median(ratios),
        "pause": {
            way: statistics.median_low(sorted(longest)[: (pairs + 1) // 2])
            for way, longest in pauses.items()
        },
    }


class _Here:
    """Draws as the process does, in this one."""

    def __init__(self) -> None:
        self._fonts_are_known = False

    def start(self) -> None:
        pass

    def draw(self, wanted: Any, content: str, **options: Any) -> bytes:
        from core.charts import renderer
        from core.exporting import figure_files

        if not self._fonts_are_known:
            import vl_convert

            for font in figure_files.FONTS:
                vl_convert.register_font_directory(str(figure_files._font_folder(font)))
            self._fonts_are_known = True
        return renderer._made(wanted, content, options)


class _Pauses:
    """The longest time between two moments in which a thread that asks for one could run."""

    longest = 0.0

    def __enter__(self) -> _Pauses:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        last = time.perf_counter()
        while not self._over.wait(0.001):
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now


def _chart(layers: int, tokens: int) -> Any:
    import numpy as np
    import pandas as pd

    from core.charts.figures import trace_heatmaps
    from core.tracing.view import KINDS

    grid = pd.MultiIndex.from_product([list(KINDS), range(layers), range(tokens)])
    frame = grid.to_frame(index=False, name=["kind", "layer", "position"])
    effects = np.random.default_rng(0).normal(size=len(frame))
    frame = frame.assign(
        token=[f"\u00b7word{position}" for position in frame["position"]],
        corrupted=frame["position"] < tokens - 4,
        effect=effects,
        normalised=effects / 4,
        standard_error=0.1,
        samples=10,
        trivial=False,
    )
    return trace_heatmaps(frame, unit="log-odds", title="A tweet", inline=False)


def _seconds(chart: Any, form: str, drawn_by: Any) -> float:
    from core.exporting import figure_files

    figure_files.renderer = lambda: drawn_by
    began = time.perf_counter()
    figure_files.figure_bytes(chart, form)
    return time.perf_counter() - began


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=RESULTS / "drawing.json")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.pairs)))
        return
    rows = []
    for size in SIZES:
        for form in FORMS:
            found = _in_a_fresh_process(form, size, options.pairs)
            rows.append({"size": size, "form": form, **found})
            say(f"{size} {form}: {found}")
    save(options.output, {"machine": describe(), "options": {"pairs": options.pairs}, "rows": rows})


def _in_a_fresh_process(form: str, size: str, pairs: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.drawing", "--measure", form, size]
    done = subprocess.run(
        [*command, "--pairs", str(pairs)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
