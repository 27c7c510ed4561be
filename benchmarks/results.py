"""What did the benchmarks find? Writes RESULTS.md and its figure from what they measured.

    python -m benchmarks.results

Reads every `results/*.json`; no number of the report is typed by hand. A file `trace-NAME.json`
(for example of another machine or a GPU) becomes a section of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from benchmarks.machine import RESULTS, load
from core.exporting.figure_files import export_figure

HERE = Path(__file__).parent
FIGURE = "growth"
NAMES = {
    "ours": "SentiTrace",
    "plain": "full passes, one per cell",
    "batched": "full passes, 32 rows each",
    "causal-tracer": "causal-tracer",
    "transformer-lens": "TransformerLens, one sample at a time",
    "transformer-lens-batched": "TransformerLens, samples as its batch",
}
KINDS = {"hidden": "hidden", "all": "all three"}
BASE = ("gpt2", 20)  # the case that the goals speak of
LONG = 64


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def machine_line(found: dict[str, Any]) -> str:
    """One sentence about the machine and the versions."""
    machine = found["machine"]
    parts = [
        f"{machine['processor']}, {machine['cores']} cores ({machine['logical_cores']} threads), "
        f"{machine['instructions']}"
    ]
    if "memory" in machine:
        parts.append(f"{machine['memory'] / 2**30:.0f} GiB memory")
    if "gpu" in machine:
        parts.append(machine["gpu"])
    parts += [machine["system"], f"Python {machine['python']}"]
    parts += [f"{name} {version}" for name, version in machine["versions"].items()]
    return "Machine: " + "; ".join(parts) + "."


def _seconds(value: float) -> str:
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def _find(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any] | None:
    return next((r for r in rows if all(r[key] == value for key, value in wanted.items())), None)


def _peaks(found: dict[str, Any]) -> dict[str, float]:
    names = {name for each in found["peaks"] for name in each}
    return {
        name: max(each[name] for each in found["peaks"] if name in each) for name in sorted(names)
    }


# --- sections ------------------------------------------------------------------------------------


def goals(found: dict[str, Any]) -> list[str]:
    """What the project set itself, and what came out; left out where it was not measured."""
    rows = found["rows"]
    peaks = _peaks(found)
    shape, tokens = BASE
    case = {"shape": shape, "tokens": tokens}
    ours = _find(rows, way="ours", kinds="hidden", **case)
    every = _find(rows, way="ours", kinds="all", **case)
    lines: list[Sequence[str]] = []

    def goal(what: str, value: float, wanted: str, reached: bool) -> None:
        lines.append((what, f"{value:.2f}", wanted, "yes" if reached else "no"))

    for way, least in (("plain", 8), ("causal-tracer", 8), ("transformer-lens", 15)):
        short = _find(rows, way=way, kinds="hidden", **case)
        long = _find(rows, way=way, kinds="hidden", shape=shape, tokens=LONG)
        if short is None:
            continue
        name = f"{NAMES[way]}: times as long as SentiTrace"
        goal(
            f"{name}, {tokens} tokens", short["ratio"], f"at least {least}", short["ratio"] >= least
        )
        if long is not None:
            reached = long["ratio"] >= short["ratio"]
            goal(f"{name}, {LONG} tokens", long["ratio"], "no smaller", reached)
    if ours is not None and found["options"]["device"] == "cpu":
        for name, value in peaks.items():
            share = ours["gflops"] / value
            goal(
                f"share of the matrix peak ({name} product), {tokens} tokens, hidden",
                share,
                "at least 0.85",
                share >= 0.85,
            )
    if ours is not None and every is not None:
        times = every["seconds"] / ours["seconds"]
        goal(
            f"all three kinds: times hidden alone, {tokens} tokens",
            times,
            "at most 3.5",
            times <= 3.5,
        )
        first = every["first_picture"]
        goal(
            f"first whole picture of all three kinds: share of the trace, {tokens} tokens",
            first,
            "at most 0.12",
            first <= 0.12,
        )
    if not lines:
        return []
    return [
        "### Goals",
        "",
        *table(("GPT-2 small's shape", "measured", "goal", "reached"), lines),
        "",
    ]


def ours_alone(found: dict[str, Any]) -> list[str]:
    """SentiTrace's own times: operations, share of the peak, first picture, memory."""
    peaks = _peaks(found)
    on_cpu = found["options"]["device"] == "cpu"
    named = list(peaks) if on_cpu else []
    lines = []
    for row in (row for row in found["rows"] if row["way"] == "ours"):
        hidden = _find(
            found["rows"], way="ours", kinds="hidden", shape=row["shape"], tokens=row["tokens"]
        )
        cells = [
            row["shape"],
            str(row["tokens"]),
            KINDS[row["kinds"]],
            _seconds(row["seconds"]),
            f"{_seconds(row['fastest'])} - {_seconds(row['slowest'])}",
            f"{row['seconds'] / hidden['seconds']:.2f}" if hidden else "",
            f"{row['first_picture']:.1%}",
            f"{row['operations'] / 1e12:.3g}",
            f"{row['gflops']:,.0f}",
            *(f"{row['gflops'] / peaks[name]:.0%}" for name in named),
            _megabytes(row["memory"].get("device_peak", row["memory"].get("tracing", 0))),
        ]
        lines.append(cells)
    head = ["shape", "tokens", "kinds", "seconds", "from - to", "times hidden alone"]
    head += ["first picture after", "10^12 operations needed", "GFLOP/s on these"]
    head += [f"share of the {name} peak" for name in named] + ["memory while tracing, MB"]
    text = []
    if on_cpu:
        measured = ", ".join(f"{name} {value:,.0f} GFLOP/s" for name, value in peaks.items())
        text = [
            f"Matrix peak on {found['options']['threads']} threads, measured in the same run: "
            f"{measured}. `plain` is torch's own float32 product, `packed` oneDNN's with stored "
            "weights, which SentiTrace uses; the share of the larger is the honest one. The needed "
            "operations are defined in the docstring of `trace.py`.",
            "",
        ]
    return ["### SentiTrace alone", "", *text, *table(head, lines), ""]


