"""The command `milepost`."""

from __future__ import annotations

import importlib.util
import os
import sys

COMMAND_LINE_MISSING = "the command line is not installed: pip install 'milepost[cli]'"


def main() -> None:
    """Entry point of the command."""
    # `python -c` looks in the caller's directory first, where a package `service` may be another one.
    if sys.path[0] == "":
        del sys.path[0]
    # gRPC's core logs closed connections for its developers; the commands report errors themselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # The threads that numpy makes for linear algebra cost a third of its import, and nothing here uses them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if any(importlib.util.find_spec(package) is None for package in ("rich", "typer")):
        sys.exit(f"milepost: {COMMAND_LINE_MISSING}")
    from milepost.cli.commands import app_for

    app_for(sys.argv[1:])()
