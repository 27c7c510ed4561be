"""`python -m core setup | models`: what is on this disk."""

from __future__ import annotations

import json

import click

from .shared import print_table


@click.command()
@click.option("--hub/--no-hub", default=True, help="Fetch gpt2 as well if the hub answers.")
def setup(hub: bool) -> None:
    """Fetch and prepare the embedded model and the tweets; quick when nothing is missing."""
    from ..setup import prepare

    prepare(echo=click.echo, hub=hub)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(as_json: bool) -> None:
    """List the models that can be named, and which of them are on this disk."""
    from ..models.families import FAMILIES
    from ..models.registry import REGISTRY, availability, default_model

    default, reason = default_model()
    if as_json:
        rows = [
            {
                "key": entry.key,
                "hub_id": entry.hub_id,
                "family": entry.family,
                "layers": entry.layers,
                "parameters": entry.parameters,
                "download_bytes": entry.download_bytes,
                "licence": entry.licence,
                "availability": availability(entry.key),
                "default": entry.key == default,
                "gated": entry.gated,
                "note": entry.access or entry.note,
            }
            for entry in REGISTRY.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = [("model", "family", "layers", "parameters", "download", "licence", "", "note")]
    for entry in REGISTRY.values():
        table.append(
            (
                f"{entry.key}{' *' if entry.key == default else ''}",
                entry.family,
                str(entry.layers),
                f"{entry.parameters / 1e6:,.0f} M",
                f"{entry.download_bytes / 1e6:,.0f} MB",
                entry.licence,
                availability(entry.key),
                "gated" if entry.gated else entry.note,
            )
        )
    print_table(table, right=(2, 3, 4))
    click.echo(f"\n* The default. {reason}")
    click.echo(
        "Gated models: accept the licence on the model's page of the hub, then log in with "
        "`hf auth login` or set HF_TOKEN."
    )
    click.echo(
        "Any other model can be named by its hub id or its folder when its family is one of "
        f"{', '.join(sorted(FAMILIES))}."
    )
