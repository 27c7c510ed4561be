"""How often does a settled trace say something else than the whole one, and how much work is it?

    python -m benchmarks.settled [--tweets N] [--longest TOKENS] [--output FILE]

On the embedded model and N of its tweets, drawn at random among those of prompts not longer than
TOKENS that the verdict lets pass (`core.tracing.findings.health_of`). Each is traced whole, with
three kinds and 10 noise samples; what a trace that ends when it is settled would have is taken from
the same cells. Counted:

- tweets of which a site is at another token or in another layer, or there in one of the two alone,
  in all and by stage and kind;
- tweets of which the largest cell of a kind is another one;
- cells that both have and that only one of them calls significant, as a share of those cells;
- the work until the answer is settled, as a share of the whole trace's (states that blocks are run
  on).

Whole traces are kept in the cache folder and found again. What is found is written after every
tweet.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import core
from benchmarks.machine import RESULTS, describe, save, say
from core.models.model import Model
from core.models.registry import EMBEDDED
from core.patching.sites import KINDS
from core.probes.library import kept_probes
from core.probes.probe import Probe
from core.tracing.coarse_to_fine import cells_to_settle, coarse_layers, work_of
from core.tracing.corruption import case_of
from core.tracing.findings import STAGES, findings, health_of, significant_cells
from core.tracing.result import Reads, TraceResult, TraceSettings
from core.tracing.verdict import verdicts

ASKED = TraceSettings()
SEED = 1


def settled_of(whole: TraceResult) -> TraceResult:
    """What the trace would have had when it was settled."""
    coarse = np.isin(np.arange(whole.layers), coarse_layers(whole.layers, whole.settings))
    needed = cells_to_settle(whole)
    restored = {
        kind: np.where((needed[kind] | coarse[:, None])[None, :, :, None], read, np.nan)
        for kind, read in whole.reads.restored.items()
    }
    return replace(whole, reads=Reads(whole.reads.clean, whole.reads.corrupted, restored))


def compared(whole: TraceResult) -> dict[str, Any]:
    """One tweet."""
    settled = settled_of(whole)
    found = [findings(result) for result in (whole, settled)]
    sites = [
        {(site.stage, site.kind): (site.position, site.layer) for site in (*one.early, *one.late)}
        for one in found
    ]
    places = [{key: position for key, (position, _) in one.items()} for one in sites]
    told = [significant_cells(result) for result in (whole, settled)]
    other = sum(
        int((told[0][kind] != told[1][kind])[there].sum()) for kind, there in settled.traced.items()
    )
    return {
        "tokens": len(whole.prompt),
        "sites": sites[0] == sites[1],
        "other sites": [
            f"{stage} {kind}"
            for stage in STAGES
            for kind in KINDS
            if sites[0].get((stage, kind)) != sites[1].get((stage, kind))
        ],
        "tokens of sites": places[0] == places[1],
        "top cells": whole.top_cells == settled.top_cells,
        "significant otherwise": other / sum(there.sum() for there in settled.traced.values()),
        "work": work_of(whole, settled.traced) / work_of(whole, whole.traced),
        "named": len(sites[0]),
    }


def texts_of(model: Model, probe: Probe, number: int, longest: int) -> list[str]:
    """Tweets whose cells may be read."""
    tweets = core.load_dataset("vader-tweets").sample(frac=1.0, random_state=SEED)
    texts: list[str] = []
    for text in tweets["text"]:
        case = case_of(model, probe, text, ASKED)
        if len(case.prompt) <= longest and health_of(verdicts(model, [case])[0]).ok:
            texts.append(text)
        if len(texts) == number:
            break
    return texts


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tweets", type=int, default=40)
    parser.add_argument("--longest", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "settled.json")
    options = parser.parse_args()
    model = core.load_model(EMBEDDED)
    probe = next(one for one in kept_probes(model.identity) if one.features == "logit_pair")
    rows: list[dict[str, Any]] = []
    for text in texts_of(model, probe, options.tweets, options.longest):
        rows.append(compared(core.trace(model, probe, text, ASKED, keep=True)))
        summary = {
            "tweets": len(rows),
            "other sites": sum(not row["sites"] for row in rows),
            "by kind": Counter(name for row in rows for name in row["other sites"]),
            "sites at other tokens": sum(not row["tokens of sites"] for row in rows),
            "other largest cells": sum(not row["top cells"] for row in rows),
            "significant otherwise": float(np.mean([row["significant otherwise"] for row in rows])),
            "work": float(np.median([row["work"] for row in rows])),
        }
        settings = {"longest": options.longest}
        found = {"machine": describe(), "options": settings, "rows": rows}
        save(options.output, found | {"summary": summary})
        say(f"{summary}")


if __name__ == "__main__":
    main()
