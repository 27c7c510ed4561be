"""`python -m core edit | steer | ablate`: does the location matter?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core import cache
from core.commands.shared import (
    DEFAULT_DATA,
    FIGURES,
    TABLES,
    check_out,
    model_options,
    one_line,
    open_model,
    out_option,
    print_table,
    progress_bar,
    progress_option,
    without_nan,
    writing,
)

if TYPE_CHECKING:
    from core.interventions import Outcome, Plan, What

Command = Callable[..., Any]
SWEEPS = click.Choice(["layer", "strength"])
SHOWN = 5  # next tokens


def _options(command: Command) -> Command:
    """What all interventions share. An option that is not given is left to --settings."""
    for option in reversed(
        (
            click.argument("text", required=False),
            model_options,
            click.option(
                "--data", metavar="NAME", help=f"Labelled texts.  [default: {DEFAULT_DATA}]"
            ),
            click.option(
                "--features", metavar="NAME", help="What the probe reads.  [default: logit_pair]"
            ),
            click.option(
                "--wanted",
                type=click.Choice(["positive", "negative", "either"]),
                help="Where the proxy should go.  [default: to the other side]",
            ),
            click.option("--layer", type=int, help="[default: where the trace finds most]"),
            click.option(
                "--controls", type=int, help="Random sites or directions beside it.  [default: 3]"
            ),
            click.option(
                "--texts",
                type=int,
                help="Held-out texts of each sort that judge it.  [default: 20]",
            ),
            click.option("--samples", type=int, help="Noise samples of the traces.  [default: 4]"),
            click.option("--seed", type=int, help="Of all that is drawn.  [default: 0]"),
            click.option(
                "--settings",
                type=click.Path(path_type=Path),
                metavar="FILE.json",
                help="Settings that the page or --save-settings wrote; other options come before.",
            ),
            click.option("--save-settings", type=click.Path(path_type=Path), metavar="FILE.json"),
            out_option(" of what was judged"),
            click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
            progress_option,
        )
    ):
        command = option(command)
    return command


def _direction_options(command: Command) -> Command:
    for option in reversed(
        (
            click.option(
                "--direction",
                "source",
                type=click.Choice(["means", "probe", "words", "random"]),
                help="Of what the direction is made.  [default: means]",
            ),
            click.option(
                "--positions", type=click.Choice(["all", "last"]), help="Tokens.  [default: all]"
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--position", type=int, help="Token.  [default: where the trace finds most]")
@click.option("--target", help="The next word that is wanted.  [default: the probe's]")
@click.option("--strength", type=float, help="Part of the edit that is made.  [default: 1]")
@click.option("--prefixes", type=int, help="Sampled texts before the tweet.  [default: 4]")
@click.option("--steps", type=int, help="Of the gradient descent, at most.  [default: 20]")
@click.option("--keys", type=int, help="Tokens behind the keys' covariance.  [default: 20000]")
@click.option("--sweep", type=SWEEPS, help="Also at other layers, or other strengths.")
def edit(**given: Any) -> None:
    """Edit the MLP of one layer, so that TEXT goes on with the other word (ROME)."""
    _command("edit", given)


@click.command()
@_options
@_direction_options
@click.option("--strength", type=float, help="In distances of the classes.  [default: 1]")
@click.option(
    "--like", "other", metavar="TEXT", help="Give it the size it has in this tweet instead."
)
@click.option("--sweep", type=SWEEPS, help="Also at other layers, or other strengths.")
def steer(**given: Any) -> None:
    """Push the residual stream along a sentiment direction while the model reads TEXT."""
    _command("exchange" if given["other"] is not None else "steer", given)


@click.command()
@_options
@_direction_options
@click.option("--onwards", is_flag=True, default=None, help="At every layer from --layer on.")
@click.option(
    "--fill", type=click.Choice(["zero", "mean"]), help="What comes instead.  [default: zero]"
)
@click.option(
    "--sites",
    "kind",
    type=click.Choice(["hidden", "mlp", "attn", "head"]),
    help="Silence the largest traced sites of this kind, not a direction.",
)
@click.option("--position", type=int, help="With --sites and --layer: this site alone.")
@click.option("--count", type=int, help="How many sites.  [default: 3]")
@click.option("--sweep", type=click.Choice(["layer"]), help="Also at other layers.")
def ablate(**given: Any) -> None:
    """Take a sentiment direction, or the largest traced sites, out while the model reads TEXT."""
    _command("replace" if given["kind"] is not None else "ablate", given)


def _command(what: What, given: dict[str, Any]) -> None:
    for out in given["outs"]:
        check_out(out, (*FIGURES, *TABLES))
    plan = _plan(what, given)
    repeat(
        plan,
        name=given["name"],
        device=given["device"],
        dtype=given["dtype"],
        outs=given["outs"],
        as_json=given["as_json"],
        saved=given["save_settings"],
        progress=given["progress"],
    )


def repeat(
    plan: Plan,
    *,
    name: str | None,
    device: str | None,
    dtype: str = "float32",
    outs: Sequence[Path] = (),
    as_json: bool = False,
    saved: Path | None = None,
    progress: bool | None = None,
) -> None:
    """Carry out a plan, and print and write what came out.

    Args:
        name: of the model; None: the plan's.
        saved: where the plan is written.
    """
    from core.export import export_figure, export_table
    from core.interventions import carry_out
    from core.judging import held_out_of

    model = open_model(name or plan.model or None, device, dtype, progress)
    plan = replace(plan, model=model.name)
    if saved is not None:
        with writing(saved), cache.write_beside(saved) as beside:
            beside.write_text(plan.to_json(), encoding="utf-8")
    with progress_bar("Reading the texts that judge", progress) as show:
        held = held_out_of(model, plan.dataset, plan.features, progress=show)
    with progress_bar("Intervening", progress) as show:
        for _, step in carry_out(model, held, plan, keep=True, progress=show):
            outcome = step
    assert outcome.judged is not None
    for out in outs:
        with writing(out):
            if out.suffix.lower().removeprefix(".") in FIGURES:
                from core.intervention_figures import summary

                export_figure(summary(outcome), out, recipe=plan.to_json())
            else:
                export_table(outcome.judged, out, recipe=plan.to_json())
    if as_json:
        click.echo(json.dumps(without_nan(_as_json(outcome)), ensure_ascii=False))
        return
    _print(outcome)
    for out in outs:
        click.echo(f"Saved {out}")


def plan_in(source: str) -> Plan | None:
    """The plan in a file that was saved with an intervention; None where there is no such file."""
    from core import metadata
    from core.interventions import SCHEMA, Plan

    path = Path(source)
    if not path.is_file():
        return None
    text = metadata.read(path.read_bytes())
    if text is None or f'"{SCHEMA}"' not in text:
        return None
    return Plan.from_json(text, source)


def _plan(what: What, given: dict[str, Any]) -> Plan:
    from core.interventions import Plan

    names = {one.name for one in fields(Plan)} - {"what", "model"}
    options = {name: value for name, value in given.items() if name in names and value is not None}
    if given["data"] is not None:
        options["dataset"] = given["data"]
    if given["settings"] is None:
        if "text" not in options:
            raise ValueError(
                "There is no text; give one, or --settings with a file that holds one."
            )
        return Plan(what=what, **options)
    try:
        content = given["settings"].read_bytes()
    except OSError as error:
        raise ValueError(
            f"The settings {str(given['settings'])!r} cannot be read: {error.strerror}."
        ) from error
    held = Plan.from_json(content, str(given["settings"]))
    commands = {"exchange": "steer", "replace": "ablate"}
    asked, has = (commands.get(each, each) for each in (what, held.what))
    if asked != has:
        raise ValueError(
            f"The settings {given['settings']} are those of `{has}`, not of `{asked}`; "
            f"give them to `python -m core {has}`."
        )
    kept = held.what if what in ("steer", "ablate") else what
    return replace(held, what=kept, **options)


def _print(outcome: Outcome) -> None:
    from core.intervention_figures import judged_table

    before, after = outcome.before, outcome.after
    assert before is not None
    assert after is not None
    assert outcome.judged is not None
    layer, position = outcome.site
    token = "" if position is None else f", token {position} {outcome.prompt.labels[position]}"
    found = "largest traced effect" if outcome.located else "as asked"
    click.echo(f"Prompt        {one_line(outcome.prompt.text)}")
    click.echo(f"Intervention  {outcome.label}, towards {outcome.wanted}")
    click.echo(f"Site          layer {layer}{token} ({found})")
    click.echo(f"Log-odds      {before.log_odds:+.3f} before, {after.log_odds:+.3f} after")
    click.echo(f"P(positive)   {before.probability:.3f} before, {after.probability:.3f} after")
    for name, reading in (("before", before), ("after", after)):
        tokens = ", ".join(
            f"{row.token} {row.probability:.2f}"
            for row in reading.next_tokens.head(SHOWN).itertuples()
        )
        click.echo(f"Next, {name:<8}{tokens}")
    for name, reading in (("before", before), ("after", after)):
        click.echo(f"Goes on       {one_line(reading.continuation)}   ({name})")
    click.echo("")
    table = judged_table(outcome.judged)
    print_table(
        [tuple(table.columns), *(tuple(map(str, row)) for row in table.to_numpy())], right=()
    )
    click.echo("In brackets: 95% intervals over texts; of random ones the least and the largest.")
    if outcome.curve is not None and outcome.correlation is not None:
        click.echo("\nBy layer")
        print_table(
            [
                ("layer", "traced effect", "log-odds moved", "flips"),
                *(
                    (
                        str(row.layer),
                        f"{row.effect:.1%}",
                        f"{row.moves:+.3f}",
                        "yes" if row.flips else "no",
                    )
                    for row in outcome.curve.itertuples()
                ),
            ],
            right=(0, 1, 2),
        )
        related = outcome.correlation
        click.echo(
            f"Rank correlation of the two {related.value:+.2f} "
            f"({related.lower:+.2f} to {related.upper:+.2f}, {related.n} layers)."
        )
    if outcome.strengths is not None:
        click.echo("\nBy strength")
        print_table(
            [
                ("strength", "log-odds", "perplexity, times"),
                *(
                    (f"{row.strength:g}", f"{row.log_odds:+.3f}", f"{row.perplexity:.3f}")
                    for row in outcome.strengths.itertuples()
                ),
            ],
            right=(0, 1, 2),
        )
    for note in outcome.notes:
        click.echo(note)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome that a program may want."""

    def rows(frame: Any) -> Any:
        return None if frame is None else json.loads(frame.to_json(orient="records"))

    def reading(found: Any) -> Any:
        return {
            "log_odds": found.log_odds,
            "probability": found.probability,
            "good": found.good,
            "bad": found.bad,
            "next_tokens": rows(found.next_tokens),
            "continuation": found.continuation,
        }

    related = outcome.correlation
    return {
        "plan": json.loads(outcome.plan.to_json()),
        "label": outcome.label,
        "wanted": outcome.wanted,
        "layer": outcome.site[0],
        "position": outcome.site[1],
        "word": outcome.word,
        "located": outcome.located,
        "before": reading(outcome.before),
        "after": reading(outcome.after),
        "judged": rows(outcome.judged),
        "controls": list(outcome.controls),
        "curve": rows(outcome.curve),
        "correlation": None
        if related is None
        else {
            "value": related.value,
            "lower": related.lower,
            "upper": related.upper,
            "n": related.n,
        },
        "strengths": rows(outcome.strengths),
        "notes": list(outcome.notes),
    }
