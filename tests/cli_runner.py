"""Runs commands in the process of a test, like `typer.testing`, but builds the tree of commands only once."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import typer
from typer import main, testing

_built = functools.cache(main.get_command)


class CliRunner(testing.CliRunner):
    """That of Typer takes longer to build the commands of `milepost` than most of them take to run."""

    def invoke(self, app: typer.Typer, *arguments: Any, **options: Any) -> testing.Result:
        """Arguments and result are those of Typer's own."""
        with mock.patch.object(testing, "_get_command", _built):
            return super().invoke(app, *arguments, **options)
