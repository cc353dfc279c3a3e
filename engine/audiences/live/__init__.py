"""Keeps the memberships of calculated audiences in step with data, time and definitions.

Every round compares what is needed (derived from connections) and defined (the records) with what is stored
(the backend), and brings the stored state up to date. A crash at any point is repaired by the next round, and
edits, moves, deletions and changed inputs need no events of their own. Each audience's definition, together
with those it depends on, has a digest; when it differs from that of the last refresh, everyone is evaluated
again.

A journey is a scope: all its calculated audiences are refreshed by one plan. A round brings all journeys to
one instant. It is one transaction; a calculation of everyone is one of its own, since it may take long. An
account that takes long has rounds of its own (`aside`).

`Live` runs the rounds. What a round does is in `definitions`, `closing`, `refreshing` and `trimming`; how far
it has come is in `progress`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from engine.audiences.history import SizeHistory
from engine.audiences.live.aside import ACCOUNT_S_MAX, ALONE_S_MAX, Aside
from engine.audiences.live.change_marks import ChangeMarks
from engine.audiences.live.closing import Closer
from engine.audiences.live.consumers import Consumers
from engine.audiences.live.definitions import DEFINING, Definitions
from engine.audiences.live.failures import Failures, each_alone
from engine.audiences.live.opted_in import OptedInValues
from engine.audiences.live.progress import STORED_AGE_MICROS_MAX as STORED_AGE_MICROS_MAX
from engine.audiences.live.progress import Current as Current
from engine.audiences.live.progress import Progress
from engine.audiences.live.progress import Usable as Usable
from engine.audiences.live.progress import UsableOne as UsableOne
from engine.audiences.live.refreshing import Due, JourneyRefresher, Refreshes, round_instant
from engine.audiences.live.rounds import Rounds
from engine.audiences.live.serving import JourneyServing
from engine.audiences.live.state import JourneyState, JourneyStates
from engine.audiences.live.trimming import OLD_CHANGES_MICROS as OLD_CHANGES_MICROS
from engine.audiences.live.trimming import Trimmer
from engine.audiences.model import WatchStart
from engine.audiences.outlooks import Outlooks
from engine.audiences.watch import PROGRESS_INTERVAL_DEFAULT_MICROS, Watch, Watcher, WatchTogether
from engine.backends.base import DocumentKeeper, ServingWriter, Store
from engine.clock import Clock
from engine.deadline import TimeShares
from engine.errors import DeadlineExceeded, MilepostError, failure_of
from engine.limits import DEFAULT_LIMITS, Limits
from engine.measures import Measure
from engine.resources.activation import Activation
from engine.resources.milestone_tree import Forest
from engine.resources.records import Account, Audience, Closing, Journey, account_of, journey_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_DAY, Micros

REFRESH_INTERVAL_MS = 200
"""Interval between calls of `refresh_all` or `refresh_timely`."""

ROUND_AUDIENCES_MAX = 10_000
"""Audiences that one transaction of a round stores."""


class LiveBackend(Store, Refreshes, DocumentKeeper, Protocol):
    """Refreshes memberships, and keeps documents."""


@dataclass(frozen=True)
class _Turn:
    """Rounds over some journeys, one after the other, by one thread."""

    shares: TimeShares
    serving: JourneyServing | None
    late: set[str] = field(default_factory=set)
    """Accounts that need more than their share of the time: their journeys are left as they were."""


class Live:
    """The stored memberships of all journeys. Safe to call from several threads."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        activation: Activation,
        backend: LiveBackend,
        history: SizeHistory,
        exact_since: Callable[[str], Micros],
        clock: Clock,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._repository = repository
        self._activation = activation
        self._backend = backend
        self._clock = clock
        self._work = threading.Event()
        self._states = JourneyStates()
        self._definitions = Definitions(repository, forest, activation)
        self._progress = Progress(repository, self._states, self._definitions, backend, clock)
        self.usable_one = self._progress.usable_one
        """As `usable`, for one audience of a journey. No method, for which each check would pay."""
        marks = ChangeMarks(backend.documents, limits.changes_days * MICROS_PER_DAY)
        consumers = Consumers(repository)
        self._trimmer = Trimmer(forest, consumers, marks, backend, clock, limits)
        self._closer = Closer(
            repository, forest, self._definitions, consumers, marks, history, backend, clock, limits
        )
        self._refresher = JourneyRefresher(
            forest, self._definitions, self._trimmer, history, backend, exact_since, clock
        )
        self._running = threading.Lock()
        """One round over the journeys of all accounts at a time. Taken before the lock of a journey; those
        of several journeys are taken in order of their names.
        """
        self._aside = Aside()
        self._stopping = threading.Event()
        self._instant: Micros = backend.instant()
        self._watcher = Watcher(repository, self.calculated, self.reached, self.failure, backend)
        self._rounds = Rounds(self._states, clock, lambda: len(self._aside))
        self._failures = Failures()
        self._opted_in = OptedInValues(repository, backend)
        self._serving: JourneyServing | None = None
        self._serving_aside: JourneyServing | None = None
        self._adopt()

    def _adopt(self) -> None:
        """Marks journeys with stored memberships, needed or not, for the first round."""
        for audience in self._repository.scan(Audience, ""):
            if self._backend.membership(audience.name) is not None:
                self._states.of(journey_of(audience.milestone))

    def serve_with(self, writer: ServingWriter, outlooks: Outlooks) -> None:
        """Hands the memberships of every journey to `writer` after each of its rounds."""
        self._repository.announce(DEFINING, writer.change_records)
        self._serving = JourneyServing(writer, outlooks)
        self._serving_aside = JourneyServing(writer, outlooks)

    # --- reading --------------------------------------------------------------------------------------------

    def calculated(self, audience: str) -> bool:
        """Whether the audience's membership is needed: it or a descendant has a live connection."""
        return audience in self._activation.calculated(account_of(audience))

    def current(self, audience: str) -> Current | None:
        """The stored membership when it is usable: of the current definition and not too old. Dirty users
        must be evaluated all the same.
        """
        return self._progress.current(audience)

    def usable(self, account: str, audiences: Sequence[str], now: Micros) -> Usable:
        """As `current`, for audiences of an account at an instant: their stored memberships as one state, and
        those that may be answered from it. Takes no lock.
        """
        return self._progress.usable(account, audiences, now)

    def reached(self, audience: str) -> Micros:
        """The instant up to which the change logs of calculated audiences are complete."""
        return self._progress.reached(audience)

    def failure(self, audience: str) -> str:
        """The error of the last round over the audience's journey; "" when it succeeded."""
        return self._progress.failure(audience)

    def progress(self, audience: str) -> float:
        """Progress of a journey's calculation, 0 to 1, estimated from the time of earlier ones."""
        return self._progress.fraction(audience)

    def due(self, includes: Callable[[str], bool] = lambda account: True) -> tuple[str, ...]:
        """Journeys that a round over some accounts (names) covers: those with needed, stored or closing
        audiences.
        """
        found: dict[str, None] = {}
        for account in self._repository.scan(Account, ""):
            if not includes(account.name):
                continue
            for audience in sorted(self._activation.calculated(account.name)):
                record = self._repository.find(Audience, audience)
                if record is not None:
                    found[journey_of(record.milestone)] = None
        closing = (journey_of(each.milestone.name) for each in self._repository.scan(Closing, ""))
        others = (*closing, *self._states.in_use())
        found.update(dict.fromkeys(journey for journey in others if includes(account_of(journey))))
        return tuple(found)

    def changed(self, journey: str) -> None:
        """Signals that a journey has changed and the next round has work."""
        self._work.set()

    def data_came(self, account: str) -> None:
        """Signals that data have come: the next round has work if a membership depends on them."""
        if self._backend.has_news():
            self._work.set()

    def wake(self) -> None:
        """Ends `wait_for_work` early, as a change does."""
        self._work.set()

    def wait_for_work(self, timeout_seconds: float) -> bool:
        """Blocks until something changes after the start of the last round (True) or the timeout passes."""
        return self._work.wait(timeout_seconds)

    def watch(
        self,
        start: WatchStart,
        *,
        progress_interval: Micros = PROGRESS_INTERVAL_DEFAULT_MICROS,
        wake: Callable[[], None] = lambda: None,
    ) -> Watch:
        """A calculated audience's members and changes, with progress marks. See `engine.audiences.watch`."""
        return self._watcher.watch(start, progress_interval, wake)

    def watch_together(
        self,
        names: Sequence[str],
        position: str | None,
        *,
        progress_interval: Micros = PROGRESS_INTERVAL_DEFAULT_MICROS,
        wake: Callable[[], None] = lambda: None,
    ) -> WatchTogether:
        """As `watch`, for several audiences in one stream."""
        return self._watcher.watch_together(names, position, progress_interval, wake)

    def measures(self) -> Iterator[Measure]:
        """What the rounds count and time about themselves."""
        return self._rounds.measures()

    # --- rounds ---------------------------------------------------------------------------------------------

    def refresh_all(self, now: Micros | None = None) -> None:
        """Runs one round over every due journey, to the instant `now` (default: the clock's), however long it
        takes.

        A journey that fails does not delay the others; the first failure is raised at the end.
        """
        for error in self._refresh_many(
            lambda account: True, lambda accounts: TimeShares(), 0.0, now
        ).values():
            raise error

    def refresh_timely(
        self, account_s_max: float = ACCOUNT_S_MAX, *, retry_after_s: float = 0.0
    ) -> dict[str, MilepostError]:
        """As `refresh_all`, over the accounts that are not refreshed aside. One that takes longer, in
        seconds, is refreshed aside from now on; one that is alone has at least `ALONE_S_MAX`. Returns the
        failures by journey. Those that failed less than `retry_after_s` ago are left out.
        """

        def shares(accounts: int) -> TimeShares:
            seconds_max = account_s_max if accounts > 1 else max(account_s_max, ALONE_S_MAX)
            return TimeShares(seconds_max, self._stopping.is_set)

        return self._refresh_many(lambda account: account not in self._aside, shares, retry_after_s)

    def refresh_aside(self, timeout_s: float, *, retry_after_s: float = 0.0) -> dict[str, MilepostError]:
        """Runs one round over an account that is refreshed aside, unless none is due within the timeout.
        Returns the failures as `refresh_timely` does. For several threads.
        """
        with self._aside.taken(timeout_s) as account:
            if account is None:
                return {}
            with self._rounds.timed_aside(account):
                turn = _Turn(TimeShares(is_cancelled=self._stopping.is_set), self._serving_aside)
                return self._begun(account.__eq__, lambda accounts: turn, retry_after_s)

    def stop(self) -> None:
        """Ends `refresh_timely` and `refresh_aside` soon: what they have not stored yet is left as it was."""
        self._stopping.set()
        self._work.set()
        self._aside.close()

    def refresh(self, journey: str, now: Micros | None = None) -> None:
        """Runs one round over one journey. Rounds over the same journey never overlap."""
        instant, turn = self._clock() if now is None else now, _Turn(TimeShares(), self._serving)
        for error in self._rounds_of([journey], instant, turn).values():
            raise error

    def _refresh_many(
        self,
        includes: Callable[[str], bool],
        shares: Callable[[int], TimeShares],
        retry_after_s: float,
        now: Micros | None = None,
    ) -> dict[str, MilepostError]:
        self._work.clear()
        with self._running, self._rounds.timed():
            self._backend.take_news()
            failures = self._begun(
                includes, lambda accounts: _Turn(shares(accounts), self._serving), retry_after_s, now
            )
        failures = self._noted(self._opted_in.keep()) | failures
        self._states.forget_deleted(lambda journey: self._repository.find(Journey, journey) is not None)
        return failures

    def _noted(self, by_audience: Mapping[str, MilepostError]) -> dict[str, MilepostError]:
        """Takes failures of audiences for those of their journeys, and keeps them."""
        records = ((self._repository.find(Audience, name), error) for name, error in by_audience.items())
        failures = {journey_of(record.milestone): error for record, error in records if record is not None}
        for journey, error in failures.items():
            self._failures.note(journey, self._states.of(journey), error)
        return failures

    def _begun(
        self,
        includes: Callable[[str], bool],
        turn: Callable[[int], _Turn],
        retry_after_s: float,
        now: Micros | None = None,
    ) -> dict[str, MilepostError]:
        """Rounds over the due journeys of some accounts. `turn` makes the turn for that many accounts."""
        due = self.due(includes)
        journeys = self._in_order(
            [j for j in due if not self._failures.is_waiting(self._states.of(j), retry_after_s)]
        )
        accounts = len({account_of(journey) for journey in journeys})
        with self._backend.beginning(journeys):
            # Read now, so that it is no earlier than the data that the round is about.
            failures = self._rounds_of(journeys, self._clock() if now is None else now, turn(accounts))
        self._rounds.failures.add(len(failures))
        return failures

    def _in_order(self, journeys: Sequence[str]) -> list[str]:
        """Journeys after those whose audiences they name, as far as these do not name each other."""
        rest = dict.fromkeys(journeys)
        ordered: list[str] = []
        while rest:
            names = {journey: self._names(journey) for journey in rest}
            free = [journey for journey in rest if not names[journey] & rest.keys()]
            for journey in free or list(rest):
                ordered.append(journey)
                del rest[journey]
        return ordered

    def _names(self, journey: str) -> frozenset[str]:
        state = self._states.find(journey)
        return frozenset() if state is None or state.definition is None else state.definition.names

    def _rounds_of(self, journeys: Sequence[str], now: Micros, turn: _Turn) -> dict[str, MilepostError]:
        """Brings journeys to one instant. Returns the failures by journey.

        What is quickly done comes first. A calculation of everyone follows in a round of its own, so that it
        holds up no other journey.
        """
        failures, later = self._round(journeys, now, turn)
        for journey in later:
            if account_of(journey) not in turn.late:
                failures |= self._round([journey], now, turn)[0]
        for account in turn.late:
            self._aside.put(account)
        # Once for all of them, as each is a transaction.
        late = self._refresher.begin_histories(self._instant)
        done = [journey for journey in journeys if journey not in failures]
        late |= dict(each_alone(done, self._forget_old))
        for journey, error in late.items():
            self._failures.note(journey, self._states.of(journey), error)
        return late | failures

    def _forget_old(self, journeys: Iterable[str]) -> None:
        """Trims old changes of the journeys that were not looked at for an hour."""
        states = {journey: self._states.of(journey) for journey in journeys}
        due = {journey: states[journey] for journey in self._trimmer.due(states)}
        with ExitStack() as held:
            for state in due.values():
                held.enter_context(state.lock)
            self._trimmer.forget_old(due)

    def _round(
        self, journeys: Sequence[str], now: Micros, turn: _Turn
    ) -> tuple[dict[str, MilepostError], Sequence[str]]:
        """One round. Returns the failures by journey, and of several journeys those of which everyone is to
        be evaluated.
        """
        shares, late = turn.shares, turn.late
        failures: dict[str, MilepostError] = {}
        later: list[str] = []
        with ExitStack() as held:
            states = {journey: self._states.of(journey) for journey in journeys}
            for journey in sorted(states):
                held.enter_context(states[journey].lock)
            instant = self._instant = round_instant(self._instant, now)
            due, closing, version = [], self._closer.closing(), self._definitions.version()
            for journey, state in states.items():
                account = account_of(journey)
                try:
                    if journey in closing:
                        self._closer.close_deleted(journey, state, instant)
                    with shares.of(account) as deadline:
                        each = self._due(journey, state, instant, version, deadline)
                except Exception as error:
                    failures[journey] = failure_of(error)
                    continue
                if each is None:
                    continue
                if self._refresher.seconds_of(each) > shares.seconds_max:
                    late.add(account)
                elif each.is_whole and len(journeys) > 1:
                    later.append(journey)
                else:
                    due.append(each)
            late.update(_late(failures, shares))
            for part in _transactions([each for each in due if account_of(each.journey) not in late]):
                found = self._refresher.run(instant, part, shares)
                late.update(_late(found, shares))
                failures |= found
            done = {j: s for j, s in states.items() if j not in later and account_of(j) not in late}
            failures = {journey: error for journey, error in failures.items() if journey in done}
            if turn.serving is not None:
                failures |= turn.serving.serve_all({j: s for j, s in done.items() if j not in failures})
            for journey, state in done.items():
                self._failures.note(journey, state, failures.get(journey))
        return failures, later

    def _due(
        self, journey: str, state: JourneyState, instant: Micros, version: int, deadline: float
    ) -> Due | None:
        definition = self._definitions.current(journey, state, version)
        self._closer.drop_unneeded(journey, state, version)
        if definition is None:
            return None
        return self._refresher.due(journey, state, definition, instant, deadline)


def _late(failures: Mapping[str, MilepostError], shares: TimeShares) -> set[str]:
    """The accounts that failed because their share of the time was over."""
    accounts = {account_of(j) for j, error in failures.items() if isinstance(error, DeadlineExceeded)}
    return {account for account in accounts if shares.is_over(account)}


def _transactions(due: Sequence[Due]) -> Iterator[list[Due]]:
    """What each transaction of a round stores, within a limit."""
    part: list[Due] = []
    audiences = 0
    for each in due:
        audiences += len(each.definition.digests)
        if part and audiences > ROUND_AUDIENCES_MAX:
            yield part
            part, audiences = [], len(each.definition.digests)
        part.append(each)
    if part:
        yield part
