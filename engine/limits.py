"""Limits on caller input. Each name ends with its unit.

The constants are the defaults; a deployment changes them through one `Limits`, which the service builds from
its configuration and hands to whatever checks input.
"""

from __future__ import annotations

import msgspec

# --- incoming data ---

BATCH_EVENTS_MAX = 10_000
BATCH_BYTES_MAX = 4 * 1024 * 1024
EVENT_ATTRIBUTES_MAX = 100
NAME_BYTES_MAX = 256
"""Names of events, attributes, identity types, regulations and purposes, and user ids."""
STRING_BYTES_MAX = 4_096
LIST_ITEMS_MAX = 1_000
LIST_ITEM_BYTES_MAX = 512

# --- resources ---

DISPLAY_NAME_CHARACTERS_MAX = 100

# --- erased users ---

ERASED_IDS_DAYS = 30
"""Days to keep the id of an erased user in change logs so that lagging watchers still receive the exit. A
connection that has not delivered it keeps the id for longer."""

# --- change logs of activated audiences ---

CHANGES_DAYS = 7
"""Days to keep membership changes for watchers to resume from, unless the account's retention is
shorter. A connection that has not delivered one keeps it for longer."""

# --- criteria ---

CRITERIA_DEPTH_MAX = 32
"""Levels of nested criteria and conditions."""
CRITERIA_NODES_MAX = 500
"""Criteria, sequence steps and event conditions together."""
IN_VALUES_MAX = 10_000
SEQUENCE_STEPS_MAX = 20
CALENDAR_UNITS_MAX = 100_000
"""Largest `count` and `offset` of a calendar window, in its units."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a deployment."""

    erased_ids_days: int = ERASED_IDS_DAYS
    changes_days: int = CHANGES_DAYS
    batch_events_max: int = BATCH_EVENTS_MAX
    batch_bytes_max: int = BATCH_BYTES_MAX
    event_attributes_max: int = EVENT_ATTRIBUTES_MAX
    name_bytes_max: int = NAME_BYTES_MAX
    string_bytes_max: int = STRING_BYTES_MAX
    list_items_max: int = LIST_ITEMS_MAX
    list_item_bytes_max: int = LIST_ITEM_BYTES_MAX
    display_name_characters_max: int = DISPLAY_NAME_CHARACTERS_MAX
    criteria_depth_max: int = CRITERIA_DEPTH_MAX
    criteria_nodes_max: int = CRITERIA_NODES_MAX
    in_values_max: int = IN_VALUES_MAX
    sequence_steps_max: int = SEQUENCE_STEPS_MAX
    calendar_units_max: int = CALENDAR_UNITS_MAX


DEFAULT_LIMITS = Limits()
