"""Which probes are there: those that were kept, and those that come with SentiTrace?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import datasets
from ..data.readable import readable_texts
from ..distribution import ASSETS
from ..errors import UserError
from ..models.model import Model
from ..prompts.template import DEFAULT_SUFFIX, Template
from ..storage import cache
from .encoding import Progress
from .probe import FORMAT, Features, Probe, Words, words_of
from .training import train_probe

if TYPE_CHECKING:
    import pandas as pd


DEFAULTS = ASSETS / "probes"
"""Probes that come with SentiTrace; `core.probes.defaults` makes them."""


def kept_folder() -> Path:
    """Where probes are kept."""
    return cache.home() / "probes"


def keep(probe: Probe) -> Path:
    """Save the probe in the cache folder, under a name made of all that determines it."""
    path = _path_of(probe)
    probe.save(path)
    return path


def forget(probe: Probe) -> None:
    """Remove a kept probe."""
    _path_of(probe).unlink(missing_ok=True)


def key_of(probe: Probe) -> str:
    """What a kept probe is found by: the same for all probes of the same model, data and settings.

    Its name is no part of it, so that a probe that is kept under another name is renamed.
    """
    return _path_of(probe).stem


def is_kept(probe: Probe) -> bool:
    """Whether just this probe is there for everybody: kept, or come with SentiTrace."""
    return _path_of(probe).is_file() or comes_with_sentitrace(probe)


def kept_probes(model_identity: str) -> list[Probe]:
    """Every kept probe of just this model and precision, and those that come with SentiTrace.

    The best first; files that are not probes are left out.
    """
    found = {key_of(probe): probe for probe in default_probes()}
    for path in sorted(kept_folder().glob("*.json")):
        try:
            probe = Probe.load(path)
        except UserError:
            continue
        found[key_of(probe)] = probe
    own = [
        probe
        for probe in found.values()
        if probe.model_identity == model_identity and not probe.is_contrast
    ]
    return sorted(own, key=lambda probe: -probe.judged.accuracy)


@once
def default_probes() -> tuple[Probe, ...]:
    """The probes that come with SentiTrace: the embedded model's, on the built-in tweets."""
    return tuple(Probe.load(path) for path in sorted(DEFAULTS.glob("*.json")))


def comes_with_sentitrace(probe: Probe) -> bool:
    """Whether this very probe is there without having been kept, and so cannot be removed."""
    return probe in default_probes()


def _path_of(probe: Probe) -> Path:
    return _kept_path(
        probe.model_identity,
        probe.features,
        probe.template,
        (probe.words_positive, probe.words_negative),
        probe.dataset_hash,
    )


def _kept_path(
    identity: str,
    features: str,
    template: Template,
    words: tuple[tuple[str, ...], tuple[str, ...]],
    dataset_hash: str,
) -> Path:
    around: object = template.suffix
    if not template.is_plain:
        # Not what a chat template wrote: that is the model's, and may hold the date.
        around = [template.suffix, template.before, template.format]
    key = json.dumps([FORMAT, identity, features, around, words, dataset_hash])
    return kept_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def probe_for(
    model: Model,
    tweets: pd.DataFrame,
    *,
    features: Features = "logit_pair",
    template: Template | str = DEFAULT_SUFFIX,
    words: Words | None = None,
    dataset: str = "",
    read_as: str = "",
    say: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> Probe:
    """The kept probe of just this model, data and settings; trained and kept when there is none.

    Texts that the model cannot read are left out, see `core.data.readable`.

    Args:
        say: called with a sentence that counts them, where there are any.
    """
    template = Template.of(template)
    found_before = _kept_for(model, tweets, features, template, words)
    if found_before is not None:
        return found_before
    found = readable_texts(model, tweets, template)
    if found.refused:
        if say is not None:
            say(found.describe())
        found_before = _kept_for(model, found.frame, features, template, words)
        if found_before is not None:
            return found_before
    probe = train_probe(
        model,
        found.frame,
        features=features,
        template=template,
        words=words,
        dataset=dataset,
        read_as=read_as,
        progress=progress,
    )
    keep(probe)
    return probe


def _kept_for(
    model: Model, tweets: pd.DataFrame, features: Features, template: Template, words: Words | None
) -> Probe | None:
    path = _kept_path(
        model.identity, features, template, words_of(features, words), datasets.fingerprint(tweets)
    )
    if path.is_file():
        return Probe.load(path)
    return next((default for default in default_probes() if _path_of(default) == path), None)
