"""What is needed to use and to repeat a view? All of it in one ZIP file.

Figures in every form, tables in every form, the caption, the settings, whom to cite, and the
command that makes the numbers again.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ..distribution import COMMAND
from . import embedded_settings
from .figure_files import MIME, Paper, figure_bytes
from .table_files import TABLE_MIME, table_bytes

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

AGAIN = f"{COMMAND} run {embedded_settings.SETTINGS} --out cells.csv --out figure.svg"
"""Makes the numbers and the figure of a trace again, in the folder of its settings."""

CITATION = """\
@software{{sentitrace,
  title   = {{SentiTrace: where a language model stores and uses the sentiment of a tweet}},
  version = {{{version}}}
}}

@inproceedings{{meng2022locating,
  title     = {{Locating and Editing Factual Associations in {{GPT}}}},
  author    = {{Meng, Kevin and Bau, David and Andonian, Alex and Belinkov, Yonatan}},
  booktitle = {{Advances in Neural Information Processing Systems}},
  year      = {{2022}}
}}

@inproceedings{{zhang2024best,
  title     = {{Towards Best Practices of Activation Patching in Language Models: Metrics and
               Methods}},
  author    = {{Zhang, Fred and Nanda, Neel}},
  booktitle = {{International Conference on Learning Representations}},
  year      = {{2024}}
}}
"""


def bundle(
    charts: Mapping[str, alt.TopLevelMixin],
    tables: Mapping[str, pd.DataFrame],
    *,
    caption: str,
    recipe: str | None = None,
    paper: Paper | None = None,
) -> bytes:
    """A ZIP file of a whole view.

    Args:
        charts, tables: by what a person calls them.
        recipe: JSON of the settings; with it every file but CSV carries them too.
        paper: dress the figures for a paper; the caption then stands in its own file alone.
    """
    content: dict[str, bytes] = {}
    for name, chart in charts.items():
        for form in MIME:
            made = figure_bytes(chart, form, paper=paper, recipe=recipe)
            content[f"figures/{file_name(name)}.{form}"] = made
    for name, frame in tables.items():
        for form in TABLE_MIME:
            content[f"data/{file_name(name)}.{form}"] = table_bytes(frame, form, recipe=recipe)
    content["caption.txt"] = f"{caption}\n".encode("utf-8", "replace")
    content["CITATION.bib"] = CITATION.format(version=_version()).encode()
    if recipe is not None:
        content[embedded_settings.SETTINGS] = recipe.encode()
    content["README.txt"] = _readme(content, recipe is not None).encode("utf-8", "replace")
    return _zipped(content)


def file_name(name: str) -> str:
    """What a person calls a figure or table, as the name of a file on any system."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")
    return plain[:60] or "view"


def _version() -> str:
    try:
        return version("sentitrace")
    except PackageNotFoundError:  # run from a checkout
        return "0.1.0"


def _readme(content: Mapping[str, bytes], repeatable: bool) -> str:
    lines = ["Saved by SentiTrace.", "", *sorted(content), ""]
    if repeatable:
        lines += [
            f"{embedded_settings.SETTINGS} holds all that determines the numbers: model and "
            "revision, text, "
            "probe, corruption, seed, window and versions.",
            "Where SentiTrace is, this makes them again (give the path of the settings):",
            "",
            f"    {AGAIN}",
            "",
            "Every figure, and every table but CSV, holds the settings too and can be given in "
            "their place.",
        ]
    return "\n".join(lines) + "\n"


def _zipped(content: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            # One fixed time: the same view is the same file.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return written.getvalue()
