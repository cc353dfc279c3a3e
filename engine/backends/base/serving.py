"""Serving memberships to other processes of the same machine: an optional role beside a store.

A process that has the store open (the *writer*) publishes its calculated memberships into memory that other
processes (*readers*) map. A reader answers checks, sizes and lists from there, without the store, its log or
a lock, or says that it cannot; the question then goes to the writer.

What a reader answers is never older than what was acknowledged before it was asked: by a write of data, by a
change of a definition, or by a change of API keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from engine.backends.base.membership import Flags
from engine.backends.base.store import Store
from engine.values import Micros


class EstimateOutlook(msgspec.Struct, frozen=True):
    """What an estimate of an audience says beside sizes of audiences, for one that has no warnings and no
    labelled criteria.

    The audience draws from the users of `above` (an audience; "" = the whole population) that are in none of
    `before`, which are audiences without common users. `work` is that of `Outlook`.
    """

    above: str
    before: tuple[str, ...]
    work: float


class ServedScope(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be served of one scope, in Milepost a journey.

    `generation` is that of the records that the definitions were read from; another one ends the service of
    the scope at once. `reached` is the instant of the last refresh. `definitions` has the digest of each
    audience's definition: a membership of another definition is not served. `names` are the names under which
    callers ask, each with its audience. `inputs` are those whose users are the scope's population.

    `outlooks` has the audiences whose estimates may be served. They hold while the account has had `writes`
    writes; see `ServingWriter.writes`.
    """

    generation: int
    reached: Micros
    depends_on_time: bool
    definitions: Mapping[str, str] = {}
    names: Mapping[str, str] = {}
    inputs: tuple[str, ...] = ()
    outlooks: Mapping[str, EstimateOutlook] = {}
    writes: int | None = None


class ServingWriter(Protocol):
    """Publishes. Safe to call from several threads."""

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory, for readers to inherit."""
        ...

    def serve(self, account: str, scopes: Mapping[str, ServedScope]) -> None:
        """Serves the memberships of some scopes of an account as they are now, instead of those served
        before.
        """
        ...

    def serve_ids(self, account: str) -> None:
        """Serves ids of users of the account that readers do not have yet, unless many more are about to
        come. Called after each round.
        """
        ...

    def writes(self, account: str) -> int | None:
        """How many writes have touched users of the account since its scopes are served; None when none is.
        Takes no lock.
        """
        ...

    def change_records(self, generation: int) -> None:
        """Ends the service of every scope of another generation. Called before a change becomes visible."""
        ...

    def keep_time(self, now: Micros) -> None:
        """Gives readers the time. They stop to answer when it is not kept."""
        ...

    def put_keys(self, keys: bytes) -> None:
        """Gives readers the API keys. From then on nobody answers by the keys before."""
        ...

    def close(self) -> None:
        """Ends the service: readers answer nothing any more."""
        ...


class Served(msgspec.Struct, frozen=True):
    """The answer for one user and audience."""

    member: bool
    as_of: Micros
    revision: int


class ServedMany(msgspec.Struct, frozen=True):
    """The answers for many users (rows) and audiences (columns); UNDECIDED ones have to be evaluated."""

    flags: Flags
    as_of: Micros
    revision: int
    generation: int
    """That of the records that the definitions were read from."""


class ServedCount(msgspec.Struct, frozen=True):
    """Users of an audience, and of its scope's population."""

    users: int
    population: int
    as_of: Micros
    revision: int


class ServedEstimate(msgspec.Struct, frozen=True):
    """Sizes of an audience without warnings and labelled criteria. `draw` is how many users it draws from;
    `has_before` tells whether others draw before it. `work` is that of `Outlook`.
    """

    count: ServedCount
    draw: int
    has_before: bool
    work: float


class ServedPage(msgspec.Struct, frozen=True):
    """User ids, and the `after` to continue with ("" = the end), as of `MemberPage`."""

    user_ids: list[str]
    next_after: str
    as_of: Micros
    revision: int


class ServedMembers(Protocol):
    """The members of an audience at one instant, which do not change."""

    def page(self, after: str, limit: int) -> ServedPage:
        """A page of them, without users who were erased meanwhile. Raises StoreUnavailable when their ids are
        not served any more.
        """
        ...


class ServingReader(Protocol):
    """Answers from the memory of a writer. Safe to call from several threads."""

    def contains(self, name: str, user_id: str) -> Served | None:
        """Whether the user is in the audience of that name; None when only the writer can tell."""
        ...

    def contains_many(self, account: str, names: Sequence[str], user_ids: Sequence[str]) -> ServedMany | None:
        """`contains` for many users and audiences of one account; None when a name is not served."""
        ...

    def count(self, name: str) -> ServedCount | None:
        """The size of the audience of that name; None when only the writer can tell."""
        ...

    def estimate(self, name: str) -> ServedEstimate | None:
        """The sizes that an estimate of the audience of that name consists of; None when only the writer can
        tell.
        """
        ...

    def serves(self, name: str) -> bool:
        """Whether the members of the audience of that name are served, though some users may be dirty."""
        ...

    def page(self, name: str, after: str, limit: int, as_of: Micros | None) -> ServedPage | None:
        """A page of the members of the audience of that name; None when only the writer can tell. Without
        `as_of` they are as of now; with it as of the instant of an earlier page.
        """
        ...

    def members(self, name: str) -> ServedMembers | None:
        """All members of the audience of that name as of now; None when only the writer can tell."""
        ...

    def is_current(self, answer: ServedMany) -> bool:
        """Whether the definitions that the answer is of still hold."""
        ...

    def revision(self) -> int:
        """The newest revision that answers include."""
        ...

    def now(self) -> Micros | None:
        """The writer's time; None while it is not kept."""
        ...

    def keys(self) -> tuple[int, bytes]:
        """The API keys as the writer put them, and a number that changes with them."""
        ...

    def keys_version(self) -> int:
        """The number of the keys that hold now."""
        ...


class ServingTools(Protocol):
    """How a backend serves. See `engine.backends.registry.Registration`."""

    def is_possible_here(self) -> bool:
        """Whether this machine can serve."""
        ...

    def writer(self, store: Store) -> ServingWriter:
        """Begins to serve the memberships of an open store. Raises Unsupported where the machine cannot."""
        ...

    def reader(self, descriptor: int, stored_age_micros_max: Micros) -> ServingReader:
        """Reads what a writer serves. Memberships that depend on time are used up to this age."""
        ...
