"""How is the folder `core` packed as the library `sentitrace`?

All else is in pyproject.toml. What the dashboard needs beside the library becomes the package
`sentitrace.share`: it has the root's `app.py`, `pages`, `assets`, `docs` and `.streamlit`.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

IMPORT = re.compile(r"^(from|import) core\b", re.MULTILINE)


class Renamed(build_py):
    """The app and its pages import the library by the name that it has where it is installed."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """All modules of a folder; of the root's only the app."""
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [module for module in found if Path(module[2]) != Path("setup.py")]

    def run(self) -> None:
        """Copy all files anew, so that none is left of an earlier build; then rename."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for script in Path(self.build_lib, "sentitrace", "share").rglob("*.py"):
            script.write_text(IMPORT.sub(r"\1 sentitrace", script.read_text("utf-8")), "utf-8")


setup(
    packages=[
        "sentitrace",
        *(f"sentitrace.{wing}" for wing in find_packages("core")),
        "sentitrace.share",
    ],
    package_dir={"sentitrace": "core", "sentitrace.share": "."},
    cmdclass={"build_py": Renamed},
)
