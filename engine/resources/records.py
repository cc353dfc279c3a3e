"""The resources as plain records, in the form in which they are stored as documents.

Names are the resource names of the contract (`accounts/a/journeys/j`, …). Times are microseconds. An `etag`
is derived from the record (`etag_of`), never stored. What follows from other records, such as whether an
audience is activated, is derived as well.
"""

from __future__ import annotations

import enum

import msgspec
import xxhash

from engine.criteria.model import Criterion
from engine.plan.tree import MilestoneKind as MilestoneKind
from engine.values import MICROS_PER_SECOND, Micros

ACTIVE_AUDIENCE_LIMIT_DEFAULT = 100
BATCH_CHANGES_DEFAULT = 500
BATCH_AGE_DEFAULT_MICROS = MICROS_PER_SECOND


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of every resource."""

    name: str
    create_time: Micros = 0
    update_time: Micros = 0


class Account(Record, frozen=True, kw_only=True):
    """A tenant. `event_retention` 0 = keep all."""

    display_name: str = ""
    active_audience_limit: int = ACTIVE_AUDIENCE_LIMIT_DEFAULT
    time_zone: str = "UTC"
    event_retention: Micros = 0


class Workspace(Record, frozen=True, kw_only=True):
    """A group of inputs."""

    display_name: str = ""


class InputKind(enum.StrEnum):
    """Kind of source of an input."""

    UNSPECIFIED = ""
    IOS = "ios"
    ANDROID = "android"
    WEB = "web"
    SERVER = "server"
    FEED = "feed"


class Input(Record, frozen=True, kw_only=True):
    """A source of data."""

    display_name: str = ""
    kind: InputKind = InputKind.UNSPECIFIED


class Journey(Record, frozen=True, kw_only=True):
    """A tree of milestones over the users of `inputs` (none = all, present and future)."""

    display_name: str = ""
    inputs: tuple[str, ...] = ()


class Milestone(Record, frozen=True, kw_only=True):
    """A step of a journey. `parent` is a milestone's name or "" for the start; `position` is its place among
    its siblings.
    """

    display_name: str = ""
    parent: str = ""
    position: int = 0
    kind: MilestoneKind = MilestoneKind.CRITERIA
    criteria: Criterion | None = None
    audience: str


class Audience(Record, frozen=True, kw_only=True):
    """The users of a milestone; its display name is the milestone's."""

    external_name: str = ""
    milestone: str


class Webhook(msgspec.Struct, frozen=True, tag="webhook"):
    """HTTP POST, signed with `secret`."""

    url: str
    secret: str = ""


class Nats(msgspec.Struct, frozen=True, tag="nats"):
    """A NATS JetStream subject."""

    servers: str
    subject: str


class Redis(msgspec.Struct, frozen=True, tag="redis"):
    """A Redis stream, of at most about `max_length` entries (0 = unbounded)."""

    url: str
    stream: str
    max_length: int = 0


class Kafka(msgspec.Struct, frozen=True, tag="kafka"):
    """A Kafka topic."""

    bootstrap_servers: str
    topic: str


class File(msgspec.Struct, frozen=True, tag="file"):
    """NDJSON files below the server's output directory."""

    path: str


class Output(Record, frozen=True, kw_only=True):
    """A destination for audiences."""

    display_name: str = ""
    target: Webhook | Nats | Redis | Kafka | File


class ConnectionState(enum.StrEnum):
    """State of a connection."""

    INACTIVE = "inactive"
    ACTIVE = "active"
    FAULTED = "faulted"


class Connection(Record, frozen=True, kw_only=True):
    """Delivers one audience to one output. `fault` is the reason of FAULTED."""

    audience: str
    output: str
    state: ConnectionState = ConnectionState.INACTIVE
    identities: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    batch_changes: int = BATCH_CHANGES_DEFAULT
    batch_age: Micros = BATCH_AGE_DEFAULT_MICROS
    delivered: int = 0
    """Sequence of the last change delivered: the durable cursor."""
    snapshot_after: str | None = None
    """While the members present at activation are being sent: the last one sent ("" = none yet). None once
    only changes are.
    """
    activation: int = 0
    """How often it has been activated: a cursor holds for one activation."""
    fault: str = ""


class Closing(Record, frozen=True, kw_only=True):
    """A deleted audience with work left: sending its members' exits, then dropping
    its membership.

    `name` is the audience's. `through` is the sequence of the last exit, None until the exits are recorded.
    Connections of the audience that were live stay until they have delivered that far.
    """

    audience: Audience
    milestone: Milestone
    through: int | None = None


def etag_of(record: Record) -> str:
    """A short digest of the record's own fields. It ignores the time of the last change
    and the progress of a connection.
    """
    record = msgspec.structs.replace(record, update_time=0)
    if isinstance(record, Connection):
        record = msgspec.structs.replace(record, delivered=0, snapshot_after=None, activation=0, fault="")
    return xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode(record))


def account_of(name: str) -> str:
    """`accounts/a` of any resource name below it."""
    return "/".join(name.split("/", 2)[:2])


def journey_of(milestone: str) -> str:
    """`accounts/a/journeys/j` of a milestone's name."""
    return milestone.rsplit("/milestones/", 1)[0]


def workspace_of(input_name: str) -> str:
    """`accounts/a/workspaces/w` of an input's name."""
    return input_name.rsplit("/inputs/", 1)[0]
