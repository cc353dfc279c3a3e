"""`milepost serve`: run the service."""

from __future__ import annotations

import importlib.util
import os
import sys

import typer

SERVICE_MISSING = "the service is not installed here: pip install milepost-server"


def serve(context: typer.Context) -> None:
    """Run the service; its flags are those of `python -m service` (see --help)."""
    require_service()
    # The service takes the place of this process, so that signals and its exit status need no passing on.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "service", *context.args])


def require_service() -> None:
    """Ends the command with a message when the package of the service is not installed."""
    if importlib.util.find_spec("service") is None:
        print(f"milepost: {SERVICE_MISSING}", file=sys.stderr)
        raise typer.Exit(1)
