"""The resources as plain records, as stored in documents.

Names are the resource names of the contract (`accounts/a/journeys/j`, …). Times are microseconds. An `etag`
is derived from the record (`etag_of`), never stored. Values that follow from other records, such as whether
an audience is activated, are derived as well.
"""

from __future__ import annotations

import enum

import msgspec
import xxhash

from engine.criteria.model import Criterion
from engine.limits import Quotas
from engine.plan.tree import MilestoneKind as MilestoneKind
from engine.resources.targets import Target
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
    quotas: Quotas = Quotas()


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
    """A tree of milestones over the users of `inputs` (none = all, present and future). `version` grows with
    every change to the journey or its milestones.
    """

    display_name: str = ""
    inputs: tuple[str, ...] = ()
    version: int = 1


class Milestone(Record, frozen=True, kw_only=True):
    """A step of a journey. `parent` is a milestone's name or "" for the start; `position` is its index among
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


class Output(Record, frozen=True, kw_only=True):
    """A destination for audiences. What `target` conceals is encrypted in `secrets`, and what those
    secrets were before in `previous_secrets`, which stay valid until `previous_expire_time`.
    """

    display_name: str = ""
    target: Target
    secrets: bytes = b""
    previous_secrets: bytes = b""
    previous_expire_time: Micros = 0


class ConnectionState(enum.StrEnum):
    """State of a connection."""

    INACTIVE = "inactive"
    ACTIVE = "active"
    FAULTED = "faulted"


class ChangeKind(enum.StrEnum):
    """Kind of change of an audience."""

    ENTERED = "entered"
    EXITED = "exited"
    UPDATED = "updated"


FIRST_INSTANT = -1


class Cursor(msgspec.Struct, frozen=True):
    """How far a connection has come with its audience's changes: to a sequence number of an epoch.

    An epoch begins with a snapshot. While `snapshot_after` is not None its members are being sent, and this
    is the last one sent ("" = none yet). After them the changes up to `snapshot_through` are sent, which
    complete it; None: it is complete. `FIRST_INSTANT`: the changes of the first calculation are the snapshot.
    """

    epoch: str = ""
    sequence: int = 0
    snapshot_after: str | None = None
    snapshot_through: int | None = None

    @property
    def in_snapshot(self) -> bool:
        """Whether a snapshot is being sent."""
        return self.snapshot_after is not None or self.snapshot_through is not None


class Connection(Record, frozen=True, kw_only=True):
    """Delivers one audience to one output. `fault` is the reason of FAULTED. Of `kinds`, none = all."""

    audience: str
    output: str
    state: ConnectionState = ConnectionState.INACTIVE
    identities: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    hashed_identities: tuple[str, ...] = ()
    hashed_attributes: tuple[str, ...] = ()
    kinds: tuple[ChangeKind, ...] = ()
    batch_changes: int = BATCH_CHANGES_DEFAULT
    batch_age: Micros = BATCH_AGE_DEFAULT_MICROS
    delivered: int = 0
    """Sequence of the last change delivered, or acknowledged by a watcher: the durable cursor."""
    epoch: str = ""
    """The epoch of `delivered`: with another one, or "" after an activation, a snapshot begins."""
    snapshot_after: str | None = None
    snapshot_through: int | None = None
    """See `Cursor`."""
    activation: int = 0
    """Number of activations and replays: a cursor is valid for one of them."""
    last_success: Micros = 0
    """Time when the output last took a batch, or a watcher acknowledged; 0 = never since the activation."""
    paused: bool = False
    """ACTIVE, and delivers nothing until it is resumed."""
    replayed_through: int = 0
    """Sequence of the last change that a replay sends again: such changes have ids of their own."""
    fault: str = ""
    last_error: str = ""
    last_error_time: Micros = 0
    """Why and when the last attempt failed that is noted: see `Connections.failed`."""
    failing_for: Micros = 0
    """How long attempts had been failing then; 0 = the last one succeeded."""
    exits_on_deactivation: bool = False
    exiting: bool = False
    """INACTIVE, and still delivers: what was not delivered before, and then the exit of every member."""
    left_at: int = 0
    """The last sequence before these exits. Not 0 until a later snapshot is complete, when they broke off."""

    @property
    def delivers(self) -> bool:
        """Whether it sends, or its consumer fetches, changes now."""
        is_active = self.state is ConnectionState.ACTIVE and not self.paused
        return is_active or (self.exiting and not self.fault)

    @property
    def membership(self) -> str:
        """The name of the stored membership that is delivered: that of the audience, or while it exits a copy
        as of the deactivation.
        """
        return self.name if self.exiting else self.audience

    @property
    def cursor(self) -> Cursor:
        """How far the connection has come."""
        return Cursor(self.epoch, self.delivered, self.snapshot_after, self.snapshot_through)


class Scope(enum.StrEnum):
    """Permission of an API key. OPERATOR belongs to keys without an account, and only to them."""

    INGEST = "ingest"
    READ = "read"
    MANAGE = "manage"
    ADMIN = "admin"
    OPERATOR = "operator"


class ApiKey(Record, frozen=True, kw_only=True):
    """A secret with scopes, of an account or of an operator. Times are 0 when there is none, limits when the
    server's apply.
    """

    display_name: str = ""
    scopes: tuple[Scope, ...] = ()
    expire_time: Micros = 0
    calls_per_second_max: int = 0
    in_flight_max: int = 0
    digest: bytes = b""
    """Of the secret, which is not stored."""
    previous_digest: bytes = b""
    previous_expire_time: Micros = 0
    rotations: int = 0


class Closing(Record, frozen=True, kw_only=True):
    """A deleted audience with work left: sending its members' exits, then dropping its membership.

    `name` is the audience's. `through` is the sequence of the last exit, None until the exits are recorded.
    Connections of the audience that were live stay until they have delivered that far.
    """

    audience: Audience
    milestone: Milestone
    through: int | None = None


def at_cursor(connection: Connection, cursor: Cursor) -> Connection:
    """The connection with that progress."""
    return msgspec.structs.replace(
        connection,
        delivered=cursor.sequence,
        epoch=cursor.epoch,
        snapshot_after=cursor.snapshot_after,
        snapshot_through=cursor.snapshot_through,
    )


def etag_of(record: Record) -> str:
    """A short digest of the record's own fields. It ignores the time of the last change, the number of a
    journey's version, the progress of a connection and the digests of secrets.
    """
    record = msgspec.structs.replace(record, update_time=0)
    if isinstance(record, Journey):
        record = msgspec.structs.replace(record, version=0)
    if isinstance(record, Connection):
        record = at_cursor(record, Cursor())
        record = msgspec.structs.replace(
            record,
            activation=0,
            last_success=0,
            replayed_through=0,
            fault="",
            exiting=False,
            left_at=0,
            last_error="",
            last_error_time=0,
            failing_for=0,
        )
    if isinstance(record, ApiKey):
        record = msgspec.structs.replace(record, digest=b"", previous_digest=b"")
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