def all_ways(found: dict[str, Any]) -> list[str]:
    """Every way on every case."""
    lines = []
    for row in sorted(
        found["rows"],
        key=lambda row: (row["shape"], row["tokens"], row["kinds"] != "hidden"),
    ):
        memory = row["memory"]
        lines.append(
            [
                row["shape"],
                str(row["tokens"]),
                KINDS[row["kinds"]],
                NAMES[row["way"]],
                _seconds(row["seconds"]),
                f"{row['ratio']:.1f}",
                "" if row["difference"] is None else f"{row['difference']:.1e}",
                _megabytes(memory["peak"]),
                _megabytes(memory["peak"] - row["weights"]),
                _megabytes(memory["tracing"]) if "tracing" in memory else "",
                f"{row['measured_cells']} of {row['cells']}",
                f"{row['measured_samples']} of {row['samples']}",
            ]
        )
    head = ["shape", "tokens", "kinds", "way", "seconds", "ratio to ours"]
    head += ["largest difference (nats)", "peak memory, MB", "above the weights, MB"]
    head += ["while tracing, MB", "measured cells", "measured samples"]
    versions = {
        f"{name} {version}"
        for row in found["rows"]
        if row["way"] not in ("ours", "plain", "batched")
        for name, version in row["versions"].items()
        if name in ("causal-tracer", "transformer-lens")
    }
    peers = f" Peers: {', '.join(sorted(versions))}." if versions else ""
    return [
        "### All ways",
        "",
        "Same weights, token ids, noise and samples, each way in a process of its own. Where "
        "'measured cells' (of each kind) or 'measured samples' are fewer than all, the seconds "
        "are those of the measured ones scaled to all: cells evenly spaced over layers and "
        "positions, the first samples. A full pass costs the same whatever the cell. The "
        "difference is the largest of log P(word) after restoration over the measured cells. "
        "TransformerLens has no windows of layers: for all three kinds its time is that of "
        "single layers, and its difference that of hidden." + peers,
        "",
        *table(head, lines),
        "",
    ]


def figure(found: dict[str, Any]) -> alt.VConcatChart | None:
    """Seconds against tokens for every shape, and against layers at GPT-2's width."""
    lines = []
    for rows, across, title in (
        (found["rows"], "tokens", "tokens"),
        (found["growth"], "layers", "layers (GPT-2's width, 20 tokens)"),
    ):
        frame = pd.DataFrame([row for row in rows if row["kinds"] == "hidden"])
        if frame.empty:
            continue
        frame["way"] = frame["way"].map(NAMES)
        ticks = sorted(int(value) for value in frame[across].unique())
        chart = (
            alt.Chart(frame[[across, "seconds", "way", "shape"]])
            .mark_line(point=True)
            .encode(
                alt.X(f"{across}:Q", title=title, axis=alt.Axis(values=ticks)).scale(
                    type="log", nice=False, padding=10
                ),
                alt.Y("seconds:Q", title="seconds (log scale)").scale(type="log"),
                alt.Color("way:N", title=None, sort=list(NAMES.values())).scale(
                    domain=list(NAMES.values()), scheme="tableau10"
                ),
            )
            .properties(width=200, height=220)
        )
        if across == "tokens":
            chart = chart.facet(column=alt.Column("shape:N", title=None))
        lines.append(chart)
    if not lines:
        return None
    return (
        alt.vconcat(*lines)
        .configure_view(stroke=None)
        .configure_legend(labelLimit=0, orient="bottom", columns=1)
    )


def trace_command(name: str, options: dict[str, Any]) -> str:
    """The command of one run of `benchmarks.trace`."""
    said = [f"--output benchmarks/results/{name}.json"]
    for option in ("shapes", "tokens", "kinds", "layers", "repeat", "budget", "our_budget"):
        value = options[option]
        values = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        said.append(f"--{option.replace('_', '-')} {values}".rstrip())
    return f"python -m benchmarks.trace {' '.join(said)}"


