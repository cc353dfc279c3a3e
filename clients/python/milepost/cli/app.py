"""The application with every command."""

from __future__ import annotations

from milepost.cli.commands import COMMANDS, assembled

app = assembled(COMMANDS)
