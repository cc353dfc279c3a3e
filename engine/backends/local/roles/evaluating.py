"""What a refresh needs to know of the users it has evaluated: the same for each backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def users(self) -> Mapping[int, BitMap | None]:
        """The users evaluated, by group in order; None = all of a group."""
        ...

    def answers(self) -> Sequence[Mapping[int, BitMap]]:
        """For each root the users evaluated that are in it, by group in order; groups without may be left
        out. Roots with the same users, also of other evaluations of a round, may share an answer. Do not
        modify it.
        """
        ...
