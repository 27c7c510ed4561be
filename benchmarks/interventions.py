"""Does the location matter? Interventions on held-out tweets, each beside its control.

    python -m benchmarks.interventions [--edits N] [--curves N] [--minutes M]
                                       [--parts LIST] [--more] [--output FILE]

On the embedded model and its tweets. Probe and directions are fitted on four fifths of the tweets;
everything is judged on tweets of the fifth (`core.interventions.judging`).

1. Ablating the sentiment direction of the best layer: what is left of the proxy's accuracy, against
   random directions.
2. Steering: which share of tweets is flipped, at what cost in perplexity, against random
   directions of the same length.
3. ROME edits at the early site (the largest MLP cell among the tweet's tokens in the first two
   thirds of the layers) against one random site of the same role and layer; and ablating the three
   largest MLP cells against matched ones.
4. Edits at several layers of the early site's token: how does efficacy go with the traced effect?

What is found is written after every tweet, so that a run that is ended early leaves its results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import core
from benchmarks.machine import RESULTS, describe, save, say
from core.interventions.forward import surprise
from core.interventions.judging import (
    Estimate,
    HeldOut,
    estimate,
    flipped,
    hold_out,
    log_odds_under,
    mean_of,
    moved,
    perplexity_ratio,
    share_of,
    surprise_under,
)
from core.interventions.key_covariance import KeyCovariance, key_covariances
from core.interventions.plan import early_site
from core.interventions.rome import EditSettings, make_edits, sample_prefixes, word_at
from core.interventions.steering import (
    DirectionAblation,
    Editing,
    SiteAblation,
    Steering,
    matched_positions,
    matched_sites,
    random_like,
    top_sites,
)
from core.models.loading import load_model
from core.models.model import Model
from core.models.registry import EMBEDDED, is_on_disk
from core.probes.library import probe_for
from core.probes.training import LAYER_PENALTY, one_thread, regression
from core.prompts.prompt import build_prompt
from core.statistics import spearman
from core.tracing.result import TraceSettings

DATA = "vader-tweets"
ABLATED, STEERED, NEUTRAL = 100, 60, 20  # texts
RANDOM = 3  # random directions
STRENGTHS = (0.5, 1.0, 2.0)
LONGEST = 40  # tokens of a prompt that is edited
OTHERS, SAME_WORD, CALM = 6, 3, 6  # texts beside each edited one
TRACE = TraceSettings(kinds=("mlp",), samples=4)
CURVE_LAYERS = 5
EDIT = EditSettings(prefixes=2)
SILENCED = 3  # cells

Save = Callable[[], None]


def numbers(found: Estimate) -> dict[str, float | None]:
    """An estimate as JSON, which knows no NaN."""
    return {name: None if value != value else value for name, value in asdict(found).items()}


def ablation(model: Model, held: HeldOut, layer: int, found: dict[str, Any], keep: Save) -> None:
    """The proxy's accuracy without a direction, on held-out tweets."""
    rows = held.test[:ABLATED]
    texts, labels = [held.texts[row] for row in rows], held.labels[rows]
    states = held.states(layer)

    def right(intervention: Any) -> np.ndarray:
        return (log_odds_under(model, held.probe, texts, intervention) > 0) == (labels == 1)

    before = right(None)
    found["ablation"] = {
        "layer": layer,
        "before": numbers(share_of(before)),
        "majority": float(max(labels.mean(), 1 - labels.mean())),
        "arms": [],
    }
    for onwards in (False, True):
        layers = tuple(range(layer, model.layers)) if onwards else None
        controls = np.stack(
            [
                right(
                    DirectionAblation(
                        random_like(held.direction(model, "means", layer), states, seed),
                        layers=layers,
                    )
                )
                for seed in range(RANDOM)
            ]
        )
        random = controls.mean(0)  # per tweet, share of the random directions that leave it right
        arms = {"random": random}
        for source in ("probe", "means", "words"):
            direction = held.direction(model, source, layer)
            arms[source] = right(DirectionAblation(direction, layers=layers)).astype(float)
        for name, after in arms.items():
            found["ablation"]["arms"].append(
                {
                    "direction": name,
                    "onwards": onwards,
                    "accuracy": numbers(mean_of(after)),
                    "lost": numbers(mean_of(before - after)),
                    "lost_beyond_random": numbers(mean_of(random - after)),
                }
            )
            say(f"ablate {name}{' onwards' if onwards else ''}: {after.mean():.1%}")
        keep()