def traces(name: str, found: dict[str, Any]) -> list[str]:
    """The sections of one run of `benchmarks.trace`."""
    options = found["options"]
    title = "Traces" if name == "trace" else f"Traces: {name.removeprefix('trace-')}"
    where = f"{options['device']}, {options['dtype']}, {options['threads']} threads"
    lines = [
        f"## {title}",
        "",
        machine_line(found) + f" Run on {found['date']}: {where}, "
        f"{options['samples']} noise samples; load of the machine before it began: "
        f"{found['load']:.2f}. Made by `{trace_command(name, options)}`.",
        "",
    ]
    lines += goals(found) + ours_alone(found) + all_ways(found)
    chart = figure(found)
    if chart is not None:
        path = export_figure(chart, HERE / f"{name.replace('trace', FIGURE, 1)}.svg")
        lines += [
            "### Growth with length and layers",
            "",
            f"![Seconds of a hidden trace against tokens and layers]({path.name})",
            "",
        ]
    return lines


def kernels(found: dict[str, Any]) -> list[str]:
    """Plain against packed products."""
    frame = pd.DataFrame(found["rows"])
    lines = [
        [
            f"{row.weight} ({row.out} x {row.in_})",
            str(row.threads),
            str(row.rows),
            f"{row.plain:,.0f}",
            f"{row.packed:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.difference:.0e}",
        ]
        for row in frame.rename(columns={"in": "in_"}).itertuples()
    ]
    head = ["weight (out x in)", "threads", "rows", "plain GFLOP/s", "packed GFLOP/s", "ratio"]
    return [
        "## Kernels",
        "",
        machine_line(found),
        "",
        "torch's own float32 linear layer against the same with the weight stored in oneDNN's "
        "order (`core/models/packed_weights.py`). The difference is relative to the largest "
        "product.",
        "",
        *table([*head, "largest difference"], lines),
        "",
    ]


def startup(found: dict[str, Any]) -> list[str]:
    """Seconds until something can be traced."""
    goals_of = {"import core": 1.0, "load_model": 3.0, "load_model with its imports": None}
    lines = []
    for name, measured in found["seconds"].items():
        goal = goals_of[name]
        reached = "" if goal is None else "yes" if measured["best"] <= goal else "no"
        wanted = "" if goal is None else f"at most {goal:.0f}"
        lines.append((f"`{name}`", f"{measured['best']:.2f}", wanted, reached))
    return [
        "## Start",
        "",
        machine_line(found),
        "",
        "Best of three fresh processes. `load_model` is the embedded model's; its imports are "
        "torch and transformers.",
        "",
        *table(("", "seconds", "goal", "reached"), lines),
        "",
        "A first visitor of a server that has just started, in a browser on the same machine: "
        "seconds from the first look to the button, and from a press of Run.",
        "",
        *table(
            ("", "until", "seconds"),
            [
                (name, what, f"{value:.2f}")
                for name, seconds in found["first visit"].items()
                for what, value in seconds.items()
            ],
        ),
        "",
    ]


def precision(found: dict[str, Any]) -> list[str]:
    """Number formats: time and error against float32."""
    formats = found["formats"]
    rows = [
        (
            name,
            f"{measured['seconds']:.2f}",
            f"{formats['float32']['seconds'] / measured['seconds']:.2f}",
            f"{measured['error']:.2%}",
        )
        for name, measured in formats.items()
    ]
    return [
        "## Number formats",
        "",
        machine_line(found),
        "",
        f"Hidden trace of one tweet on the embedded model, {found['samples']} samples. The error "
        "is the largest difference of a cell's effect from float32's, as a share of the total "
        "effect. "
        "(`python -m benchmarks.precision`)",
        "",
        *table(("format", "seconds", "times faster", "largest error"), rows),
        "",
    ]


def memory(found: dict[str, Any]) -> list[str]:
    """What a trace needs beyond the weights."""
    return [
        "## Memory",
        "",
        machine_line(found),
        "",
        f"The shape of {found['shape']} ({found['weights'] / 1e9:.2f} GB of weights), "
        f"{found['tokens']} tokens, all three kinds, {found['samples']} sample"
        f"{'s' if found['samples'] != 1 else ''} at once, a budget of "
        f"{found['budget'] / 1e9:.1f} GB: the peak is {found['peak'] / 1e9:.2f} GB beyond the "
        "weights, measured by the operating system at the first corrupted position, which needs "
        "the most (`python -m benchmarks.memory`; goal: at most 4 GB).",
        "",
    ]


def encode(found: dict[str, Any]) -> list[str]:
    """Encoding tweets for a probe."""
    rows = [
        (name, f"{found[way]['seconds']:.1f}", f"{found[way]['cpu_seconds']:.1f}")
        for name, way in (("plain script", "plain"), ("SentiTrace", "ours"))
    ]
    return [
        "## Encoding tweets",
        "",
        machine_line(found),
        "",
        f"{found['tweets']:,} tweets on the embedded model, one way after the other in one process "
        f"(`python -m benchmarks.encode --tweets {found['tweets']}`). SentiTrace is "
        f"{found['ratio']['seconds']:.1f} times as fast; log-probabilities differ by at most "
        f"{found['largest_difference']:.0e} nats.",
        "",
        *table(("way", "seconds", "seconds of processor"), rows),
        "",
    ]


