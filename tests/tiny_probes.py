"""A probe with numbers of its own, for tests in which a fitted one would say nothing more."""

from core.models import Model
from core.probes import Probe, Report


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
        report=Report(
            accuracy=0.8,
            accuracy_low=0.7,
            accuracy_high=0.9,
            macro_f1=0.75,
            majority=0.6,
            n=100,
            folds=5,
        ),
        dataset="made by hand",
        dataset_hash="0" * 64,
        embedding_std=0.3,
        seed=0,
    )
