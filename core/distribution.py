"""Under which name is the library here, what is beside it, and how is it called from a shell?

In a checkout the package is `core`, and app, pages, assets and documents lie in the folder above
it. Installed, the package is `sentitrace`, and brings the same files in its folder `share`
(`setup.py`).
"""

from pathlib import Path

PACKAGE = __name__.partition(".")[0]
"""The name by which the library was imported; also that of its logger."""

_HERE = Path(__file__).parent

ROOT = _HERE / "share" if (_HERE / "share").is_dir() else _HERE.parent
"""The folder of `app.py`, `pages`, `assets` and `docs`."""

ASSETS = ROOT / "assets"

COMMAND = "sentitrace" if PACKAGE == "sentitrace" else f"python -m {PACKAGE}"
"""What begins a command line."""
