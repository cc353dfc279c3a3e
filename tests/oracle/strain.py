"""The embedded backend with reduced limits.

So a world of sixty records exercises code that otherwise needs millions: split slices, merged parts, evicted
pages, wide sums, and the other branch of every cost decision.

No limit changes an answer. Those named here are constants inside the backend and in its settings.
"""

from __future__ import annotations

import contextlib
import importlib
import random
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from engine.backends.local.settings import LocalSettings

LIMITS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "engine.backends.local.storage.ranges": {"COMPARED_RANGES_MAX": (0, 1)},
    "engine.backends.local.storage.transactions": {"KEYS_AT_FIRST": (1,), "KEYS_AT_ONCE": (1, 2)},
    "engine.backends.local.storage.compression": {"COMPRESSED_BYTES_MIN": (0, 1)},
    "engine.backends.local.query.runs": {"NARROW_SHARE": (1, 1_000)},
    "engine.backends.local.query.executor": {
        "PLAN_CACHE_BYTES_MAX": (1,),
        "TEMPLATE_CACHE_BYTES_MAX": (1,),
    },
    "engine.backends.local.query.predicates": {"FEW_USERS_MAX": (0, 1), "ROWS_COUNTED_BRIEFLY_MAX": (0, 1)},
    "engine.backends.local.query.whole_field": {
        "FEW_TEXTS_MAX": (0, 3),
        "KEPT_USERS_MIN": (0, 3),
    },
    "engine.backends.local.storage.ordinals": {"MASKED_AT_ONCE": (1, 1 << 13)},
    "engine.backends.local.storage.flat_columns": {
        "COMPARED_BYTES": (1,),
        "HOURS_KEPT_MAX": (0, 1),
        "KEPT_SHARE": (1, 1 << 20),
        "LOOKED_AT_SHARE": (1, 1 << 20),
    },
    "engine.backends.local.events.tables": {
        "ALL_ROWS_MAX": (0, 3),
        "PARTS_AT_ONCE_MAX": (0, 3),
        "PENDING_ROWS_MAX": (1, 3),
    },
    "engine.backends.local.events.all_rows": {
        "SPARSE_SHARE": (0, 1 << 40),
        "DAYS_SORTED_FAST_MAX": (0, 3),
    },
    "engine.backends.local.query.field_predicate": {
        "PROFILE_USERS_MAX": (0, 1),
        "PROFILE_USERS_OVER_SCAN_MAX": (0, 1),
    },
    "engine.backends.local.attributes.index": {"TEXT_IN_KEY_BYTES_MAX": (0, 2)},
    "engine.backends.local.users.first_last_seen": {
        "WAITING_USERS_MAX": (1, 3),
        "WAITING_BATCHES_MAX": (1, 2),
        "VECTOR_USERS_MIN": (0,),
    },
    "engine.backends.local.write.local_state": {"IMPORT_CHUNK_USERS": (1, 3)},
    "engine.backends.local.storage.sorted_runs": {"RUNS_PER_TIER_MAX": (1, 2), "BLOCK_BYTES": (16, 32)},
    "engine.backends.local.users.id_index": {
        "HASH_TABLE_USERS_MAX": (2, 6),
        "LOADED_USERS_PER_MISSING_ONE": (0, 1),
    },
    "engine.backends.local.events.aggregate": {"DENSE_SHARE": (1, 1_000)},
    "engine.backends.local.events.compaction": {
        "COMPACTED_ROWS_PER_CHECKPOINT": (0, 3),
        "EXPIRED_SHARE_MAX": (0, 1),
        "JOINED_RATIO_MAX": (0, 1),
        "LATE_SHARE_MAX": (1,),
    },
    "engine.backends.local.events.decimals": {"MANTISSA_MAX": (0, 10), "EXPONENT_MAX": (0, 1)},
    "engine.backends.local.events.distinct": {
        "VALUE_BITS_MAX": (0, 2),
        "_PAIR_MAX": (0, 8),
        "FLAGS_PER_PAIR_MAX": (0, 1_000),
    },
    "engine.backends.local.events.select": {"PROBE_COST": (0, 1_000), "FEW_TIMES_MAX": (0, 2)},
    "engine.backends.local.events.sequence": {"_KEY_MAX": (0,)},
    "engine.backends.local.events.by_value": {"ROWS_PER_VALUE_MIN": (0, 1 << 20)},
    "engine.backends.local.events.joined_rows": {"ROWS_PER_VALUE_MIN": (0, 1 << 20)},
    "engine.backends.local.events.columns": {"COMPARED_CODES_MAX": (0, 1)},
    "engine.backends.local.storage.bulk_hash": {"FEW_MESSAGES_MAX": (0,), "HASHED_AT_ONCE": (1, 2)},
    "engine.backends.local.events.sums": {"_INTEGER_MAX": (1, 1 << 8)},
    "engine.backends.local.events.table": {
        "SLICE_ROWS_MAX": (1, 3),
        "SLICE_PARTS_MAX": (1, 2),
        "SLICE_PARTS_LIMIT": (1, 3),
    },
}

UNTOUCHED_PERCENT = 40


@contextlib.contextmanager
def strained(source: random.Random) -> Iterator[LocalSettings]:
    """Reduces a random choice of limits for the length of the block, and yields matching settings."""
    with contextlib.ExitStack() as stack:
        for module_name, limits in LIMITS.items():
            module = importlib.import_module(module_name)
            for name, values in limits.items():
                if source.randrange(100) >= UNTOUCHED_PERCENT:
                    stack.enter_context(mock.patch.object(module, name, source.choice(values)))
        yield _settings(source)


def _settings(source: random.Random) -> LocalSettings:
    drawn: dict[str, Any] = {
        "groups": (1, 2, 64),
        "page_cache_bytes": (1, 4_096),
        "column_cache_bytes": (1, 4_096),
        "apply_chunk_records": (1, 2),
        "checkpoint_records": (1, 7),
    }
    return LocalSettings(**{name: source.choice(values) for name, values in drawn.items()})
