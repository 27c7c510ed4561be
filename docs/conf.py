"""How are the documents made a site? `make docs`; Sphinx reads this file."""

import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from tomllib import loads

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = author = "SentiTrace"
release = loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
copyright = "the SentiTrace authors, Apache License 2.0"  # noqa: A001 - Sphinx's name for it

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["notebooks"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
highlight_language = "none"  # a block without a language is of a shell or its output

html_theme = "furo"
html_title = "SentiTrace"
html_logo = "../assets/icon.svg"
html_favicon = "../assets/icon.svg"
html_show_sphinx = False
html_copy_source = False

# The reference: docstrings in Google's style, in the order in which the page names them.
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_display_short_literal_types = True
default_role = "code"  # one backtick, as in docstrings
napoleon_use_rtype = False
napoleon_use_ivar = True


def setup(app: Sphinx) -> None:
    """Let docstrings have what their classes say of themselves in other ways."""
    app.connect("autodoc-process-docstring", with_described_fields, priority=400)
    app.connect("autodoc-process-docstring", without_type, priority=400)


def without_type(
    app: Sphinx, what: str, name: str, described: object, options: object, lines: list[str]
) -> None:
    """Say before napoleon does it that what a property is begins with no "type:"."""
    if what in ("attribute", "property") and lines:
        lines[0] = f": {lines[0]}"


def with_described_fields(
    app: Sphinx, what: str, name: str, described: object, options: object, lines: list[str]
) -> None:
    """Add what the options of commands are made of: help and default of the fields of settings."""
    if what != "class" or not is_dataclass(described):
        return
    helps = [field for field in fields(described) if "help" in field.metadata]
    if helps:
        lines += ["", "Keyword Args:"]
        for field in helps:
            unset = field.metadata.get("unset") or repr(field.default)
            lines += [f"    {field.name}: {field.metadata['help']} Default: {unset}."]
