"""What lies where in the memory that readers map, and why an answer is never older than it may be.

All of it is 64-bit words, and blocks that words point at. One thread writes at a time: the one with the state
lock, or for the few words outside of it with the lock of `ServingWriter`. Readers take no lock.

A *record* begins with a counter that is odd while the record changes. A reader reads the counter, then the
record and what it points at, then the counter again. If it is odd or has changed, what was read is thrown
away: it may be half of a change, or a block that was freed and used anew.

| the header | a scope | an account |
|---|---|---|
| REVISION: the newest applied | its counter | its counter |
| GENERATION of the records | generation of its records | the table of its users, with a counter of its own |
| CLOCK: the time, when it was set | the instant it reached; a stamp | flags, seed of hashes, changes of ids |
| KEYS: the API keys | its account; its population | WRITES: how many have touched users |
| SCOPES: where they are | members by audience and group; names; outlooks | by group: touched users, ids |

Why a check that begins after a write was acknowledged includes it:

1. `touched` has for each user the *stamp* of the last write that touched it. There is one running stamp. A
   scope is served under the state lock: it gets the running stamp, the running stamp rises by one, every user
   that is dirty in the scope is touched with it, and then the members of the last refresh are published. A
   write that touches a user stores the running stamp there, under the same lock and before it is
   acknowledged. So a user is clean (its stamp is at most the scope's) only if no write has touched it since
   it was evaluated.
2. A reader reads, in this order: REVISION, the scope's record, the users' table, the user's stamp, and the
   counters again. The processor makes the writer's stores visible in their order (see `require_order`), and
   an acknowledgement comes after them. Whatever was acknowledged before the check is in what the reader
   reads; what comes while it reads may or may not be, and the answer is the one from before or from after.
3. A new user is in the table before its data is acknowledged. So an id that is not there has no data, unless
   the table is not complete or the account has aliases; then the reader does not answer.
4. An alias or an erasure makes an id mean another user. Their number (BEGUN) rises before anything changes,
   and ENDED follows once everything has changed. A reader answers only if both were equal before it looked
   for the user, and the number is the same afterwards.
5. A change of a definition stores the new GENERATION before the change is visible to anyone. A scope of
   another generation is not answered from.
6. The revision of an answer was read before everything else: the answer includes every write up to it.

Sizes are of everyone, so they are answered only while nobody is dirty:

7. LATE of a scope is set, under the state lock and before the acknowledgement, by a write that makes a user
   dirty in the scope. It is cleared by the next publication after which nobody is dirty. A reader looks at it
   after it has read the scope, and then at the scope's counter: with the same publication and LATE not set,
   the members and the population are right for everyone.
8. IDS of a scope is the number of changes of ids (BEGUN) when it was published, or UNCOUNTED while exits of
   erased users wait, whom the members still include. A reader counts only while the account has that number.
9. Ids of users come in pages, with a counter of their own (IDS_COUNTER). They are added after their users, so
   a reader may not find one and then does not answer. An erased user's id is cleared before the erasure is
   acknowledged. A page of a list is answered like a count. It is also answered while dirty users are
   elsewhere: while no user from the first of the page to the member behind its last was touched since the
   publication, members or not.
10. Outlooks of estimates also depend on data that the scope does not read. They hold while WRITES of the
    account is the number that they were made at.
"""

from __future__ import annotations

import platform
from enum import IntEnum

from engine.errors import Unsupported

HEADER_WORDS = 64
SCOPES_MAX = 1 << 20
SCOPE_WORDS = 32
NOBODY = 0
"""Number of a bitmap without members."""

UNCOUNTED = (1 << 64) - 1
"""Instead of a number that nobody is to go by."""
NOT_SERVED = (1 << 64) - 1
"""Generation of a scope that is not served."""
WORD_MASK = (1 << 64) - 1

ORDERED_MACHINES = ("x86_64", "AMD64")


class Header(IntEnum):
    """Words of the header."""

    REVISION = 1
    GENERATION = 2
    CLOCK_COUNTER = 3
    CLOCK_TIME = 4
    CLOCK_MONOTONIC = 5
    KEYS_COUNTER = 6
    KEYS_AT = 7
    KEYS_BYTES = 8
    SCOPES = 9
    """Number of scopes, served or not any more. Their offsets follow the header."""
    NAMES_VERSION = 10
    """Changes with the names that are served."""
    CLOSED = 11


class Scope(IntEnum):
    """Words of a scope."""

    COUNTER = 0
    GENERATION = 1
    REACHED = 2
    DEPENDS_ON_TIME = 3
    STAMP = 4
    ACCOUNT_AT = 5
    MEMBERS_AT = 6
    MEMBERS_BYTES = 7
    NAMES_AT = 8
    NAMES_BYTES = 9
    NAMES_VERSION = 10
    LATE = 11
    """Not 0: a user has become dirty since, or was dirty already."""
    IDS = 12
    POPULATION = 13
    OUTLOOKS_AT = 14
    OUTLOOKS_BYTES = 15
    WRITES = 16
    """Those of the account that the outlooks are made at."""


class Account(IntEnum):
    """Words of an account; four words a group follow: where its touched users are, and how many fit; where
    the pages of its users' ids are, and how many there are.
    """

    COUNTER = 0
    TABLE_AT = 1
    TABLE_SLOTS = 2
    TABLE_COUNTER = 3
    IS_COMPLETE = 4
    SEED = 5
    HAS_ALIASES = 6
    BEGUN = 7
    ENDED = 8
    GROUPS = 9
    WRITES = 10
    IDS_COUNTER = 11
    TOUCHED = 16


def keeps_order() -> bool:
    """Whether the processor shows stores to others in their order."""
    return platform.machine() in ORDERED_MACHINES


def require_order() -> None:
    """Raises Unsupported on a processor that may show stores to others in another order."""
    if not keeps_order():
        raise Unsupported(
            f"readers need a processor that keeps the order of stores ({', '.join(ORDERED_MACHINES)}),"
            f" and this is {platform.machine()}: start the service with --readers 0"
        )
