"""Make the figures of docs/gallery.md by the commands that stand there: `make gallery`.

Needs what `make setup` prepares, and takes some minutes.
"""

import os
import subprocess
import sys

from documents import commands_of
from paths import ROOT

PAGE = ROOT / "docs" / "gallery.md"


def main() -> None:
    """Run the page's commands in the folder of its figures."""
    folder = ROOT / "docs" / "gallery"
    folder.mkdir(exist_ok=True)
    for words in commands_of(PAGE):
        print(*words, flush=True)
        subprocess.run(
            [sys.executable, "-m", "core", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )


if __name__ == "__main__":
    main()
