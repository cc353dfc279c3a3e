"""Wraps the behaviour of a method: names in other accounts do not exist, running calls of a key are counted,
and a stream ends when its key does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import grpc

from engine.errors import NotFound
from service.auth.caller import Caller, current_caller
from service.auth.errors import ScopeMissing
from service.auth.gate import Gate
from service.auth.methods import rule_of
from service.waiting import Waiting

Behaviour: TypeAlias = Callable[[Any, grpc.ServicerContext], Any]

_COLLECTIONS = ("accounts/", "apiKeys/")
"""How every resource name begins."""


def gated(behaviour: Behaviour, method: str, gate: Gate, *, response_streaming: bool) -> Behaviour:
    """The behaviour for callers with a key. `gate` has admitted the call."""
    names = NameCheck(method)

    def unary(request: Any, context: grpc.ServicerContext) -> Any:
        caller = current_caller()
        if caller.meters is None:
            return behaviour(names.checked(request, caller), context)
        caller.meters.begin()
        try:
            return behaviour(names.checked(request, caller), context)
        finally:
            caller.meters.end()

    def streaming(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        caller = current_caller()
        if caller.meters is not None:
            caller.meters.begin()
        try:
            for response in behaviour(names.checked(request, caller), context):
                gate.check(method, caller)
                if isinstance(response, Waiting):
                    yield Waiting(min(response.due, gate.expires_at(caller)))
                else:
                    yield response
            gate.check(method, caller)
        finally:
            if caller.meters is not None:
                caller.meters.end()

    return streaming if response_streaming else unary


class NameCheck:
    """Refuses requests that name what is not the caller's, as if it did not exist."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._rule = rule_of(method)
        self._getters = [attrgetter(path) for path in self._rule.names]

    def checked(self, request: Any, caller: Caller) -> Any:
        """The request, or the requests of a stream. Raises NotFound for a name in another account;
        ScopeMissing.
        """
        if not caller.account:
            return request
        if hasattr(request, "__next__"):
            return self._each(request, caller)
        self._check(request, caller)
        return request

    def _each(self, requests: Iterator[Any], caller: Caller) -> Iterator[Any]:
        for request in requests:
            self._check(request, caller)
            yield request

    def _check(self, request: Any, caller: Caller) -> None:
        names = [name for get in self._getters for name in _listed(get(request))]
        for name in names:
            # Whatever else is written there is no name, and refused as such.
            if name.startswith(_COLLECTIONS) and not caller.sees(name):
                raise NotFound(name)
        needed = self._rule.without_name
        if needed is not None and needed not in caller.scopes and not any(names):
            raise ScopeMissing(needed, f"{self._method} without an account")


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value
