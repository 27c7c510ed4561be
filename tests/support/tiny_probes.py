"""A probe with numbers of its own, for tests in which a fitted one would say nothing more."""

from dataclasses import replace

import numpy as np

from core.models.model import Model
from core.probes.probe import Probe
from core.probes.scores import Report, Score


def make_report() -> Report:
    """80% right of 100 texts, 60 of them positive."""
    labels = (1,) * 60 + (0,) * 40
    right = ([True] * 4 + [False]) * 20
    return Report(
        scores={
            "accuracy": Score(0.8, 0.7, 0.9),
            "balanced_accuracy": Score(0.78, 0.68, 0.88),
            "macro_f1": Score(0.75, 0.65, 0.85),
            "roc_auc": Score(0.85, 0.75, 0.95),
            "brier": Score(0.15, 0.1, 0.2),
        },
        folds=5,
        rows=tuple(range(100)),
        labels=labels,
        log_odds=tuple(
            (1.0 if (label == 1) == hit else -1.0) * (0.5 + row / 100)
            for row, (label, hit) in enumerate(zip(labels, right, strict=True))
        ),
    )


def make_probe(model: Model) -> Probe:
    return Probe(
        features="logit_pair",
        model_name=model.name,
        model_identity=model.identity,
        suffix=" I am feeling",
        words_positive=(" good",),
        words_negative=(" bad",),
        layer=None,
        mean=(-5.0, -6.0),
        scale=(1.5, 2.0),
        coefficients=(1.2, -0.7),
        intercept=0.3,
        report=make_report(),
        dataset="made by hand",
        dataset_hash="0" * 64,
        embedding_std=0.3,
        seed=0,
    )


def make_probe_of_states(model: Model, layer: int) -> Probe:
    random = np.random.default_rng(1)
    return replace(
        make_probe(model),
        features=f"hidden:{layer}",
        layer=layer,
        mean=tuple(random.standard_normal(model.width)),
        scale=tuple(random.uniform(0.5, 2.0, model.width)),
        coefficients=tuple(random.standard_normal(model.width)),
    )
