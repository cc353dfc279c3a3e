"""The access log: one line a call, for all calls or for those that failed or took long."""

from __future__ import annotations

from typing import Literal

import grpc
import structlog

from engine.errors import MilepostError, NotFound
from service.auth.caller import current_key
from service.errors import code_of
from service.peers import peer_of
from service.telemetry.line_limit import LineLimit

AccessLog = Literal["all", "problems", "none"]

_logger = structlog.get_logger("milepost.access")


class CallLog:
    """Writes a line for calls that `mode` asks for. Nothing is formatted for others."""

    def __init__(self, mode: AccessLog, slow_call_ms: int, limit: LineLimit) -> None:
        """`limit` is for problems; a log of all calls has all."""
        self._limit = limit
        self._slow_call_s = slow_call_ms / 1_000
        self._logs_all = mode == "all"
        self._logs_problems = mode != "none"

    def succeeded(self, method: str, context: grpc.ServicerContext, elapsed_s: float) -> None:
        """A call with one answer that ended well; slow ones are problems."""
        if self._logs_all or (self._logs_problems and elapsed_s >= self._slow_call_s):
            self._write(method, context, elapsed_s, "OK")

    def finished(self, method: str, context: grpc.ServicerContext, elapsed_s: float) -> None:
        """A stream that ended well, however long it was open."""
        if self._logs_all:
            self._write(method, context, elapsed_s, "OK")

    def failed(
        self, method: str, context: grpc.ServicerContext, elapsed_s: float, error: BaseException
    ) -> None:
        """A call that was refused or that failed. Asking for a resource that does not exist is how callers
        find out what to create, and no problem.
        """
        is_routine = isinstance(error, NotFound) and method.rpartition("/")[2].startswith("Get")
        is_slow = elapsed_s >= self._slow_call_s
        if self._logs_all or (self._logs_problems and (is_slow or not is_routine)):
            reason = error.reason if isinstance(error, MilepostError) else ""
            self._write(method, context, elapsed_s, code_of(error).name, reason)

    def _write(
        self, method: str, context: grpc.ServicerContext, elapsed_s: float, code: str, reason: str = ""
    ) -> None:
        if not self._logs_all and not self._limit.admits((method, code, reason)):
            return
        fields = {"reason": reason} if reason else {}
        if key := current_key():
            fields["api_key"] = key
        _logger.info(
            "call",
            method=method,
            peer=peer_of(context),
            elapsed_ms=round(elapsed_s * 1_000, 3),
            code=code,
            **fields,
        )
