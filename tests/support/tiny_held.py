"""Labelled texts in two parts for a small model, for tests of interventions."""

import pandas as pd
from tiny_probes import make_probe

from core.interventions.judging import HeldOut, hold_out
from core.models.model import Model

GOOD, BAD = ("good", "great", "happy", "wonderful", "love"), ("bad", "awful", "sad", "terrible")
FRAMES = ("{} day", "My flight {}", "not so {} here", "{} service for hours", "I am {}", "a {} day")
NEUTRAL = ("waiting here for hours", "My flight for the day", "I am here and waiting")


def make_tweets() -> pd.DataFrame:
    rows = [
        {"text": frame.format(word), "label": label}
        for label, words in ((1, GOOD), (0, BAD))
        for word in words
        for frame in FRAMES
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)


def make_held(model: Model) -> HeldOut:
    return hold_out(model, make_tweets(), make_probe(model), neutral=NEUTRAL)


def tweets_with_neutral_ones() -> tuple[list[str], list[float]]:
    """Texts and ratings: those of `make_tweets`, and the neutral ones."""
    tweets = make_tweets()
    texts = [*tweets["text"], *NEUTRAL]
    return texts, [*(4.0 * tweets["label"] - 2.0), 0.1, 0.2, -0.1]
