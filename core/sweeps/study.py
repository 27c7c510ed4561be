"""What do many traced tweets say, looked at from every side? One pass set over a sweep's store.

A study holds the average of all tweets, those of positive and negative tweets, those of short and
long ones (split at the median length), and the two differences. It can be kept as a file of
aggregated numbers without any tweet's text (`save`, `load`): `assets/average-smollm2.json` is one,
and a first visitor sees it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..prompts.token_roles import Scheme
from ..settings import described
from ..storage import cache
from ..tracing.result import PROXIES, Proxy
from .average import Average, Interval, Mean, Towards, average, average_by, difference
from .record import Record
from .store import Store

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""Version of a kept study's file."""

ABLATION = "punctuation.parquet"
"""Of a sweep's folder."""

LABELS = {1: "positive", 0: "negative"}


@dataclass(frozen=True)
class Options:
    """How tweets are averaged; see `core.sweeps.average.average`."""

    roles: Scheme = described(
        "tweet", "Token roles: the parts of a tweet, or the six of Meng et al. 2022."
    )
    interval: Interval = described("bootstrap", "How 95% intervals over tweets are computed.")
    normalised: bool = described(False, "As shares of the total effect.")
    proxy: Proxy | None = described(
        None,
        "The number whose change is the effect.",
        unset="log_odds; of pairs log_ratio",
    )
    towards: Towards = described("prediction", "The side towards which effects count.")


@dataclass(frozen=True)
class Study:
    """Averages of one sweep.

    Attributes:
        average: of all its tweets.
        by_label: of "positive" and "negative" tweets, where there are both.
        by_length: of "short" and "long" ones, where there are both.
        differences: "label" (positive minus negative) and "length" (short minus long), as
            `core.sweeps.average.difference` gives them.
        median: tokens of a tweet; those with at most as many are short.
        origin: data, selection, when and from which versions it was made; as the manifest has it.
        punctuation: the ablation of `core.sweeps.punctuation`, where it was made.
    """

    average: Average
    by_label: dict[str, Average]
    by_length: dict[str, Average]
    differences: dict[str, pd.DataFrame]
    median: int
    origin: dict[str, Any] = field(default_factory=dict)
    punctuation: pd.DataFrame | None = None


