"""The gRPC server around the engine: handlers, error mapping, delivery to outputs and configuration."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the service until SIGTERM or SIGINT and returns the exit status; `python -m service` is the same.

    `argv` are the flags (`--help` lists them), by default those of this process.
    """
    # Imported here, so that parts of the service can be used without loading all of it. Signals come first:
    # loading the rest takes a quarter of a second, in which a signal would kill the process.
    from service.signals import Signals

    signals = Signals()
    from service.command import run

    return run(argv, signals)
