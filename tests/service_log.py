"""The log of services that run in the process of a test."""

from __future__ import annotations

import sys

import structlog


def keep_apart() -> None:
    """Sends the log to the standard error of the process, so that it stays out of what commands print: they
    have a `sys.stdout` and a `sys.stderr` of their own.
    """
    structlog.reset_defaults()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
