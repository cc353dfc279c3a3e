"""Admission by API key in a reader: with the keys that the writer served last.

A reader only answers calls that are certain to be permitted. Whatever else comes is handed on, and the writer
admits or refuses it by its own keys.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TypeVar

import msgspec

from engine.backends.base import ServingReader
from engine.errors import MilepostError
from engine.values import Micros
from service.auth.caller import Caller, current_call
from service.auth.gate import Gate, Metadata
from service.auth.meter import Meters
from service.auth.running import RunningCalls
from service.auth.snapshot import AccountLimits, KeySnapshot, KnownSecret
from service.slots import Holder

NANOS_PER_MICRO = 1_000
_NO_METERS = Meters()

Limited = TypeVar("Limited", KnownSecret, AccountLimits)


class ReaderKeys:
    """Knows the API keys. `readers` is how many processes share a key's calls per second."""

    def __init__(
        self,
        served: ServingReader,
        *,
        readers: int,
        calls_per_second_max: int,
        in_flight_max: int,
        operator_slots_percent_max: int,
        running: RunningCalls | None = None,
    ) -> None:
        self._served = served
        self._readers = readers
        self._gate = Gate(
            self._now,
            calls_per_second_max=self._share(calls_per_second_max),
            in_flight_max=in_flight_max,
            operator_slots_percent_max=operator_slots_percent_max,
            running=running,
        )
        self._version = -1
        self._loading = threading.Lock()

    def recognise(self, method: str, metadata: Metadata) -> Holder | None:
        """Makes this the current call, if its key is known. Returns whose slots it takes."""
        if self._served.keys_version() != self._version:
            self._load()
        try:
            return self._gate.recognise(method, metadata).holder
        except MilepostError:
            return None

    def admit(self, name: str) -> Meters | None:
        """The meters that count the current call as running; call their `end` when it ends. None: the call is
        not permitted, or must not see a resource of that name.
        """
        try:
            method, caller = current_call()
            if not caller.sees(name):
                return None
            self._gate.count(method, caller)
            meters = caller.meters or _NO_METERS
            meters.begin()
        except (LookupError, MilepostError):
            return None
        return meters

    def check(self, method: str, caller: Caller) -> None:
        """Checks again whether a running call is permitted. Raises Unauthenticated, ScopeMissing."""
        if self._served.keys_version() != self._version:
            self._load()
        self._gate.check(method, caller)

    def _load(self) -> None:
        with self._loading:
            version, keys = self._served.keys()
            if version != self._version:
                self._gate.publish(self._shared(KeySnapshot.decoded(keys)))
                self._version = version

    def _shared(self, snapshot: KeySnapshot) -> KeySnapshot:
        """The keys, with this reader's share of their calls per second and of their accounts'."""
        return KeySnapshot(
            tuple(map(self._with_share, snapshot.secrets)),
            snapshot.required,
            tuple(map(self._with_share, snapshot.accounts)),
            snapshot.columns,
        )

    def _with_share(self, limited: Limited) -> Limited:
        share = self._share(limited.calls_per_second_max)
        return msgspec.structs.replace(limited, calls_per_second_max=share)

    def _share(self, calls_per_second_max: int) -> int:
        return math.ceil(calls_per_second_max / self._readers)

    def _now(self) -> Micros:
        now = self._served.now()
        return time.time_ns() // NANOS_PER_MICRO if now is None else now
