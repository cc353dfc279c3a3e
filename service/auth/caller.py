"""The caller of the running call, for code that has to know whose it is."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any

from engine.resources.records import Scope
from engine.values import Micros
from service.auth.meter import Meters
from service.slots import Holder

IMPLIED: dict[Scope, frozenset[Scope]] = {
    Scope.INGEST: frozenset({Scope.INGEST}),
    Scope.READ: frozenset({Scope.READ}),
    Scope.MANAGE: frozenset({Scope.READ, Scope.MANAGE}),
    Scope.ADMIN: frozenset({Scope.INGEST, Scope.READ, Scope.MANAGE, Scope.ADMIN}),
    Scope.OPERATOR: frozenset(Scope),
}
"""What each scope permits."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: an API key, or anyone while the service needs none."""

    key: str
    """Name of the API key, "" without one."""
    account: str
    """The only account that the caller sees, "" = all."""
    scopes: frozenset[Scope]
    """The scopes that the key permits, those that its own imply included."""
    digest: bytes = field(default=b"", repr=False)
    expire_time: Micros = 0
    meters: Meters | None = None
    """What its calls count on. None = nothing limits it."""
    holder: Holder | None = None
    """Whose share of the slots of a pool its calls take. None = nobody's."""

    @property
    def is_operator(self) -> bool:
        """Whether the caller may do everything in all accounts."""
        return Scope.OPERATOR in self.scopes

    def sees(self, name: str) -> bool:
        """Whether a resource of that name, if it exists, exists for the caller."""
        return not self.account or name == self.account or name.startswith(f"{self.account}/")


ANYONE = Caller(key="", account="", scopes=IMPLIED[Scope.OPERATOR])
"""The caller while no API key is needed."""

_CALL: ContextVar[tuple[str, Caller]] = ContextVar("milepost_call")


def set_call(method: str, caller: Caller) -> None:
    """Makes this the call that is served in this context. gRPC gives each call one, from admission on."""
    _CALL.set((method, caller))


def current_call() -> tuple[str, Caller]:
    """Method and caller of the call that is served in this context. Raises LookupError outside of calls."""
    return _CALL.get()


def current_caller() -> Caller:
    """The caller of the call that is served in this context. Raises LookupError outside of calls."""
    return _CALL.get()[1]


def current_key() -> str:
    """Name of the API key of the call that is served in this context, "" where there is none. For logs."""
    call = _CALL.get(None)
    return "" if call is None else call[1].key


def holder_in(run: Callable[..., Any]) -> Holder | None:
    """Who holds the slot of a call, by what gRPC runs it with: the `run` of the call's context."""
    context = getattr(run, "__self__", None)
    call = context.get(_CALL) if isinstance(context, Context) else None
    return None if call is None else call[1].holder


def caller_is_operator() -> bool:
    """Whether the running call may do what only operators may."""
    return current_caller().is_operator
