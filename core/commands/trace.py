"""`python -m core trace`: trace one tweet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from core.commands.shared import (
    DEFAULT_DATA,
    FIGURES,
    TABLES,
    check_out,
    default_name,
    model_options,
    one_line,
    open_model,
    out_option,
    plus_minus,
    print_table,
    probe_of,
    probe_options,
    progress_bar,
    progress_option,
    proxy_option,
    save_traces,
    suffix_or_default,
    without_nan,
    words_or_default,
)

if TYPE_CHECKING:
    from core.models import Contribution
    from core.probes import Features, Probe
    from core.results import Corruption, Proxy, TraceResult
    from core.runs import Kind

ALL = "hidden,mlp,attn"
TOP_CELLS = 2  # of each kind, inside the corrupted span and outside


@click.command()
@click.argument("text")
@model_options
@click.option(
    "--untrained", is_flag=True, help="Trace the randomly initialised twin instead, as a control."
)
@click.option(
    "--probe",
    "probe_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="A probe that `probe` wrote.  [default: trained once on --data, then kept]",
)
@probe_options
@click.option(
    "--kinds",
    metavar="LIST",
    help=f"Sites to restore.  [default: {ALL}; hidden with --sever]",
)
@click.option("--samples", default=10, show_default=True, help="Samples of the noise.")
@click.option(
    "--noise",
    default=3.0,
    show_default=True,
    help="In standard deviations of the token embeddings.",
)
@click.option("--seconds", type=float, help="End early, with the samples so far, after this time.")
@click.option(
    "--stable-for",
    type=int,
    help="End early when the largest cell of every kind has stayed for this many samples.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MB",
    help="What a trace may need beyond the model's weights.  [default: half of what is free]",
)
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option(
    "--window",
    type=int,
    help="Layers over which mlp and attn are restored.  [default: the paper's 10 of 48, scaled]",
)
@click.option(
    "--corrupt",
    default="tweet",
    show_default=True,
    help='"tweet", the N-th word as "word:N" (from 0), or token positions as "3,4".',
)
@click.option(
    "--corruption",
    type=click.Choice(["noise", "uniform", "mean"]),
    default="noise",
    show_default=True,
    help="What takes the place of the corrupted tokens: Gaussian or uniform noise on top of them, "
    "or the mean embedding.",
)
@click.option(
    "--counterfactual",
    metavar="TEXT",
    help="Corrupt by another tweet of as many tokens instead.",
)
@click.option(
    "--reverse",
    is_flag=True,
    help="Reverse patching: put corrupted states into the clean run, and see what is lost.",
)
@click.option(
    "--sever",
    type=click.Choice(["mlp", "attn"]),
    help="Restore hidden states with this path cut: the token's own contributions of that kind "
    "stay corrupted.",
)
@click.option("--every", default=1, show_default=True, help="Trace every n-th layer only.")
@proxy_option
@out_option(" of all cells")
@click.option("--json", "as_json", is_flag=True, help="Print the result, all cells, as JSON.")
@progress_option
def trace(
    text: str,
    name: str | None,
    device: str | None,
    dtype: str,
    untrained: bool,
    probe_file: Path | None,
    data: str | None,
    features: Features | None,
    suffix: str | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
    kinds: str | None,
    samples: int,
    noise: float,
    seconds: float | None,
    stable_for: int | None,
    memory: int | None,
    seed: int,
    window: int | None,
    corrupt: str,
    corruption: Corruption,
    counterfactual: str | None,
    reverse: bool,
    sever: Contribution | None,
    every: int,
    proxy: Proxy,
    outs: tuple[Path, ...],
    as_json: bool,
    progress: bool | None,
) -> None:
    """Trace TEXT: which sites of the model carry its sentiment?

    Put -- before a text that begins with a dash.
    """
    for out in outs:
        check_out(out, (*FIGURES, *TABLES))
    from core.datasets import load_dataset
    from core.models import load_model
    from core.probes import Probe
    from core.prompts import build_prompt, resolve_span
    from core.results import TraceSettings
    from core.trace import trace_progressively

    wanted = tuple(part.strip() for part in (kinds or ("hidden" if sever else ALL)).split(","))
    settings = TraceSettings(
        kinds=cast("tuple[Kind, ...]", wanted),
        samples=samples,
        noise_scale=noise,
        seed=seed,
        window=window,
        corrupt=_corrupt(corrupt),
        corruption="counterfactual" if counterfactual is not None else corruption,
        counterfactual=counterfactual,
        direction="corrupt" if reverse else "restore",
        severed=sever,
        every=every,
        proxy=proxy,
        seconds=seconds,
        stable_for=stable_for,
    )
    given = None
    if probe_file is not None:
        given = Probe.load(probe_file)
        _check_given(given, probe_file, data, features, suffix, good, bad)
    model = open_model(name, device, dtype, progress)
    # A tweet or span that cannot be used is refused before a probe is trained.
    prompt = build_prompt(model, text, given.suffix if given else suffix_or_default(suffix))
    resolve_span(prompt, settings.corrupt)
    if given is None:
        data = data or DEFAULT_DATA
        given = probe_of(
            model,
            data,
            load_dataset(data),
            features or "logit_pair",
            progress,
            suffix=suffix,
            words=words_or_default(good, bad),
        )
    if untrained:
        model = load_model(name or default_name(), device=device, dtype=dtype, untrained=True)
    with progress_bar(f"Tracing {len(prompt)} tokens x {model.layers} layers", progress) as show:
        for partial in trace_progressively(
            model,
            given,
            text,
            settings,
            keep=True,
            memory=None if memory is None else memory * 10**6,
            progress=show,
        ):
            result = partial
    for out in outs:
        save_traces([result], out, precision=model.precision)
    if as_json:
        click.echo(json.dumps(_as_json(result), ensure_ascii=False))
        return
    _print_trace(result)
    for out in outs:
        click.echo(f"Saved {out}")


def _corrupt(written: str) -> str | tuple[int, ...]:
    parts = [part.strip() for part in written.split(",")]
    if all(part.removeprefix("-").isdecimal() for part in parts):
        return tuple(int(part) for part in parts)
    return written


def _check_given(
    given: Probe,
    file: Path,
    data: str | None,
    features: str | None,
    suffix: str | None,
    good: tuple[str, ...],
    bad: tuple[str, ...],
) -> None:
    """A probe from a file brings its data, features, suffix and words; options may only agree."""
    for option, asked, has in (
        ("--data", data, given.dataset),
        ("--features", features, given.features),
        ("--suffix", suffix, given.suffix),
        ("--good", good or None, given.words_positive),
        ("--bad", bad or None, given.words_negative),
    ):
        if asked is not None and asked != has:
            raise ValueError(
                f"The probe {file} was trained with {option} {has!r}, not {asked!r}; "
                f"leave out {option}, or train another probe."
            )


def _print_trace(result: TraceResult) -> None:
    from core import figures
    from core.results import PROXIES

    report = result.probe.report
    click.echo(f"Prompt      {one_line(result.prompt.text)}")
    click.echo(
        f"Model       {result.model_name}, {result.layers} layers, {len(result.prompt)} tokens, "
        f"{len(result.corrupted_span)} of them corrupted"
    )
    click.echo(
        f"Probe       {result.probe.features}, accuracy {report.accuracy:.1%} "
        f"({report.accuracy_low:.1%} to {report.accuracy_high:.1%}) on {report.n:,} texts"
    )
    click.echo(f"Prediction  {figures.headline(result)}")
    click.echo(f"Proxy       {PROXIES[result.settings.proxy]}")
    click.echo(f"            clean      {result.high:+.4g}")
    click.echo(
        f"            corrupted  {result.low:+.4g}{plus_minus(result.low_error)}   "
        f"(P(positive) = {result.corrupted_probability:.2f}; {_corruption_line(result)})"
    )
    click.echo(f"            total      {result.total_effect:+.4g}{plus_minus(result.low_error)}")
    found = result.distinguishable
    if found is None and result.settings.corruption in ("noise", "uniform"):
        click.echo("            One sample of noise gives no error; take more to trust it.")
    elif found is False:
        click.echo(
            "            The total effect is not distinguishable from zero, so the effects below "
            "mean nothing."
        )
    if result.settings.direction == "corrupt":
        click.echo("Direction   corrupted states in the clean run; an effect is what is lost")
    if result.settings.severed is not None:
        severed = figures.KINDS[result.settings.severed]
        click.echo(f"Severed     the restored token's own {severed} contributions stay corrupted")
    click.echo(
        f"\nLargest effects ({TOP_CELLS} of each kind among the corrupted tokens, *, and "
        f"{TOP_CELLS} among the others)"
    )
    table: list[Sequence[str]] = [("kind", "layer", "position", "token", "effect", "of total")]
    for cell in _top_cells(result):
        table.append(
            (
                figures.KINDS[cell["kind"]],
                str(cell["layer"]),
                str(cell["position"]),
                f"{cell['token']}{' *' if cell['corrupted'] else ''}",
                f"{cell['effect']:+.4g}{plus_minus(cell['standard_error'])}",
                "" if found is False else f"{cell['normalised']:.0%}",
            )
        )
    print_table(table, right=(1, 2, 5))
    if found is not None:
        click.echo("\u00b1 is the standard error over the samples of noise.")
    windowed = [kind for kind in result.settings.kinds if kind != "hidden"]
    if windowed:
        click.echo(
            f"{' and '.join(figures.KINDS[kind] for kind in windowed)} cells replace "
            f"{result.window} layer{'s' if result.window != 1 else ''} around the one named."
        )


def _corruption_line(result: TraceResult) -> str:
    settings = result.settings
    if settings.counterfactual is not None:
        return f"counterfactual {one_line(settings.counterfactual)!r}"
    if settings.corruption == "mean":
        return "mean embedding"
    plural = "s" if result.samples_done != 1 else ""
    kind = "uniform noise" if settings.corruption == "uniform" else "noise"
    return f"{result.samples_done} sample{plural} of {kind}, sd {result.noise:.3g}"


def _top_cells(result: TraceResult) -> list[dict[str, Any]]:
    """The cells with the largest effects, those fixed by construction left out."""
    frame = result.frame()
    free = frame[~frame["trivial"]]
    cells: list[dict[str, Any]] = []
    for kind in result.settings.kinds:
        for corrupted in (True, False):
            of_kind = free[(free["kind"] == kind) & (free["corrupted"] == corrupted)]
            order = of_kind["effect"].abs().sort_values(ascending=False, kind="stable").index
            largest = of_kind.loc[order[:TOP_CELLS]].to_dict("records")
            cells += cast("list[dict[str, Any]]", largest)
    return cells


def _as_json(result: TraceResult) -> Any:
    """All of a result that a program may want, with null for what is not known."""
    settings, report = result.settings, result.probe.report
    return without_nan(
        {
            "tweet": result.prompt.tweet,
            "suffix": result.prompt.suffix,
            "model": result.model_name,
            "model_identity": result.model_identity,
            "layers": result.layers,
            "tokens": list(result.tokens),
            "token_ids": list(result.prompt.ids),
            "corrupted_span": list(result.corrupted_span),
            "settings": {
                "kinds": list(settings.kinds),
                "samples": settings.samples,
                "noise_scale": settings.noise_scale,
                "seed": settings.seed,
                "window": result.window,
                "corrupt": settings.corrupt,
                "corruption": settings.corruption,
                "counterfactual": settings.counterfactual,
                "direction": settings.direction,
                "severed": settings.severed,
                "every": settings.every,
                "proxy": settings.proxy,
                "seconds": settings.seconds,
                "stable_for": settings.stable_for,
            },
            "samples": result.samples_done,
            "noise": result.noise,
            "probe": {
                "features": result.probe.features,
                "words": list(result.probe.words),
                "layer": result.probe.layer,
                "dataset": result.probe.dataset,
                "accuracy": report.accuracy,
                "accuracy_low": report.accuracy_low,
                "accuracy_high": report.accuracy_high,
            },
            "prediction": "positive" if result.clean_probability >= 0.5 else "negative",
            "clean_probability": result.clean_probability,
            "corrupted_probability": result.corrupted_probability,
            "high": result.high,
            "low": result.low,
            "low_error": result.low_error,
            "total_effect": result.total_effect,
            "distinguishable": result.distinguishable,
            "effects": {kind: values.tolist() for kind, values in result.effects.items()},
            "standard_errors": {
                kind: values.tolist() for kind, values in result.standard_errors.items()
            },
            "seconds": result.seconds,
        }
    )