def probes(found: dict[str, Any]) -> list[str]:
    """Probes beside their controls, a table for each data set."""
    lines = [
        "## Probes",
        "",
        machine_line(found),
        "",
        f"Probes of {found['model']} and their controls, judged on held-out texts "
        "(`python -m benchmarks.probes`); in brackets are 95% bootstrap intervals. The controls "
        "that read the model are those of each probe; `core/probes/controls.py` says what each is.",
        "",
    ]
    for data in dict.fromkeys(row["data"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["data"] == data]
        first = rows[0]
        lines += [
            f"### {data}: {first['texts']:,} texts, {first['folds']} folds",
            "",
            *table(
                ("", "accuracy", "balanced accuracy", "macro-F1", "ROC-AUC", "Brier score"),
                [line for row in rows for line in _judged(row, shared=row is first)],
            ),
            "",
            *(f"- {row['features']}: {row['verdict']}" for row in rows),
            "",
            "Accuracy by layer, from 0: "
            + " ".join(f"{100 * accuracy:.1f}" for accuracy in first["layers"])
            + ".",
            "",
        ]
    return lines


def visitors(found: dict[str, Any]) -> list[str]:
    """Several people at one server."""
    rows = [
        ("traces asked", f"{found['asked']}"),
        ("right", f"{found['ended']}"),
        ("errors", f"{found['errors']}"),
        ("lost", f"{found['lost']}"),
        ("another visitor's", f"{found['wrong']}"),
        ("seconds in all", f"{found['seconds']:,.0f}"),
        ("median seconds of a trace, the wait included", f"{found['median']:,.1f}"),
        ("slowest trace, seconds", f"{found['slowest']:,.1f}"),
        ("longest stay over the shortest", f"{found['fairness']:.2f}"),
        ("most memory of the server, MB", _megabytes(found["server_memory"])),
    ]
    many = f"--sessions {found['sessions']} --traces {found['traces']}"
    return [
        "## Several visitors",
        "",
        machine_line(found),
        "",
        f"{found['sessions']} browsers on one server, each tracing {found['traces']} tweets of its "
        f"own on the embedded model with {found['samples']} noise sample"
        f"{'' if found['samples'] == 1 else 's'}, one after the other (`python -m benchmarks.load "
        f"{many}`). The browsers run on the same machine.",
        "",
        *table(("", ""), rows),
        "",
    ]


def paint(found: dict[str, Any]) -> list[str]:
    """How soon pages stand and answer."""
    pages = [
        [
            name.capitalize(),
            *(
                f"{at(one[part] for one in looks):,.0f}"
                for part in ("heading", "rest")
                for at in (statistics.median, max)
            ),
        ]
        for name, looks in found["pages"].items()
    ]
    answers = [
        [name, f"{statistics.median(times):,.0f}", f"{max(times):,.0f}"]
        for name, times in found["answers"].items()
    ]
    return [
        "## Pages in the browser",
        "",
        machine_line(found),
        "",
        f"Milliseconds by the clock of a headless Chromium on the same machine, median and slowest "
        f"of {found['times']}, on a server that has shown each page once (`python -m "
        "benchmarks.paint`). A page: from the navigation of a new visitor to its heading, and to "
        "the last change on it. Goal: 1,500.",
        "",
        *table(("page", "heading", "slowest", "at rest", "slowest"), pages),
        "",
        "An answer that needs no model: from the click to the last change that it makes, that of "
        "the figures included. Goal: 300.",
        "",
        *table(("answer", "median", "slowest"), answers),
        "",
    ]


def anytime(found: dict[str, Any]) -> list[str]:
    """How soon a trace says something."""
    stages = list(found["rows"][0]["stages"])
    lengths = list(dict.fromkeys(str(row["tokens"]) for row in found["rows"]))
    lines = []
    for row in found["rows"]:
        whole = row["stages"]["all cells"]
        cells = [
            f"{_seconds(row['stages'][name])} ({row['stages'][name] / whole:.1%})"
            for name in stages[:-1]
        ]
        lines.append(
            [
                f"{row['model']}, {row['tokens']}",
                *cells,
                _seconds(whole),
                f"{whole / row['plain']:.3f}",
            ]
        )
    return [
        "## Stages of a trace",
        "",
        machine_line(found),
        "",
        f"Three kinds, {found['options']['samples']} noise samples (`python -m benchmarks.anytime "
        f"--tokens {','.join(lengths)}`): seconds until each stage, and its share of the whole "
        "trace. The embedded model traces a tweet, other shapes have random weights. The last "
        "column is the trace from coarse to fine over the same trace sample by sample.",
        "",
        *table(["model, tokens", *stages, "coarse to fine / in turn"], lines),
        "",
    ]


def settled(found: dict[str, Any]) -> list[str]:
    """How often a settled trace says something else than the whole one."""
    said = found["summary"]
    by_kind = ", ".join(f"{name} {count}" for name, count in sorted(said["by kind"].items()))
    return [
        "## Settled answers",
        "",
        machine_line(found),
        "",
        f"{said['tweets']} tweets of the embedded model in prompts of up to "
        f"{found['options']['longest']} tokens (`python -m benchmarks.settled --tweets "
        f"{said['tweets']} --longest {found['options']['longest']}`), each traced whole and as far "
        f"as a trace goes until it is settled, which takes {said['work']:.0%} of the work "
        "(median). A site is at another token, or there in one of "
        f"the two alone, in {said['sites at other tokens']} tweets; at another token or in another "
        f"layer in {said['other sites']} ({by_kind or 'none'}). The largest cell of a kind is "
        f"another one in {said['other largest cells']}. {said['significant otherwise']:.1%} of the "
        "cells that both have are significant in one of the two alone.",
        "",
    ]


def antithetic(found: dict[str, Any]) -> list[str]:
    """What pairs of noise are worth."""
    names = ("total effect", "hidden", "mlp", "attn")
    gains = {name: [row[name] for row in found["rows"]] for name in names}
    return [
        "## Pairs of noise",
        "",
        machine_line(found),
        "",
        f"{len(found['rows'])} tweets of the embedded model in prompts of up to "
        f"{found['options']['longest']} tokens (`python -m benchmarks.antithetic --tweets "
        f"{len(found['rows'])} --longest {found['options']['longest']}`): how many times as many "
        "plain draws a draw and its negative are worth, by the variance of the mean effect. Goal: "
        "1.3, or plain draws stay.",
        "",
        *table(
            ("effect", "median", "lowest", "highest"),
            [
                (name, *(f"{found_by(values):.2f}" for found_by in (statistics.median, min, max)))
                for name, values in gains.items()
            ],
        ),
        "",
    ]


def estimates(found: dict[str, Any]) -> list[str]:
    """How near integrated gradients come to exact cells."""
    corruptions = {
        "counterfactual": "counterfactual",
        "mean": "mean embedding",
        "noise": "Gaussian noise, 1 sample",
    }
    lines = []
    for corruption, name in corruptions.items():
        for steps in sorted({row["steps"] for row in found["rows"]}):
            rows = [
                row
                for row in found["rows"]
                if row["corruption"] == corruption and row["steps"] == steps
            ]
            cells = []
            for kind in ("hidden", "mlp", "attn"):
                near = [row["kinds"][kind] for row in rows]
                correlations = [each["correlation"] for each in near]
                shared = statistics.mean(each["shared"] for each in near)
                cells.append(
                    f"{statistics.median(correlations):.2f} ({min(correlations):.2f} to "
                    f"{max(correlations):.2f}), {shared:.1f}"
                )
            ratio = statistics.median(
                row["seconds"]["exact"] / row["seconds"]["estimate"] for row in rows
            )
            lines.append((name, str(steps), *cells, f"{ratio:.1f}"))
    tweets = len(found["rows"]) // len({(r["corruption"], r["steps"]) for r in found["rows"]})
    return [
        "## Estimates beside exact cells",
        "",
        machine_line(found),
        "",
        f"Integrated gradients along the embeddings, {tweets} tweets of the embedded model in "
        f"prompts of up to {found['options']['longest']} tokens (`python -m benchmarks.estimates "
        f"--tweets {tweets} --longest {found['options']['longest']}`): Spearman's rank correlation "
        "with the exact cells of a tweet (median and range over tweets), how many of the ten "
        "largest cells both have (mean), and how many times as long the exact cells take. Under a "
        "counterfactual the Trace page shows the estimates of five steps until the cells are run; "
        "elsewhere it shows none.",
        "",
        *table(
            ("corruption", "steps", "hidden state", "MLP", "attention", "exact / estimate, time"),
            lines,
        ),
        "",
    ]


def waiting(found: dict[str, Any]) -> list[str]:
    """A trace beside another process."""
    rows = [
        (
            {"active": "spinning", "passive": "passive, as set here"}[policy],
            _seconds(seconds["none"]),
            _seconds(seconds["one busy core"]),
            f"{seconds['one busy core'] / seconds['none']:.2f}",
        )
        for policy, seconds in found["seconds"].items()
    ]
    return [
        "## Beside one busy core",
        "",
        machine_line(found),
        "",
        "Three kinds, one sample, 12 tokens, GPT-2's shape; alone and beside a process that keeps "
        "one core busy, by how OpenMP's threads wait for each other (`python -m "
        "benchmarks.waiting`). Goal: at most 2.2 times as long.",
        "",
        *table(("threads wait", "alone", "beside", "beside / alone"), rows),
        "",
    ]


def verdicts(found: dict[str, Any]) -> list[str]:
    """Of how many tweets the corrupted run loses the sentiment."""
    head, lines = ["probe", "corruption", "tweets", "significant", "can be read"], []
    for features, ways in found["rows"].items():
        tweets = max(counts["predicted"] for counts in ways.values())
        for way, counts in ways.items():
            shares = [counts.get(what, 0) / tweets for what in ("significant", "healthy")]
            lines.append(
                [features, way, str(counts["predicted"]), *(f"{share:.0%}" for share in shares)]
            )
    reached, seconds = found["reached"], found["seconds"]
    best = [f"{reached[what] / reached['predicted']:.0%}" for what in ("significant", "healthy")]
    lines.append(["**any**", "**the best that is offered**", str(reached["predicted"]), *best])
    return [
        "## Verdicts",
        "",
        machine_line(found),
        "",
        f"Of {found['options']['tweets']} tweets drawn at random, by what is corrupted (`python -m "
        "benchmarks.verdicts`): among those whose label a probe predicts, the share whose total "
        "effect is significant towards the prediction (95% t interval over 10 samples; where "
        "nothing is drawn, its sign), and the share whose cells can be read (the health check of "
        "the Trace page). An opposite tweet exists for those that have a word of the list of "
        "antonyms and a counterpart of as many tokens; tweets without one count as not reached. "
        "The last row is the default probe's: any of the rows for its significance, and for the "
        "cells the best that the Trace page offers, by either probe. The default stays the logit "
        "pair under noise, the original experiment: the probe of hidden states can be read of more "
        "tweets, but sees nothing of what the layers above its own do, and the mean embedding has "
        "no intervals; both are offered where the default fails. A verdict took "
        f"{seconds['verdict']:.2f} s, all alternatives {seconds['alternatives']:.1f} s, on a "
        "machine with other work.",
        "",
        *table(head, lines),
        "",
    ]


def drawing(found: dict[str, Any]) -> list[str]:
    """Saving figures with the drawing library in a process of its own, and without."""
    lines = [
        [
            f"{row['size']}, {row['form']}",
            *(_seconds(row["first"][way]) for way in ("here", "own")),
            *(_seconds(row["later"][way]) for way in ("here", "own")),
            f"{row['ratio']:.2f}",
            *(_seconds(row["pause"][way]) for way in ("here", "own")),
        ]
        for row in found["rows"]
    ]
    head = ["", "first, here", "own process", "later, here", "own process", "own / here"]
    pairs = found["options"]["pairs"]
    return [
        "## Saving figures",
        "",
        machine_line(found),
        "",
        "Seconds from a trace's chart to its file, with vl-convert in the program itself and in a "
        "process of its own (`core.charts.renderer`), in one run, one figure here and one there "
        f"(`python -m benchmarks.drawing --pairs {pairs}`): the fastest of {pairs}, and the median "
        "ratio of neighbours. A tweet: 12 layers, 14 tokens, three kinds; long: 30 layers, 64 "
        "tokens. The dashboard starts the process "
        'when it shows a "Save" button, so that a first figure there is a later one here. The '
        "pause is the longest for which no other thread of the program could run.",
        "",
        *table([*head, "pause, here", "own process"], lines),
        "",
    ]


OF_ANY_PROBE = ("the majority class", "the raw rule", "bag of words", "the VADER lexicon")
"""Controls that are the same whatever the probe reads."""


def _judged(row: dict[str, Any], *, shared: bool) -> list[list[str]]:
    """A probe's row and those of its controls; shared ones where they are wanted."""
    at = "" if row["layer"] is None else f", layer {row['layer']}"
    judged = [(f"**{row['features']}{at}**", row["scores"])]
    for control in row["controls"]:
        if control["name"] not in OF_ANY_PROBE:
            judged.append((f"{row['features']}: {control['name']}", control["scores"]))
        elif shared:
            judged.append((control["name"], control["scores"]))
    names = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "brier")
    return [
        [
            name,
            *(
                f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
                for score in (scores[metric] for metric in names)
            ),
        ]
        for name, scores in judged
    ]


