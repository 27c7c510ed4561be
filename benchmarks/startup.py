"""How long until something can be traced? `import core`, then the embedded model.

    python -m benchmarks.startup [--output FILE]

Each figure is the best of three fresh processes, so that files come from the system's memory (a
warm disk):

- `import core`;
- `load_model` of the embedded model, torch and transformers imported by it;
- the same, torch and transformers imported before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import RESULTS, ROOT, describe, save, say
from core.registry import EMBEDDED, is_on_disk

TIMES = 3
MEASURED = {
    "import core": ("", "import core"),
    "load_model with its imports": ("import core", f"core.load_model({EMBEDDED!r})"),
    "load_model": (
        "import core, core.models, torch, transformers\n"
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
    save(options.output, {"machine": describe(), "seconds": found})


if __name__ == "__main__":
    main()
