"""Many tweets, traced into a store on disk that survives whatever ends the work.

A sweep is planned once: tweets whose prompts have equally many tokens make a batch. Then any number
of processes work at its store (`core.sweeps.store`), each batch by batch.

Between tweets the effects vary more than between noise samples of one tweet (what an average wants
is many tweets), so a sweep takes one or two samples.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..data import datasets
from ..data.labelling import check_frame
from ..data.pairs import PAIRED
from ..errors import UserError
from ..models.identity import ENGINE, same_model
from ..models.model import Model
from ..patching.batches import Batches
from ..patching.sites import grid
from ..probes.library import key_of
from ..probes.probe import Probe
from ..probes.training import trained_on
from ..probes.turned_pairs import log_odds_of
from ..prompts.prompt import Prompt, build_prompt
from ..prompts.template import Template
from ..prompts.token_roles import TWEET, roles_of
from ..settings import described
from ..showing import Told, teller
from ..statistics import Array
from ..storage import cache
from ..tracing.corruption import default_window
from ..tracing.result import TraceResult, TraceSettings
from ..tracing.tracer import trace_together
from .record import Failure, Task, row_of, schema
from .store import FORMAT, ModelName, Status, Store, sweeps, sweeps_folder

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DEFAULT_SAMPLES = 1
MOST_TOGETHER = 64  # tweets of one batch: what is lost at most when a process is killed
_CONTROL_SECONDS = 1.0  # how long a wish to stop may go unnoticed within a batch
_CHUNK = 256  # tweets asked at once whether the probe is right about them
# Read later, or not for sweeps.
_NOT_DETERMINING = ("proxy", "seconds", "stable_for", "until", "rows", "total_samples", "edited")


@dataclass(frozen=True)
class Selection:
    """Which tweets of a data set are traced.

    They are drawn in an order that the seed gives, so a larger n only adds tweets.

    Attributes:
        which: "correct" goes by the probe's cross-validation where it was trained on these very
            texts, else by the probe itself.
        label: 1 or 0.
        containing: in upper or lower case.
        n: None takes all.
    """

    which: Literal["all", "correct"] = described(
        "all", "Or only tweets that the probe predicts correctly."
    )
    label: int | None = described(
        None, "Only tweets of one sentiment.", choices={"positive": 1, "negative": 0}
    )
    shortest: int = described(1, "Least tokens of a tweet.")
    longest: int | None = described(None, "Most tokens of a tweet.")
    containing: str = described("", "Tweets containing this text.")
    n: int | None = described(None, "How many tweets, drawn by --seed.", unset="all")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.which not in ("all", "correct"):
            raise UserError(f"Tweets are 'all' or those 'correct', not {self.which!r}.")
        if self.label not in (None, 0, 1):
            raise UserError(f"The label is 1 (positive), 0 (negative) or None, not {self.label}.")
        if self.n is not None and self.n < 1:
            raise UserError(f"At least 1 tweet must be traced, not {self.n}.")
        if self.shortest < 1 or (self.longest is not None and self.longest < self.shortest):
            raise UserError(
                f"No tweet has {self.shortest} to {self.longest} tokens; give a range from 1 on."
            )
        if self.seed < 0:
            raise UserError(f"The seed must be 0 or more, not {self.seed}.")


def sweep(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    settings: TraceSettings | None = None,
    *,
    selection: Selection | None = None,
    roles: Sequence[str] | None = None,
    most_tokens: int | None = None,
    data: str = "",
    drawn: bool = False,
    progress: Told | None = None,
) -> Store:
    """Trace many tweets; what of just this sweep is on disk is not traced again.

    Args:
        progress: called with the share of the sweep that is done, or True for a bar.

    All other arguments, and what is raised, are those of `create`.
    """
    store = create(
        model,
        probe,
        tweets,
        settings,
        selection=selection,
        roles=roles,
        most_tokens=most_tokens,
        data=data,
        drawn=drawn,
    )
    for _ in run(model, store, progress=teller(progress, "Tracing tweets")):
        pass
    return store


def create(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    settings: TraceSettings | None = None,
    *,
    selection: Selection | None = None,
    roles: Sequence[str] | None = None,
    most_tokens: int | None = None,
    together: int | None = None,
    data: str = "",
    owner: str = "",
    drawn: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Store:
    """Make the store of a sweep, or open it where just this sweep is there already.

    Where a sweep is there that differs only in having fewer of the same tweets, what it has traced
    is taken over: more tweets cost no more than those that are new.

    Args:
        tweets: columns text and label; row and rating where there are any; and, where the
            settings' corruption is "counterfactual", those of `core.data.pairs`.
        settings: of each trace; by default one noise sample.
        selection: which of the tweets.
        roles: trace only tokens that play these parts (keys of `core.prompts.token_roles.TWEET`);
        None: all.
        most_tokens: trace at most so many tokens of one role in a tweet, drawn at random. Their
            mean stands for the role's, so an average stays right, with a wider interval; a tweet's
            peak is then looked for among the traced tokens only.
        together: tweets of one batch, at most; by default as many as fill the model's device. Where
            other devices will do the work (a cluster), say `MOST_TOGETHER`.
        data: what a person calls the data.
        owner: who makes it, see `Store.owner`; a store that is there keeps its own.
        drawn: the tweets are those of a store already, `choose`n by the selection.
        progress: called with the share of the tweets that were looked at.

    Raises:
        UserError: no tweet is left, or settings that a sweep cannot use.
    """
    settings = settings or TraceSettings(samples=DEFAULT_SAMPLES)
    selection = selection or Selection()
    _check(settings, roles, most_tokens, together)
    pairs = settings.corruption == "counterfactual"
    if not pairs:
        tweets = tweets.drop(columns=list(PAIRED), errors="ignore")
    elif missing := [column for column in PAIRED if column not in tweets]:
        raise UserError(
            f"A sweep over pairs needs the column {missing[0]!r}; load the data by "
            "core.load_pairs, or sweep with noise, uniform noise or the mean embedding."
        )
    chosen = tweets if drawn else choose(model, probe, tweets, selection, progress)
    settings = replace(
        settings,
        seconds=None,
        stable_for=None,
        total_samples=None,
        until="all",
        proxy="log_odds",
    )
    determines = {
        "form": FORMAT,
        "engine": ENGINE,
        "model": {"identity": model.identity, "precision": model.precision},
        "probe": _fingerprint_of(probe),
        "settings": {k: v for k, v in asdict(settings).items() if k not in _NOT_DETERMINING},
        "roles": None if roles is None else sorted(set(roles)),
        "most_tokens": most_tokens,
        "selection": asdict(selection),
        "data": datasets.fingerprint(chosen),
    }
    if pairs:
        determines["pairs"] = datasets.fingerprint(_others(chosen))
        determines["edited"] = settings.edited
    name = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:16]
    folder = sweeps_folder() / name
    with cache.lock(f"sweep-{name}"):
        if not (folder / "manifest.json").is_file():
            smaller = _smaller_sweep(determines, chosen)
            done = [] if smaller is None else smaller.finished()
            batches = [] if smaller is None else [smaller.batch(batch) for batch in done]
            plan = _planned(
                model,
                settings,
                chosen,
                selection.seed,
                together,
                [[int(row["number"]) for row in rows] for rows in batches],
            )
            where = Path(model.name)
            origin = {
                "model": str(where.absolute()) if where.is_dir() else model.name,
                "untrained": model.untrained,
                "bytes": model.parameters * model.dtype.itemsize,
                "data": data,
                "owner": owner,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": _versions(),
            }
            with cache.write_folder_beside(folder) as beside:
                plan.to_parquet(beside / "tweets.parquet", index=False)
                (beside / "probe.json").write_bytes(probe.to_json())
                manifest = json.dumps({"determines": determines, "origin": origin}, indent=1)
                (beside / "manifest.json").write_text(manifest, encoding="utf-8")
                for part in ("parts", "failures", "claims"):
                    (beside / part).mkdir()
                for place, batch in enumerate(done):
                    assert smaller is not None
                    for name in ("parts/{:06}.parquet", "failures/{:06}.json"):
                        if (there := smaller.folder / name.format(batch)).is_file():
                            shutil.copyfile(there, beside / name.format(place))
    return Store(folder)


def choose(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    selection: Selection,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Draw the tweets of a selection: columns number, row, text, label (and rating), tokens.

    Raises:
        UserError: no tweet fits the selection, or a row has no text or no label.
    """
    check_frame(tweets)
    order = np.random.default_rng(selection.seed).permutation(len(tweets))
    whole = tweets.reset_index(drop=True)
    if "row" not in whole:
        whole = whole.assign(row=np.arange(len(whole)))
    held_out = _held_out(probe, whole) if selection.which == "correct" else None
    wanted = selection.n or len(whole)
    taken: dict[int, int] = {}  # index -> tokens of its prompt
    for start in range(0, len(order), _CHUNK):
        part: dict[int, int] = {}
        for index in order[start : start + _CHUNK].tolist():
            text = whole["text"][index]
            tokens, of_tweet = _tokens(model, text, probe.template)
            # What makes no prompt fails when it is traced, with its reason, instead of vanishing.
            fits = (of_tweet or selection.shortest) >= selection.shortest and (
                selection.longest is None or of_tweet <= selection.longest
            )
            if (
                fits
                and (selection.label is None or whole["label"][index] == selection.label)
                and selection.containing.lower() in str(text).lower()
            ):
                part[index] = tokens
        if selection.which == "correct":
            part = {index: part[index] for index in _right(model, probe, whole, part, held_out)}
            if PAIRED[0] in whole:
                right = _right(model, probe, _others(whole), part, None)
                part = {index: part[index] for index in right}
        taken |= part
        if progress is not None:
            progress(min(1.0, max(len(taken) / wanted, (start + _CHUNK) / len(order))))
        if len(taken) >= wanted:
            break
    if not taken:
        raise UserError("No tweet of the data fits this selection; choose fewer conditions.")
    indices = list(taken)[:wanted]
    columns = [name for name in ("row", "text", "label", "rating", *PAIRED) if name in whole]
    chosen = whole.loc[indices, columns].reset_index(drop=True)
    chosen.insert(0, "number", np.arange(len(chosen)))
    return chosen.assign(tokens=[taken[index] for index in indices])


