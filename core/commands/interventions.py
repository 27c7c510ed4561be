"""`python -m core edit | steer | ablate`: does the location matter?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..distribution import COMMAND
from ..errors import UserError
from ..storage import cache
from .options import Command, SettingsCommand, settings_options
from .shared import (
    FIGURES,
    TABLES,
    check_out,
    model_options,
    one_line,
    open_model,
    open_texts,
    out_option,
    print_table,
    progress_bar,
    progress_option,
    reading_options,
    save_figure,
    without_nan,
    writing,
)

if TYPE_CHECKING:
    from ..interventions.plan import Outcome, Plan, What

SHOWN = 5  # next tokens
SHARED = (
    "dataset",
    "features",
    "prompt",
    "prompt_format",
    "good",
    "bad",
    "wanted",
    "layer",
    "controls",
    "texts",
    "samples",
    "seed",
)
EDIT = ("position", "target", "strength", "prefixes", "steps", "keys", "sweep")
STEER = ("source", "positions", "strength", "other", "sweep")
ABLATE = ("source", "positions", "onwards", "fill", "kind", "position", "count", "sweep")
"""Fields of a plan that the commands have."""

GIVEN: dict[str, Any] = {"unset": "", "callback": lambda _, __, words: words or None}
"""Of an option that may be repeated: none of it leaves the settings their own."""


def _options(*fields: str, **other: dict[str, Any]) -> Callable[[Command], Command]:
    """What all interventions share. An option that is not given is left to --settings."""

    def decorate(command: Command) -> Command:
        for option in reversed(
            (
                click.argument("text", required=False),
                model_options,
                reading_options,
                settings_options(
                    "changes",
                    "interventions.plan:Plan",
                    only=(*SHARED, *fields),
                    other={"good": GIVEN, "bad": GIVEN, **other},
                    given=True,
                ),
                click.option(
                    "--settings",
                    type=click.Path(path_type=Path),
                    metavar="FILE.json",
                    help="Settings that the page or --save-settings wrote; options given beside "
                    "it win.",
                ),
                click.option(
                    "--save-settings", type=click.Path(path_type=Path), metavar="FILE.json"
                ),
                out_option(" of the evaluation"),
                click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
                progress_option,
            )
        ):
            command = option(command)
        return command

    return decorate


@click.command(cls=SettingsCommand)
@_options(*EDIT)
def edit(**given: Any) -> None:
    """Edit the MLP of one layer, so that TEXT continues with the other word (ROME)."""
    _command("edit", given)


@click.command(cls=SettingsCommand)
@_options(*STEER)
def steer(**given: Any) -> None:
    """Steer the residual stream along a sentiment direction while the model reads TEXT."""
    _command("exchange" if "other" in given["changes"] else "steer", given)


@click.command(cls=SettingsCommand)
@_options(
    *ABLATE,
    position={"help": "With --sites and --layer: this site alone.", "unset": ""},
    sweep={"help": "Also at other layers.", "choices": ("layer",)},
)
def ablate(**given: Any) -> None:
    """Ablate a sentiment direction, or the largest traced sites, while the model reads TEXT."""
    _command("replace" if "kind" in given["changes"] else "ablate", given)


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
    from ..exporting.table_files import export_table
    from ..interventions.judging import held_out_of
    from ..interventions.plan import carry_out

    model = open_model(name or plan.model or None, device, dtype, progress)
    plan = replace(plan, model=model.name)
    if saved is not None:
        with writing(saved), cache.write_beside(saved) as beside:
            beside.write_text(plan.to_json(), encoding="utf-8")
    texts = open_texts(plan.dataset, plan.reading)
    with progress_bar("Reading the held-out texts", progress) as show:
        held = held_out_of(
            model,
            plan.dataset,
            plan.features,
            template=plan.template,
            words=plan.words,
            tweets=texts.frame,
            read_as=texts.read_as,
            progress=show,
        )
    with progress_bar("Intervening", progress) as show:
        for _, step in carry_out(model, held, plan, keep=True, progress=show):
            outcome = step
    assert outcome.judged is not None
    for out in outs:
        with writing(out):
            if out.suffix.lower().removeprefix(".") in FIGURES:
                from ..charts.intervention import summary

                save_figure(summary(outcome), out, recipe=plan.to_json())
            else:
                export_table(outcome.judged, out, recipe=plan.to_json())
    if as_json:
        click.echo(json.dumps(without_nan(_as_json(outcome)), ensure_ascii=False))
        return
    _print(outcome)
    for out in outs:
        click.echo(f"Saved {out}")


def _plan(what: What, given: dict[str, Any]) -> Plan:
    from ..data.datasets import FileReading
    from ..interventions.plan import Plan

    options = dict(given["changes"])
    if given["text"] is not None:
        options["text"] = given["text"]
    if given["reading"] != FileReading():  # else the settings' own stays
        options["reading"] = given["reading"]
    if given["settings"] is None:
        if "text" not in options:
            raise UserError("There is no text; give one, or --settings with a file that holds one.")
        return Plan(what=what, **options)
    try:
        content = given["settings"].read_bytes()
    except OSError as error:
        raise UserError(
            f"The settings {str(given['settings'])!r} cannot be read: {error.strerror}."
        ) from error
    held = Plan.from_json(content, str(given["settings"]))
    commands = {"exchange": "steer", "replace": "ablate"}
    asked, has = (commands.get(each, each) for each in (what, held.what))
    if asked != has:
        raise UserError(
            f"The settings {given['settings']} are those of `{has}`, not of `{asked}`; "
            f"give them to `{COMMAND} {has}`."
        )
    own = held.what if what in ("steer", "ablate") else what
    return replace(held, what=own, **options)


def _print(outcome: Outcome) -> None:
    from ..charts.intervention import judged_table

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
        click.echo(f"Continues     {one_line(reading.continuation)}   ({name})")
    click.echo("")
    table = judged_table(outcome.judged)
    print_table(
        [tuple(table.columns), *(tuple(map(str, row)) for row in table.to_numpy())], right=()
    )
    click.echo(
        "In brackets: 95% intervals over texts; for random controls the smallest and the largest."
    )
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
            f"Rank correlation of efficacy and traced effect {related.value:+.2f} "
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
