"""Fields that only operators may change: limits of accounts and of their keys."""

from __future__ import annotations

from engine.resources.records import Scope
from service.auth.caller import caller_is_operator
from service.auth.errors import ScopeMissing


def refuse_quota(field: str) -> None:
    """Raises ScopeMissing when a caller that is no operator changes a limit of an account."""
    if not caller_is_operator():
        raise ScopeMissing(Scope.OPERATOR, f"account.{field}")


def refuse_limit(field: str) -> None:
    """Raises ScopeMissing when a caller that is no operator changes a limit of a key."""
    if not caller_is_operator():
        raise ScopeMissing(Scope.OPERATOR, f"api_key.{field}")
