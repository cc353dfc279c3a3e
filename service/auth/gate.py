"""Admits calls by their API key.

A known key costs one SHA-256 and one look-up in a dict. Whatever a key does not permit is refused before the
call takes a thread; what its requests name is checked once they are read.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Sequence

from engine.resources.api_keys import digest_of
from engine.resources.records import Scope
from engine.values import MICROS_PER_SECOND, Micros
from service.auth.caller import ANYONE, IMPLIED, Caller, current_call, set_call
from service.auth.errors import ScopeMissing, Unauthenticated
from service.auth.meter import Meter, Meters
from service.auth.methods import rule_of
from service.auth.running import RunningCalls
from service.auth.snapshot import KeySnapshot, KnownSecret
from service.slots import Holder

AUTHORIZATION = "authorization"
BEARER = "Bearer "
MISSING = f"the call has no API key: send the metadata `{AUTHORIZATION}: {BEARER}<key>`"
INVALID = "the API key is not valid: it is unknown, deleted or expired"

Metadata = Sequence[tuple[str, str | bytes]]


class Gate:
    """Knows the valid keys, and admits calls. `publish` replaces the keys at any time."""

    def __init__(
        self,
        now: Callable[[], Micros],
        *,
        calls_per_second_max: int,
        in_flight_max: int,
        operator_slots_percent_max: int,
        running: RunningCalls | None = None,
    ) -> None:
        """The limits are for keys that have none of their own. `running` counts the calls of other processes
        too.
        """
        self._running = running
        self._now = now
        self._calls_per_second_max = calls_per_second_max
        self._in_flight_max = in_flight_max
        self._operator_slots_percent_max = operator_slots_percent_max
        self._meters: dict[str, Meter] = {}
        self._required = True
        self._callers: dict[bytes, Caller] = {}

    def publish(self, snapshot: KeySnapshot) -> None:
        """Admits by this snapshot from now on."""
        limits = {
            secret.key: (
                secret.calls_per_second_max or self._calls_per_second_max,
                secret.in_flight_max or self._in_flight_max,
            )
            for secret in snapshot.secrets
        }
        limits |= {
            each.account: (each.calls_per_second_max, each.in_flight_max) for each in snapshot.accounts
        }
        if self._running is not None:
            self._running.know(snapshot.columns)
        self._meters = {name: self._meter(name, *found) for name, found in limits.items()}
        holders = {each.account: Holder(each.account, each.slots_percent_max) for each in snapshot.accounts}
        self._callers = {
            secret.digest: self._caller(secret, holders.get(secret.account)) for secret in snapshot.secrets
        }
        self._required = snapshot.required

    @property
    def required(self) -> bool:
        """Whether calls need a key."""
        return self._required

    def admit(self, method: str, metadata: Metadata) -> Caller:
        """Makes this the current call. Raises Unauthenticated, ScopeMissing, RateLimited."""
        caller = self.recognise(method, metadata)
        self.count(method, caller)
        return caller

    def count(self, method: str, caller: Caller) -> None:
        """Counts a call of a caller that is recognised. Raises ScopeMissing, RateLimited."""
        _require(rule_of(method).scope, caller, method)
        _count(caller)

    def admit_unknown(self, method: str, metadata: Metadata) -> None:
        """Makes this the current call, of a method that does not exist. Only callers with a key are told so,
        and the call counts against the key's rate. Raises Unauthenticated, RateLimited.
        """
        _count(self.recognise(method, metadata))

    def recognise(self, method: str, metadata: Metadata) -> Caller:
        """Makes this the current call, and counts nothing. Raises Unauthenticated."""
        caller = self.identify(metadata) if self._required else ANYONE
        # Also of a call that is refused: the log names its key.
        set_call(method, caller)
        return caller

    def check(self, method: str, caller: Caller) -> None:
        """Checks again whether a running call is admitted. Raises Unauthenticated, ScopeMissing."""
        if not self._required:
            return
        current = self._callers.get(caller.digest)
        if current is None or self._is_expired(current):
            raise Unauthenticated(INVALID if caller.key else MISSING)
        _require(rule_of(method).scope, current, method)

    def expires_at(self, caller: Caller) -> float:
        """When the caller's key expires, an instant of `time.monotonic()`; infinite when it does not."""
        current = self._callers.get(caller.digest)
        if current is None or current.expire_time == 0:
            return math.inf
        return time.monotonic() + max(0, current.expire_time - self._now()) / MICROS_PER_SECOND

    def admits_current(self) -> bool:
        """Whether the call that is served in this context is still admitted."""
        try:
            self.check(*current_call())
        except (Unauthenticated, ScopeMissing):
            return False
        return True

    def identify(self, metadata: Metadata) -> Caller:
        """The caller with the key in the metadata, while keys are needed. Counts nothing. Raises
        Unauthenticated.
        """
        digest = digest_of(_secret_in(metadata))
        caller = self._callers.get(digest)
        if caller is None or not hmac.compare_digest(caller.digest, digest) or self._is_expired(caller):
            raise Unauthenticated(INVALID)
        return caller

    def _is_expired(self, caller: Caller) -> bool:
        return caller.expire_time != 0 and caller.expire_time <= self._now()

    def _meter(self, name: str, calls_per_second_max: int, in_flight_max: int) -> Meter:
        meter = self._meters.get(name)
        if meter is None:
            cell = None if self._running is None else self._running.cell(name)
            return Meter(name, calls_per_second_max, in_flight_max, cell=cell)
        meter.limit(calls_per_second_max, in_flight_max)
        return meter

    def _caller(self, secret: KnownSecret, holder: Holder | None) -> Caller:
        names = (secret.key, secret.account)
        return Caller(
            key=secret.key,
            account=secret.account,
            scopes=frozenset().union(*(IMPLIED[scope] for scope in secret.scopes)),
            digest=secret.digest,
            expire_time=secret.expire_time,
            meters=Meters(*(self._meters[name] for name in names if name in self._meters)),
            holder=holder or Holder(secret.key, self._operator_slots_percent_max),
        )


def _require(scope: Scope | None, caller: Caller, method: str) -> None:
    if scope is not None and scope not in caller.scopes:
        raise ScopeMissing(scope, method)


def _count(caller: Caller) -> None:
    if caller.meters is not None:
        caller.meters.count_call()


def _secret_in(metadata: Metadata) -> str:
    for key, value in metadata:
        if key == AUTHORIZATION:
            if isinstance(value, str) and value[: len(BEARER)].lower() == BEARER.lower():
                return value[len(BEARER) :].strip()
            break
    raise Unauthenticated(MISSING)
