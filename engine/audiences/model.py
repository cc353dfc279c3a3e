"""Questions about audiences and their answers, as plain data.

Times are microseconds since the Unix epoch, durations and `elapsed` are microseconds. `revision` is the
backend's number; the service turns it into a token.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from engine.backends.base import Change
from engine.criteria.model import Criterion
from engine.errors import FailedPrecondition, NotFound, Warning
from engine.resources.records import Audience, Cursor, Journey, MilestoneKind
from engine.values import Micros

# --- questions ----------------------------------------------------------------------------------------------


class SavedTarget(msgspec.Struct, frozen=True):
    """A saved milestone, by its own name or its audience's."""

    name: str


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An unsaved milestone. With `replaces` it takes the position of that milestone; otherwise it comes after
    its siblings and before remaining users.
    """

    journey: str
    parent: str = ""
    kind: MilestoneKind = MilestoneKind.CRITERIA
    criteria: Criterion | None = None
    replaces: str = ""


Target: TypeAlias = SavedTarget | Draft


class PreviewMilestone(msgspec.Struct, frozen=True, kw_only=True):
    """One milestone of an unsaved journey; `parent` is the id of another one, or "" for the start."""

    id: str
    parent: str = ""
    display_name: str = ""
    kind: MilestoneKind = MilestoneKind.CRITERIA
    criteria: Criterion | None = None


class Default(msgspec.Struct, frozen=True, tag=True):
    """Exact when that fits in `EXACT_BUDGET_DEFAULT_MS`, otherwise a sample."""


class Exact(msgspec.Struct, frozen=True, tag=True):
    """Exact, however long it takes."""


class MaxRelativeError(msgspec.Struct, frozen=True, tag=True):
    """Maximum half-width of the 95 % interval, relative to the size; greater than 0."""

    value: float


class TimeBudget(msgspec.Struct, frozen=True, tag=True):
    """As exact as this time allows; greater than 0."""

    micros: Micros


Precision: TypeAlias = Default | Exact | MaxRelativeError | TimeBudget

# --- sizes --------------------------------------------------------------------------------------------------


class SizeState(enum.StrEnum):
    """How a size was determined."""

    EXACT = "exact"
    ESTIMATED = "estimated"
    TOO_SMALL = "too_small"
    FAILED = "failed"
    PENDING = "pending"


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A number of users. `lower` and `upper` hold the true size in 95 % of cases and equal `users` when
    EXACT; `failure` is the reason when FAILED.
    """

    state: SizeState
    users: int = 0
    lower: int = 0
    upper: int = 0
    sampled_fraction: float = 0.0
    failure: str = ""


