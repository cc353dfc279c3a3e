"""What a deleted account, workspace or input leaves outside of the records, such as names in the store.

The deletion notes it in the commit that deletes the record. It is removed next or, after a crash, when the
engine starts. So whatever is created under the same name starts anew.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from engine.backends.base import DataWriter
from engine.errors import MilepostError
from engine.resources.records import account_of
from engine.resources.repository import Changes, Repository

_PREFIX = "leftover/"


class Leftovers:
    """Removes what deleted resources leave."""

    def __init__(
        self, repository: Repository, backend: DataWriter, forget_account: Callable[[str], None]
    ) -> None:
        """`forget_account` removes what others keep of an account."""
        self._repository = repository
        self._backend = backend
        self._forget_account = forget_account

    def note(self, changes: Changes, name: str) -> None:
        """Notes in the commit that deletes a resource that something is left of it."""
        changes.put_document(_PREFIX + name, b"")

    def clear(self, name: str) -> None:
        """Removes what is left of a deleted resource. Does nothing when nothing is noted. Raises
        LimitExceeded and DataLoss while the store takes no writes; what is left stays noted.
        """
        if self._repository.documents.get(_PREFIX + name) is None:
            return
        account = account_of(name)
        self._backend.forget(account, name)
        if name == account:
            self._forget_account(account)
        with self._repository.writing() as changes:
            changes.delete_document(_PREFIX + name)

    def clear_all(self) -> None:
        """Removes what is left of any deleted resource. While the store takes no writes it stays noted."""
        for key, _ in self._repository.documents.scan(_PREFIX):
            with suppress(MilepostError):
                self.clear(key.removeprefix(_PREFIX))
