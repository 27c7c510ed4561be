"""The same work without a browser: `python -m core --help`.

What a command finds goes to standard output, progress and errors to standard error. A mistake of
the user's ends with one sentence and exit code 2, Ctrl-C with 130; files are whole or not there.
"""

from __future__ import annotations

import click

from .commands.average import average
from .commands.compare import compare
from .commands.corruptions import corruptions
from .commands.export import export, figures
from .commands.interventions import ablate, edit, steer
from .commands.models import models, setup
from .commands.pairs import pairs
from .commands.probe import probe
from .commands.recipes import run
from .commands.serve import serve
from .commands.shared import Commands
from .commands.sweep import sweep
from .commands.trace import trace
from .distribution import COMMAND


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Find out where a language model stores and uses the sentiment of a tweet."""


for command in (
    setup,
    serve,
    models,
    probe,
    pairs,
    corruptions,
    trace,
    sweep,
    average,
    compare,
    edit,
    steer,
    ablate,
    run,
    export,
    figures,
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name=COMMAND)
