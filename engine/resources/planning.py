"""Planning a write before the lock on writes is taken.

Checking criteria may take long, and all accounts wait for that lock. So a write plans first, with the records
as they are, and only uses the plan under the lock. It plans again there if the account changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from engine.resources.repository import Repository

T = TypeVar("T")


def planned(repository: Repository, account: str, plan: Callable[[], T]) -> Callable[[], T]:
    """Calls `plan`, which reads records of the account and writes nothing. What is returned answers under the
    lock as `plan` does, errors included.
    """
    change = repository.latest_change(account)
    error: Exception | None = None
    try:
        result = plan()
    except Exception as refusal:
        # Kept, whatever it is: a plan over records that change may meet any state.
        error = refusal

    def under_the_lock() -> T:
        if repository.latest_change(account) != change:
            return plan()
        if error is not None:
            raise error
        return result

    return under_the_lock
