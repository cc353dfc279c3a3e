"""A call of the command line loads the command that it names, and no other."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from milepost.cli.app import app
from milepost.cli.commands import COMMANDS, app_for

ALL: Any = typer.main.get_command(app)


def shape(command: Any) -> Any:
    """The names, help and options of a command, or of those in a group."""
    parts = {name: shape(each) for name, each in getattr(command, "commands", {}).items()}
    return type(command).__name__, command.help, [each.opts for each in command.params], parts


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_alone_is_the_same_as_among_all(name: str) -> None:
    alone: Any = typer.main.get_group(app_for([name, "--help"]))
    assert list(alone.commands) == [name]
    assert shape(alone.commands[name]) == shape(ALL.commands[name])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["chek"], ["--account", "check"]])
def test_without_the_name_of_a_command_all_are_there(arguments: list[str]) -> None:
    every: Any = typer.main.get_group(app_for(arguments))
    assert list(every.commands) == list(ALL.commands)
    assert set(every.commands) == set(COMMANDS)


@pytest.mark.parametrize("name", ["test", "check"])
def test_a_call_loads_neither_other_commands_nor_the_service(name: str) -> None:
    program = (
        "import sys; from milepost.cli.commands import app_for; app_for(sys.argv[1:]);"
        "print(*(name for name in sys.modules if name.startswith('milepost.cli.')), 'numpy' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program, name], check=True, capture_output=True, text=True)
    names = loaded.stdout.split()
    assert f"milepost.cli.{ {'test': 'rules', 'check': 'audience'}[name] }" in names
    assert "milepost.cli.importing" not in names
    assert "milepost.cli.demo" not in names
    assert names[-1] == "False"