class LabelledSize(msgspec.Struct, frozen=True):
    """One labelled criterion alone, among the users the milestone draws from."""

    label: str
    path: str
    size: Size


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Sizes.estimate`. `population` is the size of the journey's start, exact; `draw` the
    users the milestone draws from: its parent's, minus those of earlier siblings.
    """

    size: Size
    labelled: tuple[LabelledSize, ...]
    population: int
    draw: Size
    as_of: Micros
    revision: int
    elapsed: Micros
    warnings: tuple[Warning, ...]


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """The exact size of an audience."""

    users: int
    population: int
    as_of: Micros
    revision: int
    elapsed: Micros


class Intersection(msgspec.Struct, frozen=True):
    """Users in all of the named audiences, and perhaps in others."""

    audiences: tuple[str, ...]
    users: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Every non-empty subset of the audiences compared, single ones first."""

    intersections: tuple[Intersection, ...]
    as_of: Micros
    revision: int
    elapsed: Micros


class FunnelStep(msgspec.Struct, frozen=True, kw_only=True):
    """One milestone of the funnel. `milestone` and `parent` are names, or ids in a preview. Shares are 0 to
    1, and 0 when the parent has no users.
    """

    milestone: str
    display_name: str
    parent: str
    kind: MilestoneKind
    audience: str
    users: int
    parent_share: float
    split_share: float
    activated: bool


class Funnel(msgspec.Struct, frozen=True, kw_only=True):
    """The steps, parents before children and siblings in order. `journey` is None in a preview."""

    journey: Journey | None
    population: int
    steps: tuple[FunnelStep, ...]
    as_of: Micros
    revision: int
    elapsed: Micros
    warnings: tuple[Warning, ...] = ()


class SizeKind(enum.StrEnum):
    """Which of its sizes an audience shows."""

    ESTIMATE = "estimate"
    CALCULATING = "calculating"
    REAL = "real"


class ShownSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size that an audience shows. `progress` is 0 to 1 while CALCULATING; the figures of the last
    day are set with REAL.
    """

    kind: SizeKind
    size: Size
    population: int
    as_of: Micros
    revision: int
    progress: float = 0.0
    added_last_day: int = 0
    dropped_last_day: int = 0


class SizeInterval(enum.StrEnum):
    """The unit of a size history."""

    HOUR = "hour"
    DAY = "day"


class SizePoint(msgspec.Struct, frozen=True, array_like=True):
    """An audience's size at the end of an hour or day that began at `start`."""

    start: Micros
    users: int
    added: int
    dropped: int


# --- membership ---------------------------------------------------------------------------------------------


class Check(msgspec.Struct, frozen=True):
    """Whether one user is a member, with the instant and data revision of the answer."""

    member: bool
    as_of: Micros
    revision: int


class MembershipStatus(enum.StrEnum):
    """Whether one user is in one audience."""

    MEMBER = "member"
    NOT_MEMBER = "not_member"
    UNKNOWN_AUDIENCE = "unknown_audience"


class BatchCheck(msgspec.Struct, frozen=True):
    """Answers in the order of the requested users. `as_of` is the oldest instant among them.

    Many users share few combinations of statuses, so each is held once: `patterns[rows[i]]` has the statuses
    of `user_ids[i]`, in the order of the requested audiences.
    """

    user_ids: tuple[str, ...]
    rows: list[int]
    patterns: tuple[tuple[MembershipStatus, ...], ...]
    as_of: Micros
    revision: int


class UserAudiences(msgspec.Struct, frozen=True):
    """A page of the audiences a user is in, in order of name."""

    audiences: tuple[Audience, ...]
    next_page_token: str
    as_of: Micros
    revision: int


class MemberPage(msgspec.Struct, frozen=True):
    """A page of an audience's users."""

    user_ids: tuple[str, ...]
    next_page_token: str
    as_of: Micros
    revision: int


# --- watching -----------------------------------------------------------------------------------------------


class WatchStart(msgspec.Struct, frozen=True):
    """What to watch, an audience or that of a milestone, and from where: after a cursor of an epoch, or with
    a snapshot (None). 0 needs no epoch. With `renews` a cursor of another epoch becomes a snapshot; without,
    it is refused.
    """

    audience: str
    cursor: int | None = None
    epoch: str = ""
    renews: bool = False


class WatchBegin(msgspec.Struct, frozen=True):
    """A snapshot begins: a new set replaces what was known before, once the snapshot ends. The members as of
    `cursor` follow, in any order, then the changes since.
    """

    cursor: int
    as_of: Micros


class WatchMembers(msgspec.Struct, frozen=True):
    """Some members of a snapshot."""

    user_ids: tuple[str, ...]


class WatchEnd(msgspec.Struct, frozen=True):
    """The snapshot is complete: with the changes up to `cursor` it is the state of that instant."""

    cursor: int
    as_of: Micros


class WatchChanges(msgspec.Struct, frozen=True):
    """Some changes, in order of sequence. None is the last of an instant before a snapshot is complete."""

    changes: tuple[Change, ...]


class WatchProgress(msgspec.Struct, frozen=True):
    """Everything up to this cursor and instant has been sent."""

    cursor: int
    as_of: Micros


class WatchEnded(msgspec.Struct, frozen=True):
    """One of several audiences is no longer watched, for this reason."""

    error: NotFound | FailedPrecondition


WatchUpdate: TypeAlias = WatchBegin | WatchMembers | WatchEnd | WatchChanges | WatchProgress | WatchEnded


class WatchItem(msgspec.Struct, frozen=True):
    """One update of a stream. Its sequence numbers are those of this epoch. Among several audiences it has
    the name by which this one was asked for, and now and then the position of all of them.
    """

    audience: str
    epoch: str
    update: WatchUpdate
    requested_name: str = ""
    position: str = ""


# --- explaining ---------------------------------------------------------------------------------------------


class CriterionVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the criteria evaluated for one user. It is decisive when its parent's verdict would change if
    only this one did; the whole criterion's parent is the membership. `seen` is the attribute's
    values in JSON form, times as RFC 3339, or the aggregate's number; "" when there is nothing to show.
    """

    path: str
    label: str
    description: str
    true_for_user: bool
    decisive: bool
    seen: str = ""
    children: tuple[CriterionVerdict, ...] = ()


class MilestoneVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A milestone on the path from the start. `taken_by` is the earlier sibling that took the user, or ""."""

    milestone: str
    member: bool
    taken_by: str
    criteria: CriterionVerdict | None


class MembershipExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a user is a member or not. `in_journey` is False when it came through none of its inputs."""

    member: bool
    in_journey: bool
    milestones: tuple[MilestoneVerdict, ...]
    as_of: Micros
    revision: int
    elapsed: Micros


class PlanStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a compiled plan and the cost of executing it."""

    index: int
    operator: str
    description: str
    operands: tuple[int, ...]
    users: int
    elapsed: Micros
    source: str
    looked_at: int


class AudienceExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of an audience; `root` is the step that is the audience's set."""

    steps: tuple[PlanStep, ...]
    root: int
    plan_digest: str
    as_of: Micros
    revision: int
    elapsed: Micros
    warnings: tuple[Warning, ...] = ()


class EditedAudience(msgspec.Struct, frozen=True, kw_only=True):
    """An activated audience that an edit concerns: its users before and after, those who enter and leave."""

    audience: str
    milestone: str
    display_name: str
    users_before: int
    users_after: int
    entering: int
    leaving: int
    deleted: bool


class EditPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What an edit would do to activated audiences."""

    audiences: tuple[EditedAudience, ...]
    warnings: tuple[Warning, ...]
    as_of: Micros
    revision: int
    elapsed: Micros


# --- delivering ---------------------------------------------------------------------------------------------


class DeliveryBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Changes to deliver, in order, and the cursor to pass to `Deliveries.advance` after delivery.

    With `begins` a snapshot begins before the changes, with `ends` it is complete after them. `snapshot` is
    the sequence that its members hold for; None when the changes are not members of a snapshot.
    """

    changes: tuple[Change, ...]
    cursor: Cursor
    caught_up: bool
    as_of: Micros = 0
    begins: bool = False
    ends: bool = False
    snapshot: int | None = None