def study(
    source: Store | Iterable[Record],
    options: Options | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> Study:
    """Average a sweep from every side.

    Args:
        source: a store, or records that can be read several times.
        progress: called with the share of the work that is done.

    Raises:
        UserError: nothing is traced yet.
    """
    chosen = options or Options()
    keywords: dict[str, Any] = {
        "roles": chosen.roles,
        "interval": chosen.interval,
        "normalised": chosen.normalised,
        "proxy": chosen.proxy,
        "towards": chosen.towards,
    }
    lengths: list[int] = []
    done = 0
    total = len(source) if isinstance(source, Store) else 0

    def counted(record: Record) -> None:
        nonlocal done
        done += 1
        if progress is not None and total:
            progress(min(1.0, done / (3 * total)))

    def every(record: Record) -> bool:
        counted(record)
        lengths.append(len(record.result.prompt.tweet_span))
        return True

    whole = average(source, where=every, **keywords)
    median = int(np.median(lengths))

    def label(record: Record) -> str | None:
        counted(record)
        return None if record.label is None else LABELS[record.label]

    def length(record: Record) -> str:
        counted(record)
        return "short" if len(record.result.prompt.tweet_span) <= median else "long"

    by_label = _in_order(average_by(source, label, **keywords), ("positive", "negative"))
    by_length = _in_order(average_by(source, length, **keywords), ("short", "long"))
    differences = {
        name: difference(*groups.values())
        for name, groups in (("label", by_label), ("length", by_length))
        if len(groups) == 2
    }
    origin: dict[str, Any] = {}
    punctuation = None
    if isinstance(source, Store):
        punctuation = kept_ablation(source)
        origin = origin_of(source)
    return Study(whole, by_label, by_length, differences, median, origin, punctuation)


def origin_of(store: Store) -> dict[str, Any]:
    """Data, selection and versions of a sweep; not where its model lies on this machine."""
    determines = store.manifest["determines"]
    origin = dict(store.manifest["origin"]) | {
        "selection": determines["selection"],
        "only_roles": determines["roles"],
        "most_tokens": determines["most_tokens"],
    }
    origin["model"] = str(origin["model"]).replace("\\", "/").rsplit("/", 1)[-1]
    return origin


def kept_ablation(store: Store) -> pd.DataFrame | None:
    """The ablation of punctuation that was made for a sweep's tweets, if there is one."""
    import pandas as pd

    path = store.folder / ABLATION
    return pd.read_parquet(path) if path.is_file() else None


def keep_ablation(store: Store, found: pd.DataFrame) -> None:
    """Keep an ablation beside the sweep of whose tweets it is; it goes when the sweep goes."""
    with cache.write_beside(store.folder / ABLATION) as beside:
        found.to_parquet(beside, index=False)


def _in_order(groups: Mapping[str, Average], names: tuple[str, ...]) -> dict[str, Average]:
    found = {name: groups[name] for name in names if name in groups}
    return found if len(found) == len(names) else {}


# --- kept as a file ------------------------------------------------------------------------------


def save(found: Study, path: str | Path) -> Path:
    """Keep a study as JSON: numbers and settings, no text of any tweet; five digits each.

    Peaks keep the number of a tweet's row in its data set, so that who has the data can find it.
    """
    path = Path(path)
    content = {
        "form": FORMAT,
        "median": found.median,
        "origin": found.origin,
        "average": average_to_json(found.average),
        "by_label": {name: average_to_json(group) for name, group in found.by_label.items()},
        "by_length": {name: average_to_json(group) for name, group in found.by_length.items()},
        "differences": {name: _columns(frame) for name, frame in found.differences.items()},
        "punctuation": None if found.punctuation is None else _columns(found.punctuation),
    }
    with cache.write_beside(path) as beside:
        beside.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return path


def load(path: str | Path) -> Study:
    """Read a study that `save` kept; its averages cannot be compared further.

    Raises:
        UserError: the file is not one of a study, or of another form.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["form"] != FORMAT:
            raise ValueError(f"form {content['form']}")
        return Study(
            average=average_from_json(content["average"]),
            by_label={
                name: average_from_json(group) for name, group in content["by_label"].items()
            },
            by_length={
                name: average_from_json(group) for name, group in content["by_length"].items()
            },
            differences={name: _frame(held) for name, held in content["differences"].items()},
            median=content["median"],
            origin=content["origin"],
            punctuation=None if content["punctuation"] is None else _frame(content["punctuation"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"The file {path.name!r} holds no study of form {FORMAT} ({error}); make it anew."
        ) from error


def average_to_json(group: Average) -> dict[str, Any]:
    """An average as values that JSON knows, five digits each."""
    total = group.total
    return {
        "frame": _columns(group.frame),
        "total": [_number(value) for value in (total.mean, total.lower, total.upper, total.n)],
        "peaks": _columns(group.peaks),
        "history": _columns(_thinned(group)),
        "about": group.about,
    }


def _thinned(group: Average) -> pd.DataFrame:
    """The history of the total effect and of each role's largest cell of each kind: enough to see
    how intervals shrank, in a tenth of the space."""
    frame = group.frame.dropna(subset=["mean"])
    tops = frame.loc[frame.groupby(["kind", "role"], observed=True)["mean"].idxmax()]
    cells = {("total", -1, ""), *zip(tops["kind"], tops["layer"], tops["role"], strict=True)}
    rows = zip(group.history["kind"], group.history["layer"], group.history["role"], strict=True)
    return group.history[[row in cells for row in rows]]


def average_from_json(held: dict[str, Any]) -> Average:
    """Read what `average_to_json` wrote; it cannot be compared further."""
    about = held["about"]
    # Of summaries from before there were templates and contrasts.
    before = {"measured_in": PROXIES[about["proxy"]], "template_tokens": []}
    mean, lower, upper, n = (float("nan") if value is None else value for value in held["total"])
    return Average(
        frame=_frame(held["frame"]),
        total=Mean(mean, lower, upper, int(n)),
        peaks=_frame(held["peaks"]),
        history=_frame(held["history"]),
        about=before | about,
    )


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {
        str(name): [_number(value) for value in column.tolist()] for name, column in frame.items()
    }


def _frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(columns)
    for name in ("mean", "lower", "upper", "reach", "difference", "effect", "total_effect"):
        if name in frame:
            frame[name] = frame[name].astype(float)
    return frame


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value else float(f"{value:.5g}")
    return value