def interventions(found: dict[str, Any]) -> list[str]:
    """Interventions on held-out tweets, each beside its control."""
    options, probe = found["options"], found["probe"]
    lines = [
        "## Interventions",
        "",
        machine_line(found),
        "",
        "Does the location matter? On the embedded model and its tweets. Probe "
        "(log P(good) and log P(bad)) and directions are fitted on "
        f"{probe['train']:,} tweets and judged on others; on those the probe is right about "
        f"{_share(probe['accuracy'])} (n = {probe['accuracy']['n']}). In brackets: 95% intervals "
        "over tweets. (`python -m benchmarks.interventions`)",
        "",
    ]
    if "ablation" in found:
        lines += _ablation(found["ablation"], options)
    if "steering" in found:
        lines += _steering(found["steering"])
    if "edits" in found:
        lines += _edits(found["edits"], options)
    if found.get("curve", {}).get("n"):
        lines += _curve(found["curve"])
    return lines


def _ablation(found: dict[str, Any], options: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{DIRECTIONS[arm['direction']]}, that layer{' and all above' * arm['onwards']}",
            _share(arm["accuracy"]),
            _points(arm["lost"]),
            "" if arm["direction"] == "random" else _points(arm["lost_beyond_random"]),
        )
        for arm in found["arms"]
    ]
    return [
        "### Ablating the sentiment direction",
        "",
        f"Projected out of all tokens' states after block {found['layer']}, the layer that "
        "predicts best within the training part. "
        f"The first {found['before']['n']} of the held-out tweets; unchanged, the probe is right "
        f"about {_share(found['before'])}, the majority is {found['majority']:.1%}. Random: mean "
        f"of {options['random_directions']} directions. The component is set to zero and not to "
        "its mean, so that a shift of all tweets to one side is part of what is lost.",
        "",
        *table(
            ("direction", "accuracy left", "points lost", "points lost beyond random ones"), rows
        ),
        "",
    ]


