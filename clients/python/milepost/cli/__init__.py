"""The command `milepost`."""

from __future__ import annotations


def main() -> None:
    """Entry point of the command."""
    from milepost.cli.app import app

    app()
