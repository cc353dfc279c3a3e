"""Limits on caller input. Each name ends with its unit.

The constants are the defaults; a deployment changes them through one `Limits`, which the service builds from
its configuration and passes to all checks of input.
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
BATCH_NEW_NAMES_MAX = 1_000
"""Names in a batch that the account does not have yet: of events, their attributes, attributes of users,
identity types and consents, together.
"""
BATCH_COLUMNS_MAX = 20_000
"""Different attributes of the events of a batch, counted by kind of value."""
UPDATE_IDENTITIES_MAX = 100
"""Identities that one user update sets or unsets."""
UPDATE_CONSENTS_MAX = 100
"""Consents that one user update sets."""

USER_ALIASES_MAX = 1_000
"""Aliases of one user. Merging it into another user moves all of them."""

# --- requests ---

MESSAGE_ELEMENTS_MAX = 500_000
"""Messages in all lists and maps of a request together. An empty one takes two bytes on the wire and about a
hundred in memory.
"""
LIST_LENGTH_MAX = 1_000
"""Elements of a list of a request that has no limit of its own."""
FIELD_MASK_PATHS_MAX = 100
WATCHED_AUDIENCES_MAX = 200
"""Audiences of one WatchMembership stream."""
JOURNEY_INPUTS_MAX = 1_000
JOURNEY_OUTPUTS_MAX = 10_000
"""Names in `connected_outputs` of a journey that a caller sends back. The service ignores them."""
API_KEY_SCOPES_MAX = 16
IMPORT_COLUMNS_MAX = 10_000
"""Columns that the header of an import names in one of its lists."""
CONSENT_VALUES_MAX = 100
"""Values of a column that mean GIVEN, and that mean DENIED."""

# --- resources ---

DISPLAY_NAME_CHARACTERS_MAX = 100
RESOURCE_TEXT_BYTES_MAX = 4_096
"""Any text of a request that writes a resource. Most have closer limits, and criteria have their own."""
OUTPUT_URL_BYTES_MAX = 2_048
OUTPUT_SERVERS_BYTES_MAX = 2_048
"""Addresses of the servers of an output, separated by commas."""
OUTPUT_NAME_BYTES_MAX = 249
"""A subject, stream or topic. Kafka allows no longer name of a topic."""
OUTPUT_SERVERS_MAX = 16
"""Servers of an output. Each may take its share of the time for an attempt."""
OUTPUT_USER_BYTES_MAX = 256
OUTPUT_CREDENTIAL_BYTES_MAX = RESOURCE_TEXT_BYTES_MAX
"""A password, token, file of credentials or list of certificates of an output."""
OUTPUT_PATH_BYTES_MAX = 1_024
OUTPUT_PATH_FOLDERS_MAX = 16
OUTPUT_FOLDER_BYTES_MAX = 255
"""The longest name of one folder that file systems allow."""
OUTPUT_FILE_BYTES_MIN = 65_536
"""The smallest size at which a file of an output is finished: each costs a few syncs and a name."""
OUTPUT_FILE_BYTES_MAX = 1024**4
OUTPUT_FILE_AGE_S_MIN = 1
OUTPUT_FILE_AGE_S_MAX = 366 * 86_400
JOURNEY_MILESTONES_MAX = 1_000
JOURNEY_LEVELS_MAX = 20
"""Milestones on the way from the start to the deepest one. Parsers of protobuf allow 100 nested messages, and
a document with criteria of the greatest depth must fit."""
JOURNEY_BYTES_MAX = 4 * 1024 * 1024
"""Size of the milestones of a journey, as they are stored: a refresh compiles all of them."""
JOURNEY_VERSIONS_MAX = 100
"""Past versions kept of a journey."""
JOURNEY_VERSION_BYTES_MAX = 16 * 1024 * 1024
"""Size of the past versions kept of a journey."""
AUDIENCE_LEVELS_MAX = 16
"""Audiences on a way that criteria make by naming an audience, whose own criteria name another, and so on."""
AUDIENCE_LEVELS_EVALUATED_MAX = 256
"""The same of audiences that were saved before there was a limit: deeper ones are not evaluated."""
API_KEYS_MAX = 100
"""API keys of an account, and of operators."""

PAGE_TOKEN_BYTES = 1024
"""What a page token has besides values and names: resource names, numbers and its signature."""

# --- refusals ---

VIOLATIONS_MAX = 100
"""Faults listed of one request; the others are counted."""

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
CRITERIA_VALUES_MAX = 20_000
"""Values of all tests of one milestone's criteria together, elements of lists included. A refresh looks at
each.
"""
CRITERIA_BYTES_MAX = 1024 * 1024
"""Size of one milestone's criteria as a message: names, texts, patterns and values together."""
PATTERN_BYTES_MAX = 1_024
"""A `glob` or a `matches`."""
GLOB_WILDCARDS_MAX = 32
EXPRESSION_INSTRUCTIONS_MAX = 4_000
"""Instructions that a `matches` compiles to: at most one step each for a byte of a string."""
EXPRESSION_CLASSES_MAX = 20
"""Unicode classes, such as `\\pL`, of a `matches`. Reading one takes as long as compiling 200
instructions.
"""
CRITERIA_INSTRUCTIONS_MAX = 100_000
"""Instructions of all patterns of one milestone's criteria together. Compiling so many takes some 50 ms."""
CALL_INSTRUCTIONS_MAX = 1_000_000
"""Instructions of all patterns of a call together, such as those of a document with many milestones."""
SEQUENCE_STEPS_MAX = 20
CRITERIA_INPUTS_MAX = 1_000
"""Inputs that the events and steps of one milestone's criteria name, together."""
CALENDAR_UNITS_MAX = 100_000
"""Largest `count` and `offset` of a calendar window, in its units."""


