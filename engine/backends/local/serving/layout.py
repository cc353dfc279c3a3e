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
| KEYS: the API keys | its account | by group: where its touched users are |
| SCOPES: where they are | members by audience and group; names | |

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
"""

from __future__ import annotations

import platform
from enum import IntEnum

from engine.errors import Unsupported

HEADER_WORDS = 64
SCOPES_MAX = 1 << 20
SCOPE_WORDS = 16
NOBODY = 0
"""Number of a bitmap without members."""

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


class Account(IntEnum):
    """Words of an account; two words a group follow: where its touched users are, and how many fit."""

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
