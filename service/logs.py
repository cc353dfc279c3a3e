"""Structured logs on stderr, as JSON lines or readable text.

A traceback names files, lines, functions and types of exceptions. It shows neither local variables nor the
messages of exceptions, because both may hold ids and data of users.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any, Literal, TextIO, TypeAlias

import structlog

from service.telemetry.request_ids import add_request_id

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

QUIET_LIBRARIES = ("httpx", "httpcore")
"""Their lines name URLs, passwords included, and headers. What goes wrong is logged by the caller."""
CHAINED_MAX = 10
"""Errors shown of one chain."""

_logger = structlog.get_logger("milepost.service")

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO = sys.stderr) -> None:
    """Configures the logs of this process and its libraries."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_request_id,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for library in QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    threading.excepthook = _log_uncaught


def _renderers(log_format: LogFormat, stream: TextIO) -> list[structlog.typing.Processor]:
    if log_format == "json":
        return [
            structlog.processors.ExceptionRenderer(_traceback_object),
            structlog.processors.JSONRenderer(),
        ]
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_write_traceback)]


def _log_uncaught(failure: threading.ExceptHookArgs) -> None:
    error = failure.exc_value
    if error is not None:
        name = "" if failure.thread is None else failure.thread.name
        _logger.error("thread failed", thread=name, exc_info=(type(error), error, failure.exc_traceback))


def _traceback_object(exc_info: ExcInfo) -> list[dict[str, Any]]:
    return [
        {
            "exc_type": type(error).__name__,
            "exc_value": _shown(error),
            "frames": [
                {"filename": frame.filename, "lineno": frame.lineno, "name": frame.name}
                for frame in traceback.extract_tb(error.__traceback__)
            ],
        }
        for error in _chain(exc_info[1])
    ]


def _write_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    for error in reversed(_chain(exc_info[1])):
        stream.write("\nTraceback (most recent call last):\n")
        stream.writelines(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        stream.write(": ".join(filter(None, (type(error).__name__, _shown(error)))))


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error, what it was raised from, and so on; for a group, its parts as well."""
    chain: list[BaseException] = []
    waiting = [error]
    while waiting and len(chain) < CHAINED_MAX:
        each = waiting.pop(0)
        if each is None or each in chain:
            continue
        chain.append(each)
        waiting.append(each.__cause__ or (None if each.__suppress_context__ else each.__context__))
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions)
    return chain


def _shown(error: BaseException) -> str:
    """What the system says of a failed operation; other messages may hold data of users."""
    return error.strerror or "" if isinstance(error, OSError) else ""