def _steering(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{DIRECTIONS[arm['direction']]}, {arm['strength']:g}",
            _share(arm["flips"]),
            _share(arm["to_positive"]),
            _share(arm["to_negative"]),
            _estimate(arm["perplexity_to_positive"], 3),
            _estimate(arm["perplexity_to_negative"], 3),
        )
        for arm in found["arms"]
    ]
    return [
        "### Steering",
        "",
        f"Added to all tokens' states after block {found['layer']}, each tweet towards the side "
        f"that it is not on (the first {found['arms'][0]['flips']['n']} held-out tweets). One "
        "strength is the distance between the class means; a random direction is as long. "
        f"Perplexity: of {found['neutral']} neutral texts, as a multiple of the unchanged "
        f"model\u2019s ({found['perplexity']:.0f}).",
        "",
        *table(
            (
                "direction, strength",
                "flipped",
                "to positive",
                "to negative",
                "perplexity, to positive",
                "perplexity, to negative",
            ),
            rows,
        ),
        "",
    ]


def _edits(found: dict[str, Any], options: dict[str, Any]) -> list[str]:
    arms = found["arms"]
    lines = [
        (
            ARMS[name],
            _share(arm["flips"]),
            _estimate(arm["moves"], 2),
            _estimate(arm["same_word_moves"], 2) if "same_word_moves" in arm else "",
            _share(arm["others_keep"]) if "others_keep" in arm else "",
            _estimate(arm["perplexity"], 3) if "perplexity" in arm else "",
            _share(arm["effect"]) if "effect" in arm else "",
        )
        for name, arm in arms.items()
    ]
    whose = {
        "long": "with more tokens than are edited",
        "no effect": f"whose total effect {options['trace_samples']} samples cannot tell from zero",
        "no match": "with no other token of the role",
    }
    left_out = ", ".join(
        f"{len(rows)} {whose[why]}" for why, rows in found["skipped"].items() if rows
    )
    edit = options["edit"]
    return [
        "### ROME edits and ablated cells",
        "",
        f"n = {found['n']} held-out tweets, edited to go on with the other word. Early site: the "
        "largest MLP cell among the tweet's tokens in the first two thirds of the layers (layers "
        f"{', '.join(map(str, sorted(set(found['layers']))))}). Random: one other token of the "
        f"same role, same layer. {edit['prefixes']} prefixes, {edit['steps']} steps, "
        f"{edit['keys']:,} keys. Ablated: the {options['silenced']} largest MLP cells set to "
        "zero, or matched random ones. Moves are in nats of the probe's log-odds, to the other "
        f"side. {f'Left out: {left_out}.' if left_out else ''}",
        "",
        *table(
            (
                "",
                "flipped",
                "moved",
                "same word moved",
                "others keep their side",
                "perplexity",
                "traced effect",
            ),
            lines,
        ),
        "",
        "The early site's edit moves the tweet by "
        f"{_estimate(found['differences']['edit'], 2)} nats more than the random one's"
        f"{_told_apart(found['differences']['edit'])}. Ablating the largest cells moves it by "
        f"{_estimate(found['differences']['silence'], 2)} more than ablating matched ones"
        f"{_told_apart(found['differences']['silence'])}. Over the tweets, the rank correlation of "
        "the early site's traced effect with how far its edit moves the tweet is "
        f"{_estimate(found['correlation_over_tweets'], 2)}.",
        "",
    ]