# --- quotas -------------------------------------------------------------------------------------------------

ACCOUNTS_MAX = 10_000
"""Accounts of a store."""
ACCOUNT_WORKSPACES_MAX = 100
ACCOUNT_INPUTS_MAX = 1_000
ACCOUNT_JOURNEYS_MAX = 1_000
ACCOUNT_MILESTONES_MAX = 10_000
ACCOUNT_OUTPUTS_MAX = 1_000
ACCOUNT_CONNECTIONS_MAX = 1_000
ACCOUNT_RECORD_BYTES_MAX = 256 * 1024 * 1024
ACCOUNT_NAMES_MAX = 10_000
"""Names that data came with: of events, attributes, identity types and consents."""


ACCOUNT_CALLS_PER_SECOND_MAX = 20_000
ACCOUNT_IN_FLIGHT_MAX = 1_000
"""Calls of all API keys of an account, running ones with streams."""
ACCOUNT_SLOTS_PERCENT_MAX = 50
"""Share of every pool of running calls that an account takes at most, of the slots that others leave."""
SLOTS_PERCENT_MAX = 100


class Quotas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of one account, which belong to operators. 0 = the default."""

    workspaces_max: int = 0
    inputs_max: int = 0
    journeys_max: int = 0
    milestones_max: int = 0
    outputs_max: int = 0
    connections_max: int = 0
    record_bytes_max: int = 0
    names_max: int = 0
    calls_per_second_max: int = 0
    in_flight_max: int = 0
    slots_percent_max: int = 0

    def effective(self) -> Quotas:
        """With the default of each that is not set."""
        return Quotas(**{name: getattr(self, name) or getattr(DEFAULT_QUOTAS, name) for name in QUOTA_FIELDS})


QUOTA_FIELDS = Quotas.__struct_fields__
DEFAULT_QUOTAS = Quotas(
    workspaces_max=ACCOUNT_WORKSPACES_MAX,
    inputs_max=ACCOUNT_INPUTS_MAX,
    journeys_max=ACCOUNT_JOURNEYS_MAX,
    milestones_max=ACCOUNT_MILESTONES_MAX,
    outputs_max=ACCOUNT_OUTPUTS_MAX,
    connections_max=ACCOUNT_CONNECTIONS_MAX,
    record_bytes_max=ACCOUNT_RECORD_BYTES_MAX,
    names_max=ACCOUNT_NAMES_MAX,
    calls_per_second_max=ACCOUNT_CALLS_PER_SECOND_MAX,
    in_flight_max=ACCOUNT_IN_FLIGHT_MAX,
    slots_percent_max=ACCOUNT_SLOTS_PERCENT_MAX,
)


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
    batch_new_names_max: int = BATCH_NEW_NAMES_MAX
    display_name_characters_max: int = DISPLAY_NAME_CHARACTERS_MAX
    criteria_depth_max: int = CRITERIA_DEPTH_MAX
    criteria_nodes_max: int = CRITERIA_NODES_MAX
    in_values_max: int = IN_VALUES_MAX
    criteria_values_max: int = CRITERIA_VALUES_MAX
    criteria_bytes_max: int = CRITERIA_BYTES_MAX
    pattern_bytes_max: int = PATTERN_BYTES_MAX
    glob_wildcards_max: int = GLOB_WILDCARDS_MAX
    expression_instructions_max: int = EXPRESSION_INSTRUCTIONS_MAX
    expression_classes_max: int = EXPRESSION_CLASSES_MAX
    criteria_instructions_max: int = CRITERIA_INSTRUCTIONS_MAX
    call_instructions_max: int = CALL_INSTRUCTIONS_MAX
    sequence_steps_max: int = SEQUENCE_STEPS_MAX
    criteria_inputs_max: int = CRITERIA_INPUTS_MAX
    calendar_units_max: int = CALENDAR_UNITS_MAX

    @property
    def page_token_bytes_max(self) -> int:
        """Length of a page token: a position has at most one value and a few names, written in base64."""
        return 2 * (self.string_bytes_max + 8 * self.name_bytes_max + PAGE_TOKEN_BYTES)


DEFAULT_LIMITS = Limits()
