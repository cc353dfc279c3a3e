"""The command `milepost`."""

from __future__ import annotations

import os


def main() -> None:
    """Entry point of the command."""
    # What gRPC's core logs about connections that end is for its developers; errors are told by the commands.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from milepost.cli.app import app

    app()