def _curve(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            str(layer["layer"]),
            _share(layer["effect"]),
            _estimate(layer["moves"], 2),
            _share(layer["flips"]),
        )
        for layer in found["layers"]
    ]
    return [
        "### Edits at every layer",
        "",
        f"The same at several layers of the early site's token, for {found['n']} of these tweets. "
        "Within a tweet the rank correlation of traced effect and efficacy over the layers is, on "
        f"average, {_estimate(found['correlation_within'], 2)}.",
        "",
        *table(("layer", "traced effect", "moved", "flipped"), rows),
        "",
    ]


DIRECTIONS = {
    "means": "difference of class means",
    "probe": "weights of a probe",
    "words": "good minus bad",
    "random": "random",
}
ARMS = {
    "early": "edit at the early site",
    "random": "edit at a random site",
    "silenced_top": "ablated, largest cells",
    "silenced_random": "ablated, random cells",
}


def _estimate(found: dict[str, Any], digits: int, times: float = 1.0, unit: str = "") -> str:
    """A number and its interval, as far as there are any."""
    if found["value"] is None:
        return "none"
    said = f"{times * found['value']:.{digits}f}{unit}"
    if found["lower"] is not None:
        said += f" ({times * found['lower']:.{digits}f} to {times * found['upper']:.{digits}f})"
    return said.replace("-", "\u2212")


def _share(found: dict[str, Any]) -> str:
    return _estimate(found, 0, 100, "%")


def _points(found: dict[str, Any]) -> str:
    return _estimate(found, 0, 100)


def _told_apart(found: dict[str, Any]) -> str:
    if found["lower"] is None or found["lower"] <= 0 <= found["upper"]:
        return ", which is not significant"
    return ""


