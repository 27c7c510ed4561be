"""Do the numbers stay what they were? Results of earlier code, recomputed by today's.

`numbers.json` was made before `core` was divided into packages, by
`python tests/system/test_numbers.py`. It is not made again to please this test: only when numbers
are meant to change, with the engine's version. On another machine sums have another order, so that
floats agree to a tolerance; SENTITRACE_EXACT=1 asks for every bit, on the machine that made the
file.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_models import make_model
from tiny_probes import make_probe

import core
from core import TraceSettings
from core.interventions.key_covariance import key_covariances
from core.interventions.rome import EditSettings, make_edits, sample_prefixes
from core.models.registry import EMBEDDED
from core.probes.library import default_probes
from core.prompts.prompt import build_prompt

FILE = Path(__file__).with_name("numbers.json")
TWEET = "My flight got cancelled, terrible service"
LONG_TWEET = "My flight got cancelled and I love waiting here for hours, terrible service"
SETTINGS = {
    "noise": TraceSettings(samples=3),
    "uniform": TraceSettings(samples=2, corruption="uniform", seed=5),
    "mean": TraceSettings(corruption="mean", proxy="log_ratio"),
    "counterfactual": TraceSettings(
        corruption="counterfactual", counterfactual=TWEET.replace(",", ".")
    ),
    "noising": TraceSettings(samples=2, direction="corrupt", window=1),
    "frozen mlp": TraceSettings(kinds=("hidden",), samples=2, severed="mlp"),
    "a word, every 2nd layer": TraceSettings(samples=2, corrupt="word:4", every=2),
}
TEXTS = [f"{text} {number}" for number in range(8) for text in ("good day", "bad bad", "great!")]
LABELS = [1, 0, 1] * 8
EMBEDDED_SETTINGS = TraceSettings(samples=1, every=10)

Numbers = dict[str, list[float]]


def flat(values) -> list[float]:
    return np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-1e9).ravel().tolist()


def of_trace(result) -> Numbers:
    found = {"clean": flat(result.high), "corrupted": flat(result.low_samples)}
    return found | {kind: flat(effects) for kind, effects in result.effects.items()}


def tiny_traces() -> dict[str, Numbers]:
    found = {}
    for family in ("gpt2", "llama", "gpt_neox"):
        model = make_model(family, layers=3)
        for name, settings in SETTINGS.items():
            result = core.trace(model, make_probe(model), TWEET, settings)
            found[f"{family}, {name}"] = of_trace(result)
    return found


def tiny_probe() -> dict[str, Numbers]:
    tweets = pd.DataFrame({"text": TEXTS, "label": LABELS})
    found = {}
    for features in ("logit_pair", "probabilities", "hidden"):
        probe = core.train_probe(make_model("gpt2"), tweets, features=features, folds=3)
        found[f"probe of {features}"] = {
            "coefficients": flat(probe.coefficients),
            "held out": flat(probe.report.log_odds),
            "scores": flat([score.value for score in probe.report.scores.values()]),
            "by layer": flat([point.accuracy.value for point in probe.report.layers]),
        }
    return found


def tiny_average() -> dict[str, Numbers]:
    model = make_model("gpt2", layers=3)
    texts = [f"{word} day, {word} service {n}" for n in range(4) for word in ("good", "awful")]
    results = [
        core.trace(model, make_probe(model), text, TraceSettings(samples=2)) for text in texts
    ]
    frame = core.average_effects(results)
    columns = ("mean", "lower", "upper", "n")
    return {"average": {column: flat(frame[column]) for column in columns}}


def tiny_edit() -> dict[str, Numbers]:
    model = make_model("gpt2")
    prompt = build_prompt(model, TWEET)
    position = next(w.tokens[-1] for w in prompt.words if w.text == "terrible")
    covariance = key_covariances(model, TEXTS, [1])[1]
    settings = EditSettings(target=" good", prefixes=2, steps=3)
    prefixes = sample_prefixes(model, 2)
    (edit,) = make_edits(
        model, prompt, [(1, position)], {1: covariance}, settings, prefixes=prefixes
    )
    return {
        "edit": {
            "covariance": flat(covariance.matrix[:4, :4]),
            "direction": flat(edit.direction[:8]),
            "factor": flat(edit.factor[:8]),
        }
    }


def embedded(model, probe) -> dict[str, Numbers]:
    found = {"embedded": of_trace(core.trace(model, probe, LONG_TWEET, EMBEDDED_SETTINGS))}
    noising = replace(EMBEDDED_SETTINGS, direction="corrupt", every=15)
    return found | {"embedded, noising": of_trace(core.trace(model, probe, LONG_TWEET, noising))}


def assert_same(found: dict[str, Numbers], *, tolerance: float) -> None:
    kept = json.loads(FILE.read_text())
    assert found
    for name, numbers in found.items():
        assert numbers.keys() == kept[name].keys()
        for what, values in numbers.items():
            before = kept[name][what]
            if os.environ.get("SENTITRACE_EXACT"):
                assert values == before, (name, what)
            np.testing.assert_allclose(values, before, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("made", [tiny_traces, tiny_probe, tiny_average, tiny_edit])
def test_tiny_models_give_the_numbers_that_they_gave(made):
    assert_same(made(), tolerance=2e-4)


@pytest.mark.embedded
def test_the_embedded_model_gives_the_numbers_that_it_gave(embedded_model):
    (probe,) = [one for one in default_probes() if one.features == "logit_pair"]
    assert_same(embedded(embedded_model, probe), tolerance=2e-3)


def main() -> None:
    from core.models.loading import load_model

    model = load_model(EMBEDDED)
    (probe,) = [one for one in default_probes() if one.features == "logit_pair"]
    found = embedded(model, probe)
    for made in (tiny_traces, tiny_probe, tiny_average, tiny_edit):
        found |= made()
    FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    sys.exit(main())
