"""Options made from the fields of settings: their defaults, their types, and when they are made."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest

from core.__main__ import main
from core.commands.options import SettingsCommand
from core.data.datasets import FileReading
from core.exporting.figure_files import Paper
from core.interventions.plan import Plan
from core.sweeps.study import Options
from core.sweeps.sweep import Selection
from core.tracing.result import TraceSettings

ROOT = Path(__file__).parents[2]


def given_by(command: str, *arguments: str) -> dict[str, object]:
    """What a command is called with."""
    made = main.commands[command]
    assert isinstance(made, SettingsCommand)
    return dict(made.make_context(command, list(arguments)).params)


@pytest.mark.parametrize(
    ("command", "name", "settings", "own"),
    [
        ("trace", "settings", TraceSettings, {"kinds": None}),
        ("trace", "reading", FileReading, {}),
        ("sweep", "settings", TraceSettings, {"samples": 1}),
        ("sweep", "selection", Selection, {}),
        ("average", "options", Options, {}),
        ("average", "selection", Selection, {}),
    ],
)
def test_an_option_that_is_not_given_is_the_fields_default(command, name, settings, own):
    arguments = () if command == "sweep" else ("text",)
    found = {
        key.removeprefix(f"{name}__"): value
        for key, value in given_by(command, *arguments).items()
        if key.startswith(f"{name}__")
    }
    assert found
    defaults = {field.name: field.default for field in fields(settings)}
    assert found == {field: own.get(field, defaults[field]) for field in found}


@pytest.mark.parametrize(
    ("settings", "commands"),
    [
        (TraceSettings, ["trace"]),
        (Selection, ["sweep"]),
        (Options, ["average"]),
        (Paper, ["export", "figures"]),
        (Plan, ["edit", "steer", "ablate"]),
        (FileReading, ["probe", "trace", "sweep", "edit", "steer", "ablate"]),
    ],
)
def test_every_field_with_a_help_is_an_option(settings, commands):
    described = {field.name for field in fields(settings) if "help" in field.metadata}
    assert described
    found = {
        parameter.name.partition("__")[2]
        for command in commands
        for parameter in main.commands[command].get_params(click.Context(main.commands[command]))
    }
    assert described <= found


def test_fields_with_an_option_have_a_default():
    for settings in (TraceSettings, Selection, Options, Paper, Plan, FileReading):
        for field in fields(settings):
            assert "help" not in field.metadata or field.default is not MISSING


def test_options_have_the_types_of_their_fields():
    given = given_by(
        "trace", "text", "--kinds", "mlp, attn", "--corrupt", "3,4", "--reverse", "--window", "2",
        "--neutral", "-1", "0.5", "--no-header", "--map", "up=positive", "--delimiter", "tab",
    )  # fmt: skip
    assert given["settings__kinds"] == ("mlp", "attn")
    assert given["settings__corrupt"] == (3, 4)
    assert given["settings__direction"] == "corrupt"
    assert given["settings__window"] == 2
    assert given["reading__neutral"] == (-1.0, 0.5)
    assert given["reading__header"] is False
    assert given["reading__mapping"] == (("up", 1),)
    assert given["reading__delimiter"] == "\t"
    assert given_by("trace", "text", "--corrupt", "word:2")["settings__corrupt"] == "word:2"
    assert given_by("sweep", "--label", "negative")["selection__label"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "text", "--corruption", "counterfactual"),
        ("trace", "text", "--samples", "many"),
        ("ablate", "text", "--sweep", "strength"),
        ("sweep", "--label", "1"),
    ],
)
def test_a_value_that_is_no_choice_is_refused(arguments):
    with pytest.raises(click.BadParameter):
        given_by(*arguments)


def test_settings_are_not_loaded_to_list_commands():
    script = (
        "import sys\nfrom core.__main__ import main\nmain(['--help'], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "trace" in done.stdout
    assert done.stdout.strip().endswith("False")