def _others(pairs: pd.DataFrame) -> pd.DataFrame:
    """The counterfactuals of pairs as labelled texts."""
    return pairs.assign(text=pairs[PAIRED[0]], label=pairs[PAIRED[1]])


# --- working ----------------------------------------------------------------------------------


def run(
    model: Model,
    store: Store,
    *,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
    asked: bool = True,
) -> Iterator[Status]:
    """Work at a sweep until nothing is left, or `pause` or `stop` is asked for.

    Other processes may do the same. Yields after each batch. `core.server.job_queue` can run it:
    `queue.submit(owner, lambda job: ((s.fraction, s) for s in run(model, store,
    progress=job.report)))`.

    Args:
        model: the model that the manifest names, on any device.
        memory: as in `core.tracing.tracer.trace`.
        progress: called with the share of the sweep that is done, several times a batch. An
            exception that it raises ends the work; the batch in hand is done anew later.
        asked: somebody asks for it now, whatever was wished before. False in a process that
            `Store.start` has begun: a pause or a stop that was wished while it began holds.

    Raises:
        UserError: the model is not the store's.
    """
    check_model(model, store.model)
    weights = store.weights
    total = sum(weight for _, weight in weights.values())
    with store.claims() as claims:
        if asked or store.wanted == "start":
            store.wish("run")
        yield store.status()
        while store.wanted == "run":
            batch = claims.take()
            if batch is None:
                if len(store.finished()) == len(weights):
                    return
                # Another has the rest in hand; should it die, the rest is ours.
                time.sleep(_CONTROL_SECONDS)
                yield store.status()
                continue
            done = sum(weights[number][1] for number in store.finished())
            looked = time.monotonic()

            def report(share: float, done: float = done, batch: int = batch) -> None:
                nonlocal looked
                if time.monotonic() - looked > _CONTROL_SECONDS:
                    looked = time.monotonic()
                    if store.wanted == "stop":
                        raise _Stopped
                if progress is not None:
                    progress((done + share * weights[batch][1]) / total)

            began = time.monotonic()
            try:
                table, failures = trace_batch(
                    model, store.task, store.batch(batch), memory=memory, progress=report
                )
            except _Stopped:
                return
            store.write(batch, table, failures)
            claims.done(batch, time.monotonic() - began)
            yield store.status()


