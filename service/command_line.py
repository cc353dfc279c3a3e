"""Flags and variables: how the names of settings are written, and the parser of the command line."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from engine.backends.settings import Declared
from service.config_file import nearest
from service.setting_values import choices_of

DISTRIBUTION = "milepost-server"
VARIABLE_PREFIX = "MILEPOST_"
METAVARS = {int: "N", int | None: "N", float: "N", str: "TEXT", str | None: "TEXT"}
"""How `--help` shows a value of a type; another is a path."""


def flag_of(name: str) -> str:
    """`data_dir` → `--data-dir`."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """`data_dir` → `MILEPOST_DATA_DIR`."""
    return VARIABLE_PREFIX + name.upper()


class Parser(argparse.ArgumentParser):
    """A parser whose faults take one line: the usage of all flags would hide them."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2."""
        mark = "" if message.endswith("?") else ";"
        self.exit(2, f"{self.prog}: {message}{mark} --help lists the flags\n")

    def read(self, arguments: Sequence[str]) -> dict[str, str | None]:
        """The value of each flag. An unknown flag is refused with the nearest one that there is."""
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            flag = unknown[0].partition("=")[0]
            known = [each for each in self._option_string_actions if each.startswith("--")]
            what = "flag" if flag.startswith("-") else "flag or value of one"
            self.error(f"{flag} is no {what}{nearest(flag, known)}")
        return vars(found)


def parser_of(known: Sequence[Declared]) -> Parser:
    """The parser of the service's command line, with a flag for each setting."""
    parser = Parser(
        prog=DISTRIBUTION,
        description="Milepost: a gRPC service for customer journeys and audiences.",
        epilog=(
            f"Each flag has a variable, {variable_of('data_dir')} for --data-dir, and a key of the"
            " configuration file, data_dir. Flags win over variables, and variables over the file. Sizes may"
            " be written like 256GiB, durations like 90s or 1d12h."
        ),
        allow_abbrev=False,
    )
    version = f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    for field in known:
        default = "" if field.default is None else f" (default: {field.default})"
        metavar = "|".join(choices_of(field)) or METAVARS.get(field.kind, "PATH")
        description = f"{field.setting.description}{default}"
        if field.kind is bool:
            # `--memory` says the same as `--memory true`.
            parser.add_argument(
                flag_of(field.name), help=description, metavar="true|false", nargs="?", const="true"
            )
        else:
            parser.add_argument(flag_of(field.name), help=description, metavar=metavar)
    return parser


def early_value(arguments: Sequence[str], name: str) -> str | None:
    """The value of one flag, before the others are known."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(flag_of(name), dest=name)
    try:
        return typing.cast("str | None", vars(parser.parse_known_args(arguments)[0])[name])
    except argparse.ArgumentError:
        # A flag without its value: the whole parser reports it.
        return None
