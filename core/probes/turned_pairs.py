"""Which tweets have a counterfactual that turns their sentiment, as lexicon and probe both say?

The edits are those of `core.prompts.counterfactuals`. An edit is kept where the text's own
sentiment is what its label says, and the edit turns it, by two judges that know nothing of each
other: VADER's rules (Hutto and Gilbert 2014, its compound score beyond +-0.05 on both sides) and
the probe. So a pair is one in which the model itself tells the two texts apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..data.labelling import check_frame, text_groups
from ..data.tables import amount
from ..errors import UserError
from ..models.model import Model
from ..prompts.counterfactuals import EDITS, Edit, edits_of
from ..prompts.prompt import count_tokens, why_unreadable
from ..prompts.template import Template
from ..statistics import Array
from .encoding import Progress, encode
from .probe import Probe, word_tokens

if TYPE_CHECKING:
    import pandas as pd
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

NEUTRAL = 0.05
"""A compound score of VADER's within this is neutral (Hutto and Gilbert 2014)."""


@dataclass(frozen=True)
class TurnedPairs:
    """Pairs made of single texts, and how many texts have one.

    ``frame`` has the columns of `core.data.pairs.Pairs.frame`, and edit (a key of `EDITS`), before
    and after (the words that were exchanged) and same_length (in tokens). A text has a row for each
    kind of edit that turns it.

    ``counts`` has a row for each kind of edit and one for any: edit, texts that can be edited so,
    lexicon (of these, where the lexicon says that the sentiment turned), kept (of these, where the
    probe says so too), same_length (of these, in equally many tokens).
    """

    frame: pd.DataFrame
    counts: pd.DataFrame
    texts: int  # that were looked at

    def describe(self) -> str:
        """Say in one sentence how many texts have a pair."""
        have = self.frame["row"].nunique()
        return (
            f"{have:,} of {amount(self.texts, 'text')} have a counterfactual that turns their "
            f"sentiment, by lexicon and probe; {amount(len(self.frame), 'pair')} in all."
        )


def make_pairs(
    model: Model,
    probe: Probe,
    tweets: pd.DataFrame,
    *,
    opposites: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> TurnedPairs:
    """Make pairs of labelled texts, at most one of each kind of edit and text.

    Args:
        probe: of the model.
        tweets: columns text and label, row where there is one.
        opposites: see `edits_of`.
        progress: called with (texts encoded, texts in all).

    Raises:
        UserError: no text has such a counterfactual.
    """
    check_frame(tweets)
    candidates = _candidates(model, probe.template, tweets, opposites)
    turned = [each for each in candidates if _lexicon_says_so(*each)]
    kept = _kept(model, probe, turned, progress)
    if not kept:
        raise UserError(
            f"None of {amount(len(tweets), 'text')} has a counterfactual that turns its sentiment "
            "by lexicon and probe; give other texts, or another probe."
        )
    frame = _frame(model, probe.template, tweets, kept)
    return TurnedPairs(frame, _counts(candidates, turned, frame), len(tweets))


def log_odds_of(
    model: Model, probe: Probe, texts: Sequence[str], progress: Progress | None = None
) -> Array:
    """The probe's log-odds of "positive" of texts that its model can read: (texts,)."""
    encoding = encode(model, texts, template=probe.template, progress=progress)
    if probe.layer is not None:
        return probe.log_odds_of_states(encoding.states(probe.layer).astype(np.float64))
    words = word_tokens(model, probe)
    return probe.log_odds(encoding.log_probs(model, words))


_Candidate = tuple[int, str, int, Edit]  # place in the frame, text, label, edit


def _candidates(
    model: Model,
    template: Template,
    tweets: pd.DataFrame,
    opposites: Mapping[str, Sequence[str]] | None,
) -> list[_Candidate]:
    found = []
    for place, (text, label) in enumerate(zip(tweets["text"], tweets["label"], strict=True)):
        text = text.strip()
        if why_unreadable(model, text, template):
            continue
        for edit in edits_of(text, opposites):
            if edit.text != text and not why_unreadable(model, edit.text, template):
                found.append((place, text, int(label), edit))
    return found


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def _lexicon_says_so(place: int, text: str, label: int, edit: Edit) -> bool:
    sign = 1 if label else -1
    own, other = (
        _analyzer().polarity_scores(each)["compound"] * sign for each in (text, edit.text)
    )
    return bool(own > NEUTRAL and other < -NEUTRAL)


def _kept(
    model: Model, probe: Probe, turned: Sequence[_Candidate], progress: Progress | None
) -> list[_Candidate]:
    """The first edit of each kind of each text that turns the probe too."""
    if not turned:
        return []
    texts = [text for _, text, _, _ in turned] + [edit.text for *_, edit in turned]
    odds = log_odds_of(model, probe, texts, progress)
    found: dict[tuple[int, str], _Candidate] = {}
    for candidate, own, other in zip(turned, odds[: len(turned)], odds[len(turned) :], strict=True):
        place, _, label, edit = candidate
        if (own > 0) == bool(label) and (other > 0) != bool(label):
            found.setdefault((place, edit.kind), candidate)
    return list(found.values())


def _frame(
    model: Model, template: Template, tweets: pd.DataFrame, kept: Sequence[_Candidate]
) -> pd.DataFrame:
    import pandas as pd

    rows = tweets["row"].tolist() if "row" in tweets else list(range(len(tweets)))
    lengths = [
        [count.prompt for count in count_tokens(model.tokenizer, texts, template)]
        for texts in ([text for _, text, _, _ in kept], [edit.text for *_, edit in kept])
    ]
    frame = pd.DataFrame(
        {
            "text": [text for _, text, _, _ in kept],
            "label": [label for _, _, label, _ in kept],
            "counterfactual": [edit.text for *_, edit in kept],
            "counterfactual_label": [1 - label for _, _, label, _ in kept],
            "row": [int(rows[place]) for place, *_ in kept],
            "group": text_groups(text for _, text, _, _ in kept),
            "edit": [edit.kind for *_, edit in kept],
            "before": [", ".join(before for before, _ in edit.replaced) for *_, edit in kept],
            "after": [", ".join(after for _, after in edit.replaced) for *_, edit in kept],
            "same_length": [one == two for one, two in zip(*lengths, strict=True)],
        }
    )
    return frame


def _counts(
    candidates: Sequence[_Candidate], turned: Sequence[_Candidate], frame: pd.DataFrame
) -> pd.DataFrame:
    import pandas as pd

    def texts(found: Sequence[_Candidate], kind: str | None) -> int:
        return len({place for place, *_, edit in found if kind in (None, edit.kind)})

    counted = []
    for kind in (*EDITS, None):
        own = frame if kind is None else frame[frame["edit"] == kind]
        counted.append(
            {
                "edit": kind or "any",
                "texts": texts(candidates, kind),
                "lexicon": texts(turned, kind),
                "kept": own["row"].nunique(),
                "same_length": own.loc[own["same_length"], "row"].nunique(),
            }
        )
    return pd.DataFrame(counted)