def sweeps(found: dict[str, Any]) -> list[str]:
    """Many tweets: throughput, the memory of an average, and being killed."""
    lines = ["## Sweeps", "", machine_line(found), ""]
    if "throughput" in found:
        measured = found["throughput"]
        alone = measured["seconds"]["one by one"]
        names = {
            "one by one": "one by one",
            "sweep": "a sweep in one process",
            "sweep, processes": f"a sweep in {measured['processes']} processes, as by default here",
            "sweep, two tokens of each role": "a sweep of two tokens of each role, one process",
        }
        lines += [
            f"{measured['tweets']:,} tweets of {measured['tokens']:.0f} tokens on average, three "
            "kinds, one noise sample, embedded model; the ways one after the other in one run "
            f"(`python -m benchmarks.sweep --only throughput --tweets {measured['tweets']}`). "
            "One by one and one process use all cores in threads; of several processes each has "
            "one thread. Two tokens of each role are less work for the same averages. "
            f"Effects differ by at most {measured['largest_difference']:.0e} nats. Goal: a sweep "
            "at least 1.3 times as fast as one by one.",
            "",
            *table(
                ("way", "seconds a tweet", "times one by one"),
                [
                    (names[way], f"{seconds:.2f}", f"{alone / seconds:.2f}")
                    for way, seconds in measured["seconds"].items()
                ],
            ),
            "",
        ]
    if "width" in found:
        measured = found["width"]
        seconds = measured["seconds"]
        lines += [
            "An average as wide: whole traces of ten samples, one by one, over a sweep of one "
            "sample and two tokens of each role at most in "
            f"{measured['processes']} processes, of the same {measured['tweets']} tweets at every "
            f"sixth layer (`python -m benchmarks.sweep --only width --tweets {measured['tweets']}"
            f"`): {seconds['one by one']:.2f} and {seconds['sweep']:.2f} s a tweet, the sweep's "
            f"intervals {measured['width']:.2f} times as wide (median of {measured['cells']} "
            "cells). For equal widths the sweep is therefore "
            f"**{measured['gain']:.1f} times as fast**; goal: 4. {measured['differ']:.1%} of the "
            "cells differ between the two averages (95% interval over tweets, paired).",
            "",
        ]
    if "memory" in found:
        rows = [
            (f"{each['tweets']:,}", f"{each['peak_kib'] / 1024:.0f}", f"{each['seconds']:.1f}")
            for each in found["memory"]
        ]
        lines += [
            "`core.sweeps.average` over stored tweets of GPT-2's shape with drawn numbers, each "
            "in a "
            "process of its own (`python -m benchmarks.sweep --only memory`).",
            "",
            *table(("stored tweets", "peak of the process, MiB", "seconds"), rows),
            "",
        ]
    if "kill" in found:
        killed = found["kill"]
        equal = "equals" if killed["equal"] else "does not equal"
        lines += [
            f"A sweep of {killed['tweets']} tweets on the embedded model was killed with SIGKILL "
            f"{len(killed['kills'])} times and resumed: {killed['done']} tweets done, and what it "
            f"holds {equal} the undisturbed sweep bit for bit (`python -m benchmarks.sweep --only "
            f"kill --tweets {killed['tweets']}`).",
            "",
        ]
    return lines


def mutants(found: dict[str, Any]) -> list[str]:
    """Would the tests notice a wrong engine?"""
    total = sum(each["mutants"] for each in found.values())
    killed = sum(each["killed"] for each in found.values())
    rows = [
        (
            f"`core/{module}.py`",
            str(each["mutants"]),
            str(each["killed"]),
            ", ".join(f"`{survivor}`" for survivor in each["survivors"]),
        )
        for module, each in found.items()
    ]
    return [
        "## Mutants",
        "",
        f"Small wrong changes of the engine and the averages, each tried alone: the tests notice "
        f"{killed} of {total} ({killed / total:.0%}; "
        "`PYTHONPATH=. python tests/support/mutants.py`). Goal: 90%.",
        "",
        *table(("module", "mutants", "noticed", "not noticed"), rows),
        "",
    ]


def report() -> str:
    """The whole report."""
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.results` from `results/*.json`; `make bench` measures "
        "anew.",
        "",
    ]
    for path in sorted(RESULTS.glob("trace*.json")):
        found = load(path.stem)
        assert found is not None
        lines += traces(path.stem, found)
    for name, section in (
        ("encode", encode),
        ("probes", probes),
        ("sweep", sweeps),
        ("load", visitors),
        ("paint", paint),
        ("anytime", anytime),
        ("settled", settled),
        ("antithetic", antithetic),
        ("estimates", estimates),
        ("verdicts", verdicts),
        ("drawing", drawing),
        ("kernels", kernels),
        ("memory", memory),
        ("waiting", waiting),
        ("precision", precision),
        ("startup", startup),
        ("interventions", interventions),
        ("mutants", mutants),
    ):
        found = load(name)
        if found is not None:
            lines += section(found)
    return "\n".join(lines)


if __name__ == "__main__":
    (HERE / "RESULTS.md").write_text(report(), encoding="utf-8")
    print(HERE / "RESULTS.md")
