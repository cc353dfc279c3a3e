"""A service in the process of a test."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from milepost.client import Client
from milepost.rules.loading import Loading
from milepost.rules.reading import read_seed
from milepost.testing.clock import Clock, micros_of, moment_of

DEFAULT_ACCOUNT = "test"


class ServiceNotInstalled(ImportError):
    """The distribution `milepost-server` is missing."""


class Service:
    """A running service. `target` is its address, `directory` where its files are. `application` is the
    service itself, an object of the distribution `milepost-server` that may change with any version.
    """

    def __init__(self, embedded: Any, directory: Path, account: str) -> None:
        self.application = embedded.application
        self.config = embedded.config
        self.directory = directory
        self.target: str = embedded.application.address
        self.clock = Clock(embedded)
        self._account = account
        self._clients = ExitStack()
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """A client for the account of the test."""
        if self._client is None:
            self._client = self.client_for(self._account)
        return self._client

    def client_for(self, account: str, *, api_key: str = "") -> Client:
        """A client for another account or with a key; closed with the service."""
        return self._clients.enter_context(Client(self.target, account=account, api_key=api_key))

    def load(self, seed: Path | str) -> None:
        """Loads inputs, users, events and journeys of a YAML file into the account. Its times are relative to
        its `as_of`, by default the time of the clock. Raises InvalidRuleTests, and Refused for what the
        service does not take.
        """
        found = read_seed(Path(seed), self.clock.now)
        loading = Loading(self.client, found)
        loading.prepare()
        loading.send(found.shared)

    def close(self) -> None:
        """Closes the clients."""
        self._clients.close()


@contextmanager
def service(
    directory: Path | str | None = None,
    *,
    now: str | datetime | None = None,
    seed: Path | str | None = None,
    account: str = DEFAULT_ACCOUNT,
    **settings: Any,
) -> Iterator[Service]:
    """A service on a free port of 127.0.0.1, stopped at the end.

    Its store is in `directory`, which stays; without one it is in memory, and files of outputs and backups
    are in a temporary directory. With `now` its time stands still there until it is moved, otherwise it is
    that of the machine. `seed` is a file to load. `account` is created; "" = none. `settings` are those of
    `milepost serve`, such as `readers=1`.

    Raises ServiceNotInstalled without `milepost-server`.
    """
    if importlib.util.find_spec("service") is None:
        raise ServiceNotInstalled("milepost.testing runs the service: pip install milepost-server")
    from service.embedded import Embedded, MovableTime

    stands_at = None if now is None else micros_of(moment_of(now))
    with ExitStack() as stack:
        if directory is None:
            found = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milepost-")))
            where = {"memory": True, "output_dir": found / "outputs", "backup_dir": found / "backups"}
        else:
            found = Path(directory)
            where = {"data_dir": found}
        embedded = Embedded({**where, **settings}, MovableTime(stands_at))
        stack.callback(embedded.stop)
        running = Service(embedded, found, account)
        stack.callback(running.close)
        if account:
            running.client.ensure_account()
        if seed is not None:
            running.load(seed)
        yield running
