"""Runs rule tests against a service: each test has an account of its own.

As in life, data come as time passes. At each instant of a test the service has what happened until then, and
is asked as of that instant.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from milepost import Client
from milepost.rules.coverage import Coverage
from milepost.rules.explaining import reasons
from milepost.rules.loading import Loading, Refused
from milepost.rules.model import Expectation, RuleTests, Scenario
from milepost.v1.audience_service_pb2 import ExplainMembershipResponse

EXPLAINED_MAX = 5
"""Users that are explained for one wrong list of members; of more it says only how many there are."""
LISTED_MAX = 20
"""Members that a wrong size lists."""
PAIRS_MAX = 10_000
"""Pairs of a user and a milestone in one question."""


@dataclass(frozen=True)
class Failure:
    """An expectation that does not hold: where it is written, what is wrong, and why, line by line."""

    position: str
    message: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The outcome of one test. `error`: it could not be run, for the reasons in its lines."""

    scenario: Scenario
    seconds: float
    failures: tuple[Failure, ...] = ()
    error: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all that is expected holds."""
        return not self.failures and not self.error


@dataclass
class Runner:
    """Runs tests. `connect` makes a client for the account with an id, of a service without data. `coverage`
    collects what criteria were, which takes longer.
    """

    connect: Callable[[str], Client]
    coverage: Coverage | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def run(self, tests: RuleTests) -> Iterator[Result]:
        """The result of each test, in order."""
        for journey in tests.journeys:
            if self.coverage is not None:
                self.coverage.add_journey(journey)
        for scenario in tests.scenarios:
            began = time.perf_counter()
            account = f"test-{next(self._numbers)}"
            try:
                failures = tuple(_Run(self, tests, scenario, account).failures())
            except Refused as refused:
                yield Result(scenario, time.perf_counter() - began, error=refused.lines)
            else:
                yield Result(scenario, time.perf_counter() - began, failures)


class _Run:
    """One test, in an account of its own."""

    def __init__(self, runner: Runner, tests: RuleTests, scenario: Scenario, account: str) -> None:
        self._client = runner.connect(account)
        self._loading = Loading(self._client, tests)
        self._coverage = runner.coverage
        self._tests = tests
        self._scenario = scenario
        self._users = sorted(scenario.users)
        self._journeys = {each.document.id: each for each in tests.journeys}
        self._milestones = [
            f"{journey.document.id}/{milestone.id}"
            for journey in tests.journeys
            for milestone, _ in journey.milestones()
        ]

    def failures(self) -> Iterator[Failure]:
        """Everything that is not as expected. Raises Refused."""
        self._loading.prepare()
        sent = 0
        for expectation in self._scenario.expectations:
            until = sent + sum(each.time <= expectation.at for each in self._scenario.changes[sent:])
            self._loading.send(self._scenario.changes[sent:until])
            sent = until
            yield from self._wrong(expectation)
            self._cover(expectation.at)

    # --- comparing ---

    def _wrong(self, expectation: Expectation) -> Iterator[Failure]:
        found = self._memberships(expectation)
        for check in expectation.checks:
            if (check.user in found[check.milestone]) is not check.member:
                yield self._wrong_user(check.user, check.milestone, check.path, check.member, expectation)
        for members in expectation.members:
            wrong = sorted(members.users ^ found[members.milestone])
            for user in wrong[:EXPLAINED_MAX]:
                expected = user in members.users
                yield self._wrong_user(user, members.milestone, members.path, expected, expectation)
            if len(wrong) > EXPLAINED_MAX:
                text = f"{len(wrong) - EXPLAINED_MAX} more users are wrong in {members.milestone}"
                yield self._failure(members.path, text, expectation)
        for size in expectation.sizes:
            users = self._client.count(size.milestone, as_of=expectation.at).users
            if users != size.users:
                members_of = sorted(found[size.milestone])
                listed = ", ".join(members_of[:LISTED_MAX]) or "no one"
                more = f" and {len(members_of) - LISTED_MAX} more" if len(members_of) > LISTED_MAX else ""
                text = f"{size.milestone} has {counted(users, 'user')}, expected {size.users}"
                yield self._failure(size.path, text, expectation, (f"its users: {listed}{more}",))

    def _memberships(self, expectation: Expectation) -> dict[str, set[str]]:
        """The users of each milestone that is asked about."""
        asked = {
            *(each.milestone for each in expectation.checks),
            *(each.milestone for each in expectation.members),
            *(each.milestone for each in expectation.sizes),
        }
        found: dict[str, set[str]] = {milestone: set() for milestone in asked}
        names_of = {self._client.target_name(milestone): milestone for milestone in asked}
        users_max = max(1, PAIRS_MAX // max(1, len(asked)))
        for start in range(0, len(self._users), users_max):
            users = self._users[start : start + users_max]
            for user, names in self._client.check_many(users, list(names_of), as_of=expectation.at).items():
                for name in names:
                    found[names_of[name]].add(user)
        return found

    def _wrong_user(
        self, user: str, milestone: str, path: str, expected: bool, expectation: Expectation
    ) -> Failure:
        journey = self._journeys[milestone.partition("/")[0]]

        def explained(target: str) -> ExplainMembershipResponse:
            return self._client.explain_membership(user, target, as_of=expectation.at)

        lines = tuple(reasons(milestone, journey, explained))
        is_in, should = ("is not in", "should be") if expected else ("is in", "should not be")
        return self._failure(path, f"{user} {is_in} {milestone}, and {should}", expectation, lines)

    def _failure(
        self, path: str, text: str, expectation: Expectation, lines: tuple[str, ...] = ()
    ) -> Failure:
        at = f"at {expectation.written} ({_shown(expectation.at)})"
        return Failure(self._tests.places.position(path), f"{at} {text}", lines)

    def _cover(self, at: datetime) -> None:
        if self._coverage is None:
            return
        for journey in self._tests.journeys:
            for milestone, _ in journey.milestones():
                if self._coverage.is_complete(journey, milestone.id):
                    continue
                target = f"{journey.document.id}/{milestone.id}"
                for user in self._users:
                    answer = self._client.explain_membership(user, target, as_of=at)
                    if answer.in_journey:
                        self._coverage.add(journey, milestone.id, answer.milestones[-1])


def counted(count: int, one: str, many: str = "") -> str:
    """1 user, 1,000 users."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _shown(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
