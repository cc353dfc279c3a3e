"""`milepost serve`: run the service."""

from __future__ import annotations

import importlib.util
import os
import sys

import typer

SERVICE_MISSING = "the service is not installed: pip install milepost-server"


def serve(context: typer.Context) -> None:
    """Run the service; its flags are those of `milepost-server` (see --help)."""
    require_service()
    # The service replaces this process, so signals and exit status need no forwarding.
    sys.stdout.flush()
    os.execv(sys.executable, [*service_command(), *context.args])


def service_command() -> list[str]:
    """Starts the installed service.

    Without `-P` Python would look in the caller's directory first, and run a package `service` found there.
    """
    return [sys.executable, "-P", "-m", "service"]


def require_service() -> None:
    """Exits with a message when the service package is not installed."""
    if importlib.util.find_spec("service") is None:
        print(f"milepost: {SERVICE_MISSING}", file=sys.stderr)
        raise typer.Exit(1)
