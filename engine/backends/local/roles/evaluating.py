"""What a refresh needs to know of the users it has evaluated: the same for each backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyroaring import BitMap

from engine.backends.local.account.people import People
from engine.backends.local.storage.turns import Read


class Evaluation(Protocol):
    """The users of a plan's roots, among those evaluated. Call with the state lock held."""

    @property
    def account(self) -> People:
        """The account it is of."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether everyone was evaluated."""
        ...

    @property
    def is_void(self) -> bool:
        """Whether something has changed that may concern everyone."""
        ...

    @property
    def is_of_its_beginning(self) -> bool:
        """Whether the result is the state at the beginning: users with new data can then wait."""
        ...

    def catch_up(self, read: Read) -> None:
        """Evaluates users that changed, while others write, until few are left; none if they can wait."""
        ...

    def settle(self, read: Read) -> None:
        """Evaluates the users that changed since, unless they can wait. Keeps the lock."""
        ...

    def groups(self) -> Sequence[tuple[int, BitMap | None, Sequence[BitMap]]]:
        """Each group with the users evaluated (None = all) and the users of every root among them."""
        ...