class _Stopped(Exception):
    """Ends a batch after `Store.stop`."""


def check_model(model: Model, name: ModelName) -> None:
    """Refuse another model, or other numbers, than a sweep's.

    Raises:
        UserError: it is another one.
    """
    if not same_model(name.identity, model.identity) or model.precision != name.dtype:
        raise UserError(
            f"The sweep is of {name.name!r} in {name.dtype}, not of these weights of "
            f"{model.name!r} in {model.precision}; load that model or begin another sweep."
        )


def trace_batch(
    model: Model,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    memory: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[pa.Table, list[Failure]]:
    """Trace one batch of a plan; what a worker does, wherever it runs.

    Args:
        rows: the plan's rows, of prompts with equally many tokens.

    Returns:
        What `Store.write` takes: a table of the tweets that were traced, and the others.
    """
    import pyarrow as pa

    try:
        results: list[TraceResult | Failure] = list(
            _trace(model, task, rows, memory=memory, progress=progress)
        )
    except UserError:
        # One of them is at fault: find out which.
        results = []
        for row in rows:
            try:
                results += _trace(model, task, [row], memory=memory, progress=progress)
            except UserError as error:
                results.append(Failure(int(row["number"]), int(row["row"]), str(error)))
    traced = [
        row_of(row, result)
        for row, result in zip(rows, results, strict=True)
        if isinstance(result, TraceResult)
    ]
    failures = [result for result in results if isinstance(result, Failure)]
    return pa.Table.from_pylist(traced, schema=schema()), failures


def _trace(
    model: Model,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    memory: int | None,
    progress: Callable[[float], None] | None,
) -> list[TraceResult]:
    texts = [str(row["text"]) for row in rows]
    others = None
    if task.settings.corruption == "counterfactual":
        others = [str(row[PAIRED[0]]) for row in rows]
    positions = None
    if task.roles is not None or task.most_tokens is not None:
        prompts = [build_prompt(model, text, task.probe.template) for text in texts]
        positions = [
            traced_positions(prompt, task, int(row["number"]))
            for prompt, row in zip(prompts, rows, strict=True)
        ]
    # Tweets in one pass share their positions. A processor gains less from sharing a pass than it
    # loses by tracing each tweet where another one has a wanted token.
    if positions is None or model.device.type != "cpu":
        return trace_together(
            model,
            task.probe,
            texts,
            task.settings,
            counterfactuals=others,
            positions=positions,
            memory=memory,
            progress=progress,
        )
    return [
        result
        for number, (text, traced) in enumerate(zip(texts, positions, strict=True))
        for result in trace_together(
            model,
            task.probe,
            [text],
            task.settings,
            counterfactuals=None if others is None else [others[number]],
            positions=[traced],
            memory=memory,
            progress=_part_of(progress, number, len(texts)),
        )
    ]


def _part_of(
    progress: Callable[[float], None] | None, number: int, count: int
) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress((number + share) / count)


def traced_positions(prompt: Prompt, task: Task, number: int) -> list[int]:
    """Positions of a tweet's prompt that a sweep of some roles, or few tokens of each, traces.

    Raises:
        UserError: the tweet has no token of these roles.
    """
    by_role: dict[str, list[int]] = {}
    for position, role in enumerate(roles_of(prompt)):
        if role is not None and (task.roles is None or role.partition(":")[0] in task.roles):
            by_role.setdefault(role, []).append(position)
    draw = np.random.default_rng([task.seed, number])
    found: list[int] = []
    for positions in by_role.values():
        count = min(len(positions), task.most_tokens or len(positions))
        found += draw.choice(positions, count, replace=False).tolist()
    if not found:
        raise UserError(f"The tweet has no token of the roles {', '.join(task.roles or ())}.")
    return sorted(found)


# --- the plan ---------------------------------------------------------------------------------


def _check(
    settings: TraceSettings,
    roles: Sequence[str] | None,
    most: int | None,
    together: int | None,
) -> None:
    unknown = [role for role in roles or () if role not in TWEET]
    if unknown or (roles is not None and not roles):
        raise UserError(
            f"The roles {', '.join(unknown) or 'given'} are not known; "
            f"choose from {', '.join(TWEET)}."
        )
    if together is not None and together < 1:
        raise UserError(f"At least 1 tweet makes a batch, not {together}.")
    if most is not None and most < 1:
        raise UserError(f"At least 1 token of each role must be traced, not {most}.")
    if settings.rows == "words":
        raise UserError("Sweeps average tokens by their roles; leave rows at 'tokens'.")
    if settings.counterfactual is not None:
        raise UserError(
            "A counterfactual tweet belongs to one tweet; sweep over pairs, in which each tweet "
            "has its own, or with noise, uniform noise or the mean embedding."
        )
    if not isinstance(settings.corrupt, str):
        raise UserError(
            "Positions of tokens mean something else in every tweet; "
            f"corrupt the whole 'tweet' or one word by its number, not {settings.corrupt!r}."
        )


def _fingerprint_of(probe: Probe) -> str:
    """SHA-256 over what a probe reads and how."""
    numbers = [probe.mean, probe.scale, probe.coefficients, probe.intercept, probe.embedding_std]
    return hashlib.sha256(json.dumps([key_of(probe), *numbers]).encode()).hexdigest()


def _tokens(model: Model, text: object, template: Template) -> tuple[int, int]:
    """Tokens of a tweet's prompt and of the tweet in it; 0 where it makes no prompt."""
    try:
        prompt = build_prompt(model, text, template)  # type: ignore[arg-type]  # it checks
    except UserError:
        return 0, 0
    return len(prompt), len(prompt.tweet_span)


def _held_out(probe: Probe, tweets: pd.DataFrame) -> Array | None:
    """What the probe's cross-validation says of each of its own texts; None for other texts."""
    own = trained_on(probe, tweets)
    if own is None:
        return None
    found = np.full(len(tweets), np.nan)  # what its model cannot read is in nobody's report
    found[own.index] = probe.judged.log_odds
    return found


def _right(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    part: Mapping[int, int],
    held_out: Array | None,
) -> list[int]:
    """Those of which the probe says what the label says."""
    readable = [index for index, tokens in part.items() if tokens]
    if not readable:
        return []
    if held_out is not None:
        odds = held_out[readable]
    else:
        odds = log_odds_of(model, probe, tweets["text"][readable].tolist())
    right = (odds >= 0) == (tweets["label"].to_numpy()[readable] == 1)
    return [index for index, yes in zip(readable, right, strict=True) if yes]


def _planned(
    model: Model,
    settings: TraceSettings,
    chosen: pd.DataFrame,
    seed: int,
    together: int | None,
    done: list[list[int]],
) -> pd.DataFrame:
    """Give each tweet a batch of prompts of its length; batches stand in random order, so that an
    unfinished sweep is a fair sample and the time left can be told."""
    batches: list[list[int]] = []
    left = chosen[~chosen["number"].isin([number for batch in done for number in batch])]
    for length, group in left.groupby("tokens", sort=True):
        size = together or 1
        if together is None and int(str(length)):
            fitting = Batches.within(
                model,
                int(str(length)),
                cells=grid(settings.kinds, model.layers, int(str(length)), every=settings.every),
                window=min(settings.window or default_window(model.layers), model.layers),
                samples=MOST_TOGETHER * settings.draws,
                budget=2**31,
            )
            size = max(1, fitting.samples // settings.draws)
        numbers = group["number"].tolist()
        batches += [numbers[at : at + size] for at in range(0, len(numbers), size)]
    order = np.random.default_rng(seed).permutation(len(batches))
    batch = np.empty(len(chosen), dtype=np.int64)
    for place, numbers in enumerate([*done, *(batches[index] for index in order)]):
        batch[numbers] = place
    planned = chosen.assign(batch=batch)
    return planned.sort_values(["batch", "number"], ignore_index=True)


def _smaller_sweep(determines: Mapping[str, Any], chosen: pd.DataFrame) -> Store | None:
    """The sweep that differs only in having fewer of the same tweets, and has traced most."""

    def but_its_size(of: Mapping[str, Any]) -> str:
        alike = {**of, "data": "", "pairs": "", "selection": {**of["selection"], "n": None}}
        return json.dumps(alike, sort_keys=True)

    def columns(of: pd.DataFrame) -> list[list[Any]]:
        named = ("number", "row", "text", "label", *PAIRED)
        return [of[name].tolist() for name in named if name in of]

    found: list[Store] = []
    for store in sweeps():
        if but_its_size(store.manifest["determines"]) != but_its_size(determines):
            continue
        tweets = store.tweets.sort_values("number")
        if len(tweets) < len(chosen) and columns(tweets) == columns(chosen[: len(tweets)]):
            found.append(store)
    return max(found, key=lambda store: len(store.finished()), default=None)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
