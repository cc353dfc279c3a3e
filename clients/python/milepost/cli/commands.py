"""Assembles the commands: all of them, or the one that is called.

Importing all of them takes longer than most of them take, so a call imports only its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from milepost.cli.calling import Group

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of commands that pass options on: the service reads its own flags."""


@dataclass(frozen=True)
class _Command:
    """Where a command is: a module of this package and a function in it, or the group `app`."""

    module: str
    function: str = ""
    class_: str = ""
    """The module and the class of the command, if it has one of its own."""
    settings: dict[str, Any] = field(default_factory=dict)


COMMANDS = {
    # --help is one of the flags that the service reads.
    "serve": _Command("serve", "serve", settings={"context_settings": _PASSED_ON, "add_help_option": False}),
    "init": _Command("init", "init", settings={"context_settings": _PASSED_ON}),
    "demo": _Command("demo", "demo"),
    "test": _Command("rules", "run_tests"),
    "account": _Command("accounts"),
    "key": _Command("keys"),
    "workspace": _Command("workspaces"),
    "input": _Command("inputs"),
    "import": _Command("importing", "import_", "import_run.RemembersArguments"),
    "user": _Command("users"),
    "journey": _Command("journey"),
    "milestone": _Command("milestones"),
    "estimate": _Command("audience", "estimate"),
    "count": _Command("audience", "count"),
    "check": _Command("audience", "check"),
    "members": _Command("audience", "members"),
    "explain": _Command("explain", "explain"),
    "overlap": _Command("overlap", "overlap"),
    "watch": _Command("watching", "watch"),
    "audience": _Command("audiences"),
    "catalog": _Command("catalog"),
    "output": _Command("outputs"),
    "connection": _Command("connections"),
    "sample": _Command("sample"),
    "server": _Command("server"),
    "store": _Command("store"),
}


def app_for(arguments: Iterable[str]) -> typer.Typer:
    """The application that these arguments need: with the command that they begin with, or with all."""
    name = next(iter(arguments), "")
    return assembled([name] if name in COMMANDS else COMMANDS)


def assembled(names: Iterable[str]) -> typer.Typer:
    """The application with the commands of these names, in this order."""
    app = typer.Typer(
        help="Milepost: customer journeys with exact audience sizes.",
        no_args_is_help=True,
        cls=Group,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name in names:
        command = COMMANDS[name]
        module = import_module(f"milepost.cli.{command.module}")
        if command.function:
            app.command(name, cls=_class(command.class_), **command.settings)(
                getattr(module, command.function)
            )
        else:
            app.add_typer(module.app, name=name)
    return app


def _class(place: str) -> type[TyperCommand] | None:
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"milepost.cli.{module}"), name) if place else None


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"milepost {metadata.version('milepost')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and exit. `milepost server info` shows the service's.",
        ),
    ] = False,
) -> None:
    """Holds the options that come before a command."""