def steering(model: Model, held: HeldOut, layer: int, found: dict[str, Any], keep: Save) -> None:
    """Tweets flipped by steering, and what it costs in perplexity."""
    texts = [held.texts[row] for row in held.test[:STEERED]]
    before = log_odds_under(model, held.probe, texts)
    neutral = held.neutral[:NEUTRAL]
    calm = surprise(model, neutral)
    own = held.direction(model, "means", layer)
    found["steering"] = {
        "layer": layer,
        "neutral": len(neutral),
        "perplexity": calm.perplexity,
        "arms": [],
    }
    for strength in STRENGTHS:
        for name, direction in (
            ("means", own),
            ("random", random_like(own, held.states(layer), 0)),
        ):
            after, costs = np.empty(len(texts)), []
            for sign, chosen in ((1.0, before < 0), (-1.0, before >= 0)):
                steered = Steering(direction, sign * strength)
                part = [text for text, own in zip(texts, chosen, strict=True) if own]
                after[chosen] = log_odds_under(model, held.probe, part, steered)
                costs.append(perplexity_ratio(calm, surprise_under(model, neutral, steered)))
            hits = flipped(before, after, "either")
            found["steering"]["arms"].append(
                {
                    "direction": name,
                    "strength": strength,
                    "flips": numbers(share_of(hits)),
                    "to_positive": numbers(share_of((after > 0)[before < 0])),
                    "to_negative": numbers(share_of((after < 0)[before >= 0])),
                    "perplexity_to_positive": numbers(costs[0]),
                    "perplexity_to_negative": numbers(costs[1]),
                }
            )
            say(f"steer {name} {strength:g}: {hits.mean():.0%}, perplexity x {costs[0].value:.2f}")
        keep()


