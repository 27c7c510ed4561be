"""The dashboard, served with Streamlit's options; its traces go on as a test lets them.

They wait at the number of noise samples that stands in the file `SAMPLES` of the cache folder, and
nowhere where there is none.
"""

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from paths import ROOT

SAMPLES = "samples allowed"


def main() -> None:
    sys.path.insert(0, str(ROOT))

    from streamlit.web import cli

    from core.dashboard import tracing
    from core.storage.cache import home

    trace = tracing.trace_progressively
    allowed = home() / SAMPLES

    def most() -> float:
        """How many samples are allowed; none for the moment in which the file is being written."""
        try:
            return int(allowed.read_text() or 0)
        except FileNotFoundError:
            return math.inf

    def held(*arguments: Any, **options: Any) -> Iterator[Any]:
        for result in trace(*arguments, **options):
            yield result
            while result.has_cells and result.samples_done >= most():
                time.sleep(0.05)

    tracing.trace_progressively = held
    sys.argv[:1] = ["streamlit", "run", "app.py"]
    cli.main()


if __name__ == "__main__":
    main()
