"""`python -m core serve`: the dashboard, from any folder."""

from __future__ import annotations

import runpy
import sys

import click

from ..distribution import ROOT


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--setup/--no-setup",
    "prepares",
    default=True,
    help="First fetch what is missing of the embedded model and the tweets.",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def serve(prepares: bool, options: tuple[str, ...]) -> None:
    """Open the dashboard; OPTIONS are Streamlit's, such as --server.port=8502."""
    if prepares:
        from ..setup import prepare

        prepare(echo=click.echo)
    script = str(ROOT / "app.py")
    sys.argv = ["streamlit", "run", script, "--server.showEmailPrompt=false", *options]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)
