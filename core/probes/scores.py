"""How well does a probe do on texts that it was not fitted on, and how sure is that?

A `Report` keeps the held-out prediction of every text, made by the fold that did not train on it;
scikit-learn makes every table from them. Intervals of the scores are 95% percentile bootstrap
intervals over groups of equal texts. Those of the learning curve are 95% t intervals over folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..showing import Shown
from ..statistics import Array, group_resamples, percentile_interval

if TYPE_CHECKING:
    import pandas as pd

Labels = NDArray[np.int64]

METRICS: dict[str, str] = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "roc_auc": "ROC-AUC",
    "brier": "Brier score (lower is better)",
}
DRAWS = 1000
"""Bootstrap resamples behind every interval."""

# Checked when a probe is read from a file, which may come from anywhere.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Score:
    """A number and its 95% interval."""

    value: Finite
    low: Finite
    high: Finite


@dataclass(frozen=True)
class Control:
    """What something that should know less than the probe scores on the same folds."""

    name: str
    about: str
    scores: dict[str, Score]  # by the names of `METRICS`
    gain: Score  # the probe's accuracy minus this one's, paired text by text


@dataclass(frozen=True)
class LayerScore:
    """Held-out accuracy of a probe of one layer."""

    layer: Count  # the residual stream after this block, 0-based
    accuracy: Score


@dataclass(frozen=True)
class LearningScore:
    """Held-out accuracy after training on some of the texts; interval over folds."""

    texts: Count
    accuracy: Score


@dataclass(frozen=True)
class Report(Shown):
    """How well a probe does on texts that it was not fitted on."""

    scores: dict[str, Score]  # by the names of `METRICS`
    folds: Count
    rows: tuple[int, ...]  # of the data set's source, one per text
    labels: tuple[Literal[0, 1], ...]
    log_odds: tuple[Finite, ...]  # held-out prediction of each text, in nats
    learning: tuple[LearningScore, ...] = ()
    layers: tuple[LayerScore, ...] = ()
    controls: tuple[Control, ...] = ()

    def __post_init__(self) -> None:
        if set(self.scores) != set(METRICS):
            raise ValueError(f"scores are not of {', '.join(METRICS)}")
        if not len(self.rows) == len(self.labels) == len(self.log_odds) > 0:
            raise ValueError("rows, labels and log_odds are not of one length")

    @property
    def n(self) -> int:
        """Texts."""
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """Share of texts whose label is predicted."""
        return self.scores["accuracy"].value

    @property
    def accuracy_low(self) -> float:
        """Lower end of the accuracy's interval."""
        return self.scores["accuracy"].low

    @property
    def accuracy_high(self) -> float:
        """Upper end of the accuracy's interval."""
        return self.scores["accuracy"].high

    @property
    def macro_f1(self) -> float:
        """Mean of both labels' F1."""
        return self.scores["macro_f1"].value

    @property
    def majority(self) -> float:
        """Share of the more frequent label: the accuracy of knowing nothing."""
        positive = sum(self.labels) / self.n
        return max(positive, 1 - positive)

    @property
    def verdict(self) -> str | None:
        """One sentence on the probe against its controls; None where there are none."""
        if not self.controls:
            return None
        closest = min(self.controls, key=lambda control: control.gain.low)
        gain = closest.gain
        by = (
            f"its accuracy is {100 * abs(gain.value):.1f} points "
            f"{'higher' if gain.value >= 0 else 'lower'} than that of {closest.name} "
            f"(95% interval of the difference {100 * gain.low:+.1f} to {100 * gain.high:+.1f})."
        )
        unbeaten = [control.name for control in self.controls if control.gain.low <= 0]
        if not unbeaten:
            return f"This proxy beats all of its controls; at the least, {by}"
        names = " and ".join(filter(None, (", ".join(unbeaten[:-1]), unbeaten[-1])))
        return f"This proxy does not beat {names}: {by}"

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every part of the report as a tidy frame, by name; parts that are empty are left out.

        scores: metric, value, low, high.
        controls: control, metric, value, low, high; the probe itself is the first control.
        gains: control, about, gain, low, high (of the accuracy, as shares).
        confusion: label, predicted, texts.
        calibration: predicted (mean P(positive) of a bin), observed (share positive), texts.
        roc: false_positive_rate, true_positive_rate.
        learning: texts, accuracy, low, high.
        layers: layer, accuracy, low, high.
        mistakes: row, label, log_odds; the most wrong first.
        """
        import pandas as pd

        rows: dict[str, list[dict[str, Any]]] = {
            "scores": _score_rows(self.scores),
            "controls": [
                {"control": name} | row
                for name, scores in (
                    ("probe", self.scores),
                    *((control.name, control.scores) for control in self.controls),
                )
                for row in _score_rows(scores)
                if self.controls
            ],
            "gains": [
                {
                    "control": control.name,
                    "about": control.about,
                    "gain": control.gain.value,
                    "low": control.gain.low,
                    "high": control.gain.high,
                }
                for control in self.controls
            ],
            "learning": [{"texts": p.texts} | _accuracy_row(p.accuracy) for p in self.learning],
            "layers": [{"layer": p.layer} | _accuracy_row(p.accuracy) for p in self.layers],
        }
        frames = {name: pd.DataFrame(part) for name, part in rows.items()}
        frames |= {
            "confusion": self._confusion(),
            "calibration": self._calibration(),
            "roc": self._roc(),
            "mistakes": self._mistakes(),
        }
        return {name: frame for name, frame in frames.items() if len(frame)}

    def _confusion(self) -> pd.DataFrame:
        import pandas as pd
        from sklearn.metrics import confusion_matrix

        matrix = confusion_matrix(self.labels, np.array(self.log_odds) > 0, labels=[0, 1])
        label, predicted = np.indices((2, 2)).reshape(2, -1)
        return pd.DataFrame({"label": label, "predicted": predicted, "texts": matrix.ravel()})

    def _calibration(self, bins: int = 10) -> pd.DataFrame:
        import pandas as pd
        from sklearn.calibration import calibration_curve

        probability = probability_of(np.array(self.log_odds))
        observed, predicted = calibration_curve(self.labels, probability, n_bins=bins)
        edges = np.linspace(0.0, 1.0, bins + 1)  # as scikit-learn bins
        texts = np.bincount(np.searchsorted(edges[1:-1], probability), minlength=bins)
        return pd.DataFrame(
            {"predicted": predicted, "observed": observed, "texts": texts[texts > 0]}
        )

    def _roc(self) -> pd.DataFrame:
        import pandas as pd
        from sklearn.metrics import roc_curve

        false_positive, true_positive, _ = roc_curve(self.labels, self.log_odds)
        return pd.DataFrame(
            {"false_positive_rate": false_positive, "true_positive_rate": true_positive}
        )

    def _mistakes(self) -> pd.DataFrame:
        import pandas as pd

        frame = pd.DataFrame({"row": self.rows, "label": self.labels, "log_odds": self.log_odds})
        wrong = frame[(frame["log_odds"] > 0) != (frame["label"] == 1)]
        order = wrong["log_odds"].abs().sort_values(ascending=False, kind="stable").index
        return wrong.loc[order].reset_index(drop=True)


def probability_of(log_odds: Array) -> Array:
    """P(positive) of log-odds: 1 / (1 + exp(-x)) without overflow."""
    from scipy.special import expit

    probability: Array = expit(log_odds)
    return probability


def score(
    labels: Labels, log_odds: Array, groups: Labels, *, draws: int = DRAWS
) -> dict[str, Score]:
    """Score held-out predictions by every metric, with bootstrap intervals over groups.

    Args:
        labels: (texts,), 1 positive, 0 negative.
        log_odds: (texts,); above 0 predicts positive.
        groups: (texts,), numbers from 0; texts of a group are drawn together.
    """
    everything = _metrics(labels, log_odds, np.ones((1, len(labels))))
    drawn = [_metrics(labels, log_odds, weights) for weights in group_resamples(groups, draws)]
    return {
        name: _interval(everything[name][0], np.concatenate([part[name] for part in drawn]))
        for name in METRICS
    }


def mean_score(values: Array, groups: Labels, *, draws: int = DRAWS) -> Score:
    """The mean over texts of any number, such as 1 for a right prediction, with its interval."""
    drawn = [weights @ values / weights.sum(axis=1) for weights in group_resamples(groups, draws)]
    return _interval(float(np.mean(values)), np.concatenate(drawn))


def _metrics(labels: Labels, log_odds: Array, weights: Array) -> dict[str, Array]:
    """Every metric for each row of weights (draws, texts): (draws,).

    What scikit-learn gives with `sample_weight`, for a thousand draws in the time of fifty.
    """
    predicted = log_odds > 0
    true_negative, false_positive, false_negative, true_positive = (
        weights @ ((labels == label) & (predicted == said))
        for label, said in ((0, False), (0, True), (1, False), (1, True))
    )
    positive, negative = true_positive + false_negative, true_negative + false_positive
    wrong = false_positive + false_negative
    # Ties count half, so texts of equal log-odds are taken together.
    order = np.argsort(log_odds, kind="stable")
    starts = np.flatnonzero(np.diff(log_odds[order], prepend=-np.inf) > 0)
    ups = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)
    downs = np.add.reduceat(weights[:, order] * (1 - labels[order]), starts, axis=1)
    below = np.cumsum(downs, axis=1) - downs / 2
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw may lack a label
        return {
            "accuracy": (true_positive + true_negative) / (positive + negative),
            "balanced_accuracy": (true_positive / positive + true_negative / negative) / 2,
            "macro_f1": true_positive / (2 * true_positive + wrong)
            + true_negative / (2 * true_negative + wrong),
            "roc_auc": (ups * below).sum(axis=1) / (positive * negative),
            "brier": weights @ (probability_of(log_odds) - labels) ** 2 / (positive + negative),
        }


def _interval(value: float, drawn: Array) -> Score:
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return Score(float(value), float(value), float(value))
    low, high = percentile_interval(drawn)
    return Score(float(value), float(low), float(high))


def _score_rows(scores: dict[str, Score]) -> list[dict[str, Any]]:
    return [
        {"metric": name, "value": found.value, "low": found.low, "high": found.high}
        for name, found in scores.items()
    ]


def _accuracy_row(accuracy: Score) -> dict[str, float]:
    return {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high}