def edits(
    model: Model,
    held: HeldOut,
    tweets: int,
    curves: int,
    until: float,
    found: dict[str, Any],
    keep: Save,
) -> None:
    """ROME at the early site and at a matched one; silenced cells; and curves over layers."""
    prefixes = sample_prefixes(model, EDIT.prefixes, seed=EDIT.seed)
    order = np.random.default_rng(0).permutation(held.test)
    layers = [round(layer) for layer in np.linspace(0, model.layers - 2, CURVE_LAYERS)]
    covariances: dict[int, KeyCovariance] = {}

    def known(wanted: list[int]) -> dict[int, KeyCovariance]:
        missing = [layer for layer in wanted if layer not in covariances]
        covariances.update(key_covariances(model, held.training_texts, missing, keys=EDIT.keys))
        return covariances

    # What an earlier run has measured in the same way is not measured again.
    nothing: dict[str, list[int]] = {"long": [], "no effect": [], "no match": []}
    before_this = found.get("edits", {"rows": [], "skipped": nothing})
    rows: list[dict[str, Any]] = before_this["rows"]
    points: list[dict[str, Any]] = found.get("curve", {"points": []})["points"]
    skipped: dict[str, list[int]] = before_this["skipped"]
    met = {each["row"] for each in rows} | {each for part in skipped.values() for each in part}
    neutral = held.neutral[:CALM]
    calm = surprise(model, neutral)
    for row in order:
        if len(rows) == tweets or time.perf_counter() > until:
            break
        text = held.texts[row]
        if int(row) in met:
            continue
        prompt = build_prompt(model, text, held.probe.template)
        if len(prompt) > LONGEST:
            skipped["long"].append(int(row))
            continue
        began = time.perf_counter()
        traced = core.trace(model, held.probe, text, TRACE)
        layer, position = early_site(traced)
        matches = matched_positions(prompt, position)
        if not traced.distinguishable:
            skipped["no effect"].append(int(row))
            continue
        if not matches:
            skipped["no match"].append(int(row))
            continue
        wanted = "negative" if traced.high > 0 else "positive"
        settings = EditSettings(
            **{**asdict(EDIT), "target": held.probe.words[wanted == "negative"]}
        )
        other = matches[int(np.random.default_rng(int(row)).integers(len(matches)))]
        swept = sorted({layer, *layers}) if len(points) < curves * len(layers) else [layer]
        sites = [(layer, other), *((each, position) for each in swept)]
        matched, *at_site = make_edits(
            model, prompt, sites, known(swept), settings, prefixes=prefixes
        )
        before = np.array([traced.high])
        share = traced.effects["mlp"] / traced.total_effect
        word = word_at(prompt, position)
        judged = held.judged_by(text, word, count=OTHERS, seed=int(row))
        same = judged.same_word[:SAME_WORD]
        same_before = log_odds_under(model, held.probe, same)
        others_before = log_odds_under(model, held.probe, judged.others)
        measured: dict[str, Any] = {
            "row": int(row),
            "tokens": len(prompt),
            "layer": layer,
            "role_matches": len(matches),
            "effect": {"early": share[layer, position], "random": share[layer, other]},
        }
        by_layer = {edit.layer: edit for edit in at_site}
        for name, edit in (("early", by_layer[layer]), ("random", matched)):
            made = Editing(edit)
            after = log_odds_under(model, held.probe, [text], made)
            same_after = log_odds_under(model, held.probe, same, made)
            others_after = log_odds_under(model, held.probe, judged.others, made)
            noisy = surprise_under(model, neutral, made)
            measured[name] = {
                "probability": edit.probability,
                "moves": float(moved(before, after, wanted)[0]),
                "flips": bool(flipped(before, after, wanted)[0]),
                "same_word_moves": moved(same_before, same_after, wanted).tolist(),
                "others_keep": ((others_before > 0) == (others_after > 0)).tolist(),
                "others_move": moved(others_before, others_after, wanted).tolist(),
                "perplexity": perplexity_ratio(calm, noisy).value,
            }
        sites = top_sites(traced, "mlp", SILENCED)
        for name, chosen in (
            ("silenced_top", sites),
            ("silenced_random", matched_sites(model, prompt, sites, seed=int(row))),
        ):
            after = log_odds_under(model, held.probe, [text], SiteAblation(tuple(chosen)))
            measured[name] = {
                "moves": float(moved(before, after, wanted)[0]),
                "flips": bool(flipped(before, after, wanted)[0]),
            }
        if len(swept) > 1:
            for edit in at_site:
                if edit.layer in layers:
                    after = log_odds_under(model, held.probe, [text], Editing(edit))
                    points.append(
                        {
                            "tweet": len(rows),
                            "layer": edit.layer,
                            "effect": float(share[edit.layer, position]),
                            "moves": float(moved(before, after, wanted)[0]),
                            "flips": bool(flipped(before, after, wanted)[0]),
                        }
                    )
        rows.append(measured)
        found["edits"] = edit_summary(rows, skipped)
        found["curve"] = curve_summary(points)
        keep()
        say(
            f"{len(rows)} of {tweets}: layer {layer}, early {measured['early']['moves']:+.1f}, "
            f"random {measured['random']['moves']:+.1f} ({time.perf_counter() - began:.0f} s)"
        )


def edit_summary(rows: list[dict[str, Any]], skipped: dict[str, list[int]]) -> dict[str, Any]:
    """Estimates over the edited tweets, paired where two arms are compared."""
    arms = {}
    for name in ("early", "random", "silenced_top", "silenced_random"):
        part = [row[name] for row in rows]
        arms[name] = {
            "flips": numbers(share_of(np.array([each["flips"] for each in part]))),
            "moves": numbers(mean_of(np.array([each["moves"] for each in part]))),
        }
        if "perplexity" not in part[0]:
            continue
        same = [np.mean(each["same_word_moves"]) for each in part if each["same_word_moves"]]
        kept = [np.mean(each["others_keep"]) for each in part]
        spread = [np.mean(each["others_move"]) for each in part]
        arms[name] |= {
            "same_word_moves": numbers(mean_of(np.array(same))),
            "others_keep": numbers(mean_of(np.array(kept))),
            "others_move": numbers(mean_of(np.array(spread))),
            "perplexity": numbers(mean_of(np.array([each["perplexity"] for each in part]))),
            "effect": numbers(mean_of(np.array([row["effect"][name] for row in rows]))),
        }
    pairs = {
        "edit": np.array([row["early"]["moves"] - row["random"]["moves"] for row in rows]),
        "silence": np.array(
            [row["silenced_top"]["moves"] - row["silenced_random"]["moves"] for row in rows]
        ),
    }
    effects = np.array([row["effect"]["early"] for row in rows])
    moves = np.array([row["early"]["moves"] for row in rows])
    return {
        "n": len(rows),
        "skipped": skipped,
        "layers": sorted(row["layer"] for row in rows),
        "arms": arms,
        "differences": {name: numbers(mean_of(values)) for name, values in pairs.items()},
        "correlation_over_tweets": numbers(
            estimate(lambda chosen: spearman(effects[chosen], moves[chosen]), len(rows))
        ),
        "rows": rows,
    }


