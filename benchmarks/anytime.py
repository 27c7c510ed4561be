"""How soon does a trace say something? The stages of one trace, in seconds and as shares of it.

    python -m benchmarks.anytime [--models LIST] [--tokens LIST] [--samples N] [--output FILE]

A trace of three kinds and 10 noise samples from coarse to fine, as the Trace page makes it
(`core.tracing.coarse_to_fine`): the verdict (the clean and all corrupted runs), the coarse heatmap
(some layers of the first sample), the sites from the coarse layers of three samples, the settled
answer, and all cells. Of the embedded model with one of its tweets of each length, and of random
weights of GPT-2's shape, where the sites are those of chance. Beside it the same trace sample by
sample, in the same run: what the stages cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import core
from benchmarks.machine import RESULTS, describe, save, say
from benchmarks.trace import find_shape, make_model, make_tweet
from core.models.model import Model
from core.models.registry import EMBEDDED
from core.probes.library import kept_probes
from core.probes.probe import Probe
from core.probes.scores import METRICS, Report, Score
from core.prompts.prompt import DEFAULT_SUFFIX, count_tokens
from core.tracing.coarse_to_fine import is_enough
from core.tracing.corruption import case_of
from core.tracing.findings import FEWEST, health_of
from core.tracing.result import TraceSettings
from core.tracing.verdict import verdicts

STAGES = ("verdict", "coarse heatmap", "sites", "settled", "all cells")


def probe_of(model: Model) -> Probe:
    """A probe of the word pair with invented coefficients: no number here is a finding."""
    return Probe(
        features="logit_pair",
        model_name=model.name,
        model_identity=model.identity,
        suffix=DEFAULT_SUFFIX,
        words_positive=(" good",),
        words_negative=(" bad",),
        layer=None,
        mean=(0.0, 0.0),
        scale=(1.0, 1.0),
        coefficients=(1.0, -1.0),
        intercept=0.0,
        report=Report({name: Score(0, 0, 0) for name in METRICS}, 5, (0,), (1,), (0.0,)),
        dataset="none",
        dataset_hash="0" * 64,
        embedding_std=float(model.embedding_matrix.std()),
        seed=0,
    )


def stages_of(model: Model, probe: Probe, tweet: str, settings: TraceSettings) -> list[float]:
    """Seconds until each of `STAGES`."""
    began, seconds = time.perf_counter(), dict[str, float]()
    for result in core.trace_progressively(model, probe, tweet, settings, stages=True):
        now = time.perf_counter() - began
        if not result.has_cells:
            seconds["verdict"] = now
            continue
        seconds.setdefault("coarse heatmap", now)
        if result.samples_done >= FEWEST:
            seconds.setdefault("sites", now)
        if is_enough(replace(result, settings=replace(settings, until="settled"))):
            seconds.setdefault("settled", now)
        seconds["all cells"] = now
    return [seconds[stage] for stage in STAGES]


def measure(model: Model, probe: Probe, tweet: str, samples: int) -> dict[str, Any]:
    """One tweet: the stages, and the same trace sample by sample, one after the other."""
    settings = TraceSettings(samples=samples)
    core.trace(model, probe, tweet, TraceSettings(samples=1, every=6))  # warm
    staged = stages_of(model, probe, tweet, settings)
    began = time.perf_counter()
    core.trace(model, probe, tweet, settings)
    plain = time.perf_counter() - began
    return {"stages": dict(zip(STAGES, staged, strict=True)), "plain": plain}


def tweet_of(model: Model, probe: Probe, tokens: int) -> tuple[str, int]:
    """A tweet whose cells may be read, in a prompt of about so many tokens, and its tokens."""
    tweets = core.load_dataset("vader-tweets")["text"].tolist()
    counts = count_tokens(model.tokenizer, tweets, probe.template)
    lengths = [count.prompt for count in counts]
    for number in sorted(range(len(tweets)), key=lambda number: abs(lengths[number] - tokens)):
        case = case_of(model, probe, tweets[number], TraceSettings())
        if health_of(verdicts(model, [case])[0]).ok:
            return tweets[number], lengths[number]
    raise SystemExit("There is no tweet whose cells may be read.")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default=f"{EMBEDDED},gpt2")
    parser.add_argument("--tokens", default="10,20,40,64")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS / "anytime.json")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            if name == EMBEDDED:
                model = core.load_model(EMBEDDED)
                kept = kept_probes(model.identity)
                probe = next(one for one in kept if one.features == "logit_pair")
            else:
                make_model(find_shape(name), Path(folder, name))
                model = core.load_model(str(Path(folder, name)))
                probe = probe_of(model)
            for tokens in map(int, options.tokens.split(",")):
                if name == EMBEDDED:
                    tweet, length = tweet_of(model, probe, tokens)
                else:
                    tweet, length = make_tweet(model.tokenizer, tokens)[0], tokens
                found = measure(model, probe, tweet, options.samples)
                row = {"model": name, "tokens": length, **found}
                rows.append(row)
                say(f"{row}")
                settings = {"samples": options.samples}
                save(options.output, {"machine": describe(), "options": settings, "rows": rows})


if __name__ == "__main__":
    main()
