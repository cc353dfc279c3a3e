"""The gRPC server around the engine: handlers, error mapping, delivery to outputs and configuration."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the service until SIGTERM or SIGINT and returns the exit status; `python -m service` is the same.

    `argv` are the flags (`--help` lists them), by default those of this process.
    """
    # Imported only now, so that a part of the service can be used without all of it.
    from service.command import run

    return run(argv)