def curve_summary(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Efficacy by layer; rank correlations within each tweet, over its layers, and their mean."""
    by_tweet: dict[int, list[dict[str, Any]]] = {}
    for point in points:
        by_tweet.setdefault(point["tweet"], []).append(point)
    within = np.array(
        [
            spearman(
                np.array([point["effect"] for point in own]),
                np.array([point["moves"] for point in own]),
            )
            for own in by_tweet.values()
        ]
    )
    within = within[np.isfinite(within)]
    layers = []
    for layer in sorted({point["layer"] for point in points}):
        own = [point for point in points if point["layer"] == layer]
        layers.append(
            {
                "layer": layer,
                "effect": numbers(mean_of(np.array([point["effect"] for point in own]))),
                "moves": numbers(mean_of(np.array([point["moves"] for point in own]))),
                "flips": numbers(share_of(np.array([point["flips"] for point in own]))),
            }
        )
    return {
        "n": len(by_tweet),
        "correlation_within": numbers(mean_of(within)),
        "layers": layers,
        "points": points,
    }


def best_layer(held: HeldOut) -> int:
    """The layer whose states predict the label best, within the training part alone."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import cross_val_predict

    labels = held.labels[held.train]
    losses = []
    with one_thread():
        for layer in range(held.encoding.layers):
            predicted = cross_val_predict(
                regression(LAYER_PENALTY), held.states(layer), labels, cv=3, method="predict_proba"
            )
            losses.append(log_loss(labels, predicted, labels=[0, 1]))
    return int(np.argmin(losses))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--edits", type=int, default=50, help="Tweets that are edited.")
    parser.add_argument("--curves", type=int, default=3, help="Of these, over several layers.")
    parser.add_argument(
        "--parts",
        default="ablation,steering,edits",
        help="Measure only these anew; the others stay as the output file has them.",
    )
    parser.add_argument(
        "--more", action="store_true", help="Go on with the edits of the output file."
    )
    parser.add_argument("--minutes", type=float, default=600.0, help="Begin no edit after these.")
    parser.add_argument("--output", type=Path, default=RESULTS / "interventions.json")
    options = parser.parse_args()
    if not is_on_disk(EMBEDDED):
        raise SystemExit("The embedded model is not prepared: run `make setup` first.")
    began = time.perf_counter()
    model, tweets = load_model(EMBEDDED), core.load_dataset(DATA)
    everything = core.load_dataset(DATA, min_rating=0.0)
    held = hold_out(
        model,
        tweets,
        probe_for(model, tweets, dataset=DATA),
        neutral=list(everything["text"][everything["rating"].abs() < 0.5]),
    )
    report = held.probe.report
    say(f"probe: {report.accuracy:.1%} of {report.n} held-out tweets")
    layer = best_layer(held)
    say(f"best layer: {layer}")
    parts = options.parts.split(",")
    there = json.loads(options.output.read_text()) if options.output.exists() else {}
    found: dict[str, Any] = {
        name: part for name, part in there.items() if options.more or name not in parts
    }
    if not options.more:
        found.pop("curve", None) if "edits" in parts else None
    found |= {
        "machine": describe(),
        "options": {
            "edits": options.edits,
            "curves": options.curves,
            "edit": asdict(EDIT),
            "trace_samples": TRACE.samples,
            "ablated": ABLATED,
            "steered": STEERED,
            "random_directions": RANDOM,
            "others": OTHERS,
            "same_word": SAME_WORD,
            "neutral": [NEUTRAL, CALM],
            "silenced": SILENCED,
        },
        "probe": {
            "accuracy": numbers(
                Estimate(report.accuracy, report.accuracy_low, report.accuracy_high, report.n)
            ),
            "train": len(held.train),
        },
        "layer": layer,
    }

    def keep() -> None:
        save(options.output, found)

    if "ablation" in parts:
        ablation(model, held, layer, found, keep)
    if "steering" in parts:
        steering(model, held, layer, found, keep)
    if "edits" in parts:
        until = began + 60 * options.minutes
        edits(model, held, options.edits, options.curves, until, found, keep)
    say(f"done in {(time.perf_counter() - began) / 60:.0f} min")


if __name__ == "__main__":
    main()
