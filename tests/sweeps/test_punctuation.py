"""The ablation of punctuation equals plain passes of a changed model, group by group."""

from functools import partial

import numpy as np
import pytest
from tiny_models import make_model
from tiny_probes import make_probe

from core.interventions.forward import read_texts
from core.models.model import Change
from core.prompts.prompt import build_prompt
from core.sweeps.punctuation import GROUPS, ablation, groups_of
from core.tracing.corruption import readout_of
from core.tracing.result import read_proxy

LAYERS = 4
TEXTS = [
    f"{first} day , my {second} was here , and I got {third} service again"
    for first in ("great", "awful", "happy")
    for second in ("flight", "day")
    for third in ("bad", "terrible")
]


@pytest.fixture(scope="module")
def model():
    return make_model("llama", layers=LAYERS)


def _set_to(mean, values):
    return values.new_tensor(mean).expand_as(values)


def test_groups_are_as_large_as_punctuation_and_apart(model):
    prompt = build_prompt(model, TEXTS[0])
    groups = groups_of(prompt)
    marks = [prompt.words[prompt.tokens[t].word].text for t in groups["punctuation"]]
    assert set(marks) == {","}
    assert len(groups["other"]) == len(groups["punctuation"])
    assert not set(groups["other"]) & {*groups["punctuation"], *groups["sentiment"]}
    assert groups["sentiment"]
    assert max(groups["other"]) < max(prompt.tweet_span)


@pytest.mark.parametrize("text", ["no marks here", "what ! a day", "so it ends ."])
def test_no_group_without_plain_punctuation_inside(model, text):
    assert groups_of(build_prompt(model, text)) == {}


def test_losses_equal_those_of_a_changed_model(model):
    probe = make_probe(model)
    found = ablation(model, probe, [*TEXTS, "no marks here"], every=1)
    assert set(found["n"]) == {len(TEXTS)}
    prompts = [build_prompt(model, text) for text in TEXTS]
    states: dict[int, list[np.ndarray]] = {}

    def record(layer):
        def keep(values):
            states.setdefault(layer, []).append(values[0].double().numpy().copy())
            return values

        return Change(layer, "hidden", keep)

    readout = readout_of(model, probe)

    def odds(text):
        return float(read_proxy("log_odds", probe, read_texts(model, readout, [text])[0]))

    clean = []
    with model.changed([record(layer) for layer in range(LAYERS - 1)]):
        clean = [odds(text) for text in TEXTS]
    for group in GROUPS:
        places = [groups_of(prompt)[group] for prompt in prompts]
        means = {
            layer: np.concatenate([s[p] for s, p in zip(kept, places, strict=True)]).mean(0)
            for layer, kept in states.items()
        }
        for start in range(LAYERS - 1):
            losses = []
            for text, place, was in zip(TEXTS, places, clean, strict=True):
                changes = [
                    Change(layer, "hidden", partial(_set_to, means[layer]), place)
                    for layer in range(start, LAYERS - 1)
                ]
                with model.changed(changes):
                    losses.append((was - odds(text)) * np.sign(was))
            row = found[(found["group"] == group) & (found["layer"] == start)]
            assert row["mean"].item() == pytest.approx(np.mean(losses), abs=2e-5)
            assert row["lower"].item() <= row["mean"].item() <= row["upper"].item()


def test_too_few_tweets_are_refused(model):
    with pytest.raises(ValueError, match="Only 3 of these 4 tweets .* take more tweets"):
        ablation(model, make_probe(model), [*TEXTS[:3], "no marks here"])
