"""A store in a cluster, opened by a process of its own, which a test kills."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

from engine.backends.base import Contains, Count, Record
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.mapped import account_of_input
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.errors import StoreUnavailable
from engine.plan.model import Plan

_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload([__name__])


class GatewayEnded(Exception):
    """The process has ended, perhaps in the middle of a call."""


class Answer(NamedTuple):
    """What a question was answered, None when it failed with StoreUnavailable, and the marks up to which rows
    of the mapped table counted before it and after it.
    """

    value: Any
    earliest: int
    latest: int


class GatewayProcess:
    """Starts and ends the process, and calls it. A call raises StoreUnavailable as the store does, and
    GatewayEnded when the process ends before it has answered.
    """

    def __init__(self, url: str, mapped: str, settings: ClickHouseSettings) -> None:
        """`mapped`: the input whose events a table gives."""
        self._arguments = (url, mapped, settings)
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and has not been found to have ended."""
        return self._connection is not None

    def start(self) -> None:
        """Starts the process and opens the store."""
        self._connection, theirs = _FORK_SERVER.Pipe()
        self._process = _FORK_SERVER.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except StoreUnavailable:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the process at once, if it runs."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method of `_Calls`."""
        if self._connection is None:
            raise GatewayEnded
        with contextlib.suppress(BrokenPipeError):
            self._connection.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        assert self._connection is not None
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self.kill()
            raise GatewayEnded from None
        match kind:
            case "done":
                return value
            case "unavailable":
                raise StoreUnavailable(value)
            case _:
                raise AssertionError(value)


class _Errors(logging.Handler):
    """Keeps what the engine logs as an error: a fault of it, and none of a server's."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        self.found.append(logging.Formatter().format(record))


class _Calls:
    """What the process can be asked for."""

    def __init__(self, backend: ClickHouseBackend, mapped: str, errors: _Errors) -> None:
        self._backend, self._mapped, self._errors = backend, mapped, errors

    def map(self, table: str) -> None:
        """Maps a table."""
        self._backend.map_events(self._mapped, table, 0.0)

    def append(self, account: str, records: Sequence[Record], request_id: str) -> int:
        """Appends records, and returns the mark up to which rows count, as all that follow do."""
        self._backend.append(account, records, request_id=request_id)
        return self.reach()

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """Makes one id an alias of another one."""
        self._backend.alias(account, from_user_id, to_user_id)
        return self.reach()

    def erase(self, account: str, user_ids: Sequence[str]) -> int:
        """Erases users."""
        self._backend.erase(account, user_ids)
        return self.reach()

    def follow(self) -> int:
        """Looks at the table."""
        self._backend.follow()
        return self.reach()

    def reach(self) -> int:
        """The mark up to which rows count."""
        return self._backend._table_of(account_of_input(self._mapped), self._mapped).reach.mark

    def sizes(self, plan: Plan) -> Answer:
        """The sizes of a plan."""
        return self._asked(lambda: self._backend.execute(plan, Count()).sizes)

    def flags(self, plan: Plan, user_ids: tuple[str, ...]) -> Answer:
        """Which roots of a plan have which users."""
        return self._asked(lambda: self._backend.execute(plan, Contains(user_ids)).flags)

    def _asked(self, ask: Callable[[], object]) -> Answer:
        earliest = self.reach()
        try:
            value = ask()
        except StoreUnavailable:
            value = None
        return Answer(value, earliest, self.reach())

    def has_caught_up(self) -> bool:
        """Whether no write waits and no server lacks rows. Then rows that do not count are removed."""
        if self._backend._writer.delay is not None or self._backend.has_servers_behind:
            return False
        self._backend.checkpoint()
        return True

    def has_base(self) -> bool:
        """Whether the account has a base."""
        return self._backend._cluster_state.rows.of(account_of_input(self._mapped)).base is not None

    def close(self) -> None:
        """Closes the store."""
        self._backend.close()

    def errors(self) -> list[str]:
        """What the engine has logged as an error."""
        return self._errors.found

    def end_in(self, calls: int, place: Literal["before", "after"]) -> None:
        """Ends the process before or after the insert or query that comes after so many."""
        left = calls

        def ending(method: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0 and place == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                found = method(*arguments, **named)
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            return called

        for name in ("insert", "query"):
            setattr(Server, name, ending(getattr(Server, name)))


def _serve(connection: Connection, url: str, mapped: str, settings: ClickHouseSettings) -> None:
    location = location_of(url.removeprefix("clickhouse:"))
    Path(location.gateway).mkdir(parents=True, exist_ok=True)
    errors = _Errors()
    logging.getLogger("engine").addHandler(errors)
    # The driver logs each server that does not answer.
    logging.getLogger().addHandler(logging.NullHandler())
    calls: _Calls | None = None
    request: tuple[str, tuple[Any, ...]] = ("", ())
    while True:
        try:
            if calls is None:
                calls = _Calls(ClickHouseBackend.open(location, settings=settings), mapped, errors)
                value = None
            else:
                value = getattr(calls, request[0])(*request[1])
            connection.send(("done", value))
        except StoreUnavailable as error:
            connection.send(("unavailable", error.message))
        except Exception:
            connection.send(("failed", traceback.format_exc()))
        try:
            request = connection.recv()
        except EOFError:
            return
