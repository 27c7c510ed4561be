"""The same work without a browser: `python -m core --help`.

What a command finds goes to standard output, progress and errors to standard error. A mistake of
the user's ends with one sentence and exit code 2, Ctrl-C with 130; files are whole or not there.
"""

from __future__ import annotations

import click

from core.commands.average import average
from core.commands.export import export, figures
from core.commands.interventions import ablate, edit, steer
from core.commands.models import models, setup
from core.commands.probe import probe
from core.commands.recipes import run
from core.commands.shared import Commands
from core.commands.sweep import sweep
from core.commands.trace import trace


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Find out where a language model stores and uses the sentiment of a tweet."""


for command in (
    setup,
    models,
    probe,
    trace,
    sweep,
    average,
    edit,
    steer,
    ablate,
    run,
    export,
    figures,
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m core")
