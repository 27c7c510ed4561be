"""Traces of many tweets whose every number is known, without a model that computes anything."""

from collections.abc import Iterator

import numpy as np
from tiny_models import make_model
from tiny_probes import make_probe

from core.prompts.prompt import build_prompt
from core.prompts.token_roles import roles_of
from core.sweeps.record import Record
from core.tracing.result import Reads, TraceResult, TraceSettings

LAYERS = 12
WORDS = (
    "my flight day waiting here for hours service @name got I and it was the again today , really"
)
SENTIMENT = {1: ("great", "happy", "love", "wonderful"), 0: ("awful", "terrible", "sad", "bad")}
TOTAL = 3.0


def make_texts(n: int, seed: int = 0) -> list[tuple[str, int]]:
    """Tweets of 3 to 14 words, each with one word of sentiment, some with a comma; and labels."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(n):
        label = int(number % 3 > 0)
        words = draw.choice(WORDS.split(), int(draw.integers(2, 14))).tolist()
        words.insert(int(draw.integers(0, len(words))), str(draw.choice(SENTIMENT[label])))
        found.append((" ".join(words), label))
    return found


def records(
    n: int = 60,
    seed: int = 0,
    *,
    every: int = 1,
    blur: float = 0.5,
    total: float = TOTAL,
    carried_by: str = "mlp",
    spread: float = 0.35,
) -> Iterator[Record]:
    """Traces with an early site at the sentiment word and a late one at the last token.

    Args:
        every: layers that are there.
        blur: share of the early site's effect that tweets of more than 8 words lose.
        total: mean total effect, towards the predicted side.
        carried_by: the contributions of the early site, "mlp" or "attn"; the late has the other.
        spread: standard deviation of every effect between tweets.
    """
    model = make_model("gpt2", layers=2)
    probe = make_probe(model)
    draw = np.random.default_rng(seed + 1)
    settings = TraceSettings(samples=1, every=every)
    step = probe.scale[0] / probe.coefficients[0]  # of log P(good) that is one nat of log-odds
    zero = probe.mean[0] - probe.intercept * step
    layer = np.arange(LAYERS)
    early, late = np.exp(-(((layer - 3) / 2) ** 2)), 1 / (1 + np.exp(-(layer - 8) / 1.2))
    for number, (text, label) in enumerate(make_texts(n, seed)):
        prompt = build_prompt(model, text)
        sign = 1.0 if label else -1.0
        long = len(text.split()) > 8
        own = total + spread * draw.standard_normal()
        restored = {}
        for kind in settings.kinds:
            shares = np.zeros((LAYERS, len(prompt)))
            for t, role in enumerate(roles_of(prompt)):
                if role == "sentiment_last" and kind in ("hidden", carried_by):
                    shares[:, t] = (0.7 if kind == "hidden" else 0.5) * early
                    shares[:, t] *= 1 - blur * long
                elif role == "last" and kind != carried_by:
                    shares[:, t] = (1.0 if kind == "hidden" else 0.45) * late
            effects = shares * own + 0.3 * spread * draw.standard_normal(shares.shape)
            values = np.full((1, LAYERS, len(prompt), 2), np.nan)
            low = zero + step * sign * (2.0 - own)
            values[0, ::every, :, 0] = low + step * sign * effects[::every]
            values[0, ::every, :, 1] = probe.mean[1]
            restored[kind] = values
        reads = Reads(
            clean=np.array([zero + step * sign * 2.0, probe.mean[1]]),
            corrupted=np.array([[zero + step * sign * (2.0 - own), probe.mean[1]]]),
            restored=restored,
        )
        result = TraceResult(
            prompt=prompt,
            probe=probe,
            settings=settings,
            model_name="made-by-hand",
            model_identity="made-by-hand",
            corrupted_span=prompt.tweet_span,
            window=3,
            noise=0.3,
            reads=reads,
            seconds=0.0,
        )
        yield Record(number=number, row=100 + number, label=label, result=result)
