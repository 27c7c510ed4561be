"""How does a result show itself in a notebook, and how does work say how far it is?

What a result is drawn with belongs to later wings than the result does. So it asks the library's
public face for its display (`display_of`, made in `core.exporting.displays`), which is imported
when first asked for, as every name there is: tracing brings no chart.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import altair as alt

    from .exporting.displays import Display

Told = Callable[[float], None] | Literal[True]
"""Who is told the share that is done: a function, or True for a progress bar."""


class Shown:
    """A result that a notebook draws, that a terminal says in sentences, and that saves itself."""

    def figure(self) -> alt.TopLevelMixin:
        """The result as one figure.

        Raises:
            UserError: there is nothing to draw yet.
        """
        return self._display().figure()

    def sentences(self) -> tuple[str, ...]:
        """What was found, in words."""
        return self._display().sentences

    def save(self, path: str | Path) -> Path:
        """Save the figure (.png .svg .pdf .html) or the table (.csv .parquet .json).

        Every file but CSV holds the settings that make it again, where there are some.

        Raises:
            UserError: the ending names no form, or there is nothing to draw yet.
        """
        return self._display().save(path)

    def _display(self) -> Display:
        display: Display = import_module(__package__ or "").display_of(self)
        return display

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self._display().bundle()


def counter(
    told: Callable[[int, int], None] | Literal[True] | None, title: str
) -> Callable[[int, int], None] | None:
    """As `teller`, of a function that is told what is done and what there is in all."""
    if told is not True:
        return told
    show = _bar(title)
    return lambda done, total: show(done / max(total, 1))


def teller(told: Told | None, title: str) -> Callable[[float], None] | None:
    """The function that is told the share that is done: the caller's own, or that of a new bar."""
    return _bar(title) if told is True else told


def _bar(title: str) -> Callable[[float], None]:
    from tqdm.auto import tqdm

    form = "{desc}: {percentage:3.0f}% |{bar}| {remaining} left"
    bars: list[tqdm[Any]] = []

    def show(share: float) -> None:
        if not bars:  # where nothing is done, a model is on disk, there is no bar
            bars.append(tqdm(total=1.0, desc=title, bar_format=form))
        bars[0].update(share - bars[0].n)
        if share >= 1.0:
            bars[0].close()

    return show
