"""Runs command lines as a terminal does, and compares what they print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from typer.testing import Result

from milepost._channel import open_channel
from milepost.cli.app import app
from milepost.client import base
from tests.cli_runner import CliRunner

ANY = "…"
"""Stands for any part of a line; alone on a line, for any number of lines."""
PROGRAM = "milepost "


class _Recorder(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Notes the path of each call."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def _note(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self._paths.append(client_call_details.method)
        return continuation(client_call_details, request)

    intercept_unary_unary = _note
    intercept_unary_stream = _note

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._note(continuation, client_call_details, request_iterator)

    intercept_stream_stream = intercept_stream_unary


class Terminal:
    """Runs commands; `calls` are the paths of the methods that the last one called, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def run(self, line: str) -> Result:
        """Runs a line that begins with `milepost`, in this process."""
        self.calls.clear()
        assert line.startswith(PROGRAM), line
        return CliRunner().invoke(app, shlex.split(line.removeprefix(PROGRAM)))


@contextmanager
def terminal(target: str, account: str = "") -> Iterator[Terminal]:
    """A terminal whose commands call the service at an address, for an account."""
    made = Terminal()

    def recorded(*arguments: Any) -> grpc.Channel:
        return grpc.intercept_channel(open_channel(*arguments), _Recorder(made.calls))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "open_channel", recorded)
        patch.setenv("MILEPOST_TARGET", target)
        if account:
            patch.setenv("MILEPOST_ACCOUNT", account)
        yield made


def differs(expected: str, found: str) -> str:
    """What was found, when it is not what was expected; else nothing."""
    pattern = "".join(
        r"(?:.*\n)*" if line == ANY else re.escape(line).replace(re.escape(ANY), ".*") + r"\n"
        for line in expected.splitlines()
    )
    return "" if re.fullmatch(pattern, found) else found
