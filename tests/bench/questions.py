"""Each form of criterion as one question: a criterion for the engine and SQL for the peers.

Each question is asked repeatedly, at other instants and with other operands, so that no cached result can
answer it. Each peer may have several SQL variants; all must return the same number, and the fastest is
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Between,
    BetweenAgo,
    Bucket,
    Calendar,
    CalendarUnit,
    Compare,
    Consent,
    ConsentState,
    Criterion,
    Equals,
    Event,
    Identity,
    In,
    Last,
    Not,
    NumberTest,
    Range,
    Sequence,
    Step,
    Text,
    UserAttribute,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    Window,
    WithinLast,
)
from engine.values import MICROS_PER_DAY, MICROS_PER_SECOND, Micros
from tests.bench.peers.peer import (
    CLICKHOUSE,
    DUCKDB,
    EVENT_ORDERS,
    EVENTS_BY_TIME,
    EVENTS_BY_USER,
    USERS,
    USERS_BY_DAY,
    Dialect,
)
from tests.bench.synthetic import (
    CATEGORIES,
    CONSENT_PURPOSE,
    CONSENT_REGULATION,
    COUNTRIES,
    DENSE_NAMES,
    END,
    MEDIUM_NAMES,
    NOW,
    SPARSE_NAMES,
    START,
)

DENSE, DENSE_TOO = DENSE_NAMES
MEDIUM = MEDIUM_NAMES[0]
SPARSE = SPARSE_NAMES[0]
TURN_STEP: Micros = MICROS_PER_SECOND + 3
WINDOW_DAYS = 30

Variants = Mapping[str, str]
"""Ways to ask one peer: a short label → the SQL, which answers one number."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One criterion, and the same question in the SQL of each peer; none if it cannot be expressed."""

    criterion: Criterion
    duckdb: Variants
    chdb: Variants

    def ways(self, peer: str) -> Variants:
        """The ways to ask the peer of that name."""
        return {DUCKDB.peer: self.duckdb, CLICKHOUSE.peer: self.chdb}[peer]


@dataclass(frozen=True)
class Turn:
    """One turn: its number, which varies the operands, and its instant."""

    number: int

    @property
    def now(self) -> Micros:
        return NOW - self.number * TURN_STEP


@dataclass(frozen=True, kw_only=True)
class Form:
    """A row of the table: a name, and the question of a turn."""

    name: str
    ask: Callable[[Turn], Question]


# --- the users' own data ------------------------------------------------------------------------------------


def _of_users(condition: Callable[[Dialect], str]) -> tuple[Variants, Variants]:
    def sql(dialect: Dialect) -> Variants:
        return {"users": f"SELECT count(*) FROM {USERS} WHERE {condition(dialect)}"}

    return sql(DUCKDB), sql(CLICKHOUSE)


def _about_users(criterion: Criterion, condition: Callable[[Dialect], str] | str) -> Question:
    duckdb, chdb = _of_users(condition if callable(condition) else lambda _: condition)
    return Question(criterion=criterion, duckdb=duckdb, chdb=chdb)


def _attribute_equals(turn: Turn) -> Question:
    country = COUNTRIES[turn.number]
    return _about_users(UserAttribute(key="country", test=Equals(country)), f"country = '{country}'")


def _attribute_in(turn: Turn) -> Question:
    countries = COUNTRIES[turn.number :: 17]
    quoted = ", ".join(f"'{country}'" for country in countries)
    return _about_users(UserAttribute(key="country", test=In(countries)), f"country IN ({quoted})")


def _number_at_least(turn: Turn) -> Question:
    bound = 700 + turn.number
    criterion = UserAttribute(key="score", test=Compare("greater_or_equal", float(bound)))
    return _about_users(criterion, f"score >= {bound}")


def _number_between(turn: Turn) -> Question:
    low, high = 200 + turn.number, 649
    criterion = UserAttribute(key="score", test=Between(float(low), float(high)))
    return _about_users(criterion, f"score BETWEEN {low} AND {high}")


def _text_contains(turn: Turn) -> Question:
    part = "KLMNOPRS"[turn.number % 8] + f"-{turn.number // 8}"
    return _about_users(UserAttribute(key="country", test=Text("contains", part)), f"country LIKE '%{part}%'")


def _text_matches(turn: Turn) -> Question:
    pattern = f"^[A-C][{'KLMNOPRS'[: 2 + turn.number % 6]}]-[0-{turn.number % 5}]$"
    return _about_users(
        UserAttribute(key="country", test=Text("matches", pattern)),
        lambda dialect: f"{dialect.matches}(country, '{pattern}')",
    )


def _identity_contains(turn: Turn) -> Question:
    part = f"{70 + turn.number}@post."
    return _about_users(Identity(type="email", test=Text("contains", part)), f"email LIKE '%{part}%'")


def _identity_matches(turn: Turn) -> Question:
    pattern = f"^[a-f]+{turn.number:x}.*[02468]@(mail|corp)[.]"
    return _about_users(
        Identity(type="email", test=Text("matches", pattern)),
        lambda dialect: f"{dialect.matches}(email, '{pattern}')",
    )


def _consent(turn: Turn) -> Question:
    state = ConsentState.GIVEN if turn.number % 2 else ConsentState.DENIED
    criterion = Consent(regulation=CONSENT_REGULATION, purpose=CONSENT_PURPOSE, state=state)
    return _about_users(criterion, "consent" if state is ConsentState.GIVEN else "NOT consent")


def _last_seen(turn: Turn) -> Question:
    duration = 3 * MICROS_PER_DAY
    return _about_users(
        UserAttribute(key="$last_seen", test=WithinLast(duration)),
        lambda dialect: (
            f"last_seen > {dialect.instant(turn.now - duration)} AND last_seen <= {dialect.instant(turn.now)}"
        ),
    )


def _bucket(turn: Turn) -> Question:
    # An eighth of the users, from one 64th on: the bounds are whole numbers of 2^-64.
    salt, first, last = "experiment", turn.number << 58, (turn.number << 58) + (1 << 61) - 1
    user = f"concat('{salt}', char(0), 'u', toString(user_number))"
    from_percent = turn.number * 100 / 64
    return Question(
        criterion=Bucket(salt=salt, from_percent=from_percent, to_percent=from_percent + 12.5),
        duckdb={},
        chdb={"users": f"SELECT count() FROM {USERS} WHERE xxh3({user}) BETWEEN {first} AND {last}"},
    )


# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Span:
    """The microseconds from `first` to `last`, both included."""

    first: Micros
    last: Micros

    def sql(self, dialect: Dialect) -> str:
        return f"time BETWEEN {dialect.instant(self.first)} AND {dialect.instant(self.last)}"

    @property
    def days(self) -> tuple[int, int]:
        """The whole days inside, as a half-open range of day numbers."""
        return -(-self.first // MICROS_PER_DAY), (self.last + 1) // MICROS_PER_DAY


def _last(turn: Turn, days: int) -> Span:
    return Span(first=turn.now - days * MICROS_PER_DAY + 1, last=turn.now)


def _last_window(days: int) -> Last:
    return Last(duration=days * MICROS_PER_DAY)


ALL = Span(first=START, last=END - 1)
"""Every event; SQL over it needs no condition, but one that all rows pass costs the peers nothing."""


def _named(name: str, span: Span, dialect: Dialect, where: str = "") -> str:
    parts = [f"name = '{name}'"] if name else []
    if span != ALL:
        parts.append(span.sql(dialect))
    if where:
        parts.append(where)
    return " AND ".join(parts)


def _groups(table: str, rows: str, having: str) -> str:
    """The users whose rows pass `having`, as a subquery of `user_number`."""
    return f"(SELECT user_number FROM {table} WHERE {rows} GROUP BY user_number HAVING {having})"


def _in_order(variants: dict[str, str]) -> dict[str, str]:
    """ClickHouse can also aggregate along the order of (name, user, time), without a hash table."""
    sql = variants[EVENTS_BY_USER]
    return variants | {f"{EVENTS_BY_USER} in order": f"{sql} SETTINGS optimize_aggregation_in_order = 1"}


def _aggregated(
    criterion: Criterion, name: str, span: Span, having: Callable[[Dialect], str], where: str = ""
) -> Question:
    """Users by an aggregate over their rows."""

    def sql(dialect: Dialect) -> dict[str, str]:
        rows = _named(name, span, dialect, where)
        return {
            table: f"SELECT count(*) FROM {_groups(table, rows, having(dialect))}" for table in EVENT_ORDERS
        }

    return Question(criterion=criterion, duckdb=sql(DUCKDB), chdb=_in_order(sql(CLICKHOUSE)))


def _at_least(number: float) -> NumberTest:
    return Compare("greater_or_equal", float(number))


def _day_bitmaps(name: str, span: Span, state: bool = False) -> str:
    """ClickHouse: the users of a window, from the bitmaps of its whole days and the rows of its ends."""
    first_day, end_day = span.days
    instant = CLICKHOUSE.instant
    ends = (
        f"(time >= {instant(span.first)} AND time < {instant(first_day * MICROS_PER_DAY)}) "
        f"OR (time >= {instant(end_day * MICROS_PER_DAY)} AND time <= {instant(span.last)})"
    )
    return (
        f"SELECT groupBitmapMerge{'State' if state else ''}(users) FROM ("
        f"SELECT users FROM {USERS_BY_DAY} WHERE name = '{name}' AND toUInt16(day) >= {first_day} "
        f"AND toUInt16(day) < {end_day} "
        f"UNION ALL SELECT groupBitmapState(user_number) FROM {EVENTS_BY_TIME} "
        f"WHERE name = '{name}' AND ({ends}))"
    )


def _anyone(name: str, span: Span) -> tuple[dict[str, str], dict[str, str]]:
    """How many users have any row in the span."""
    duckdb = {
        table: f"SELECT count(DISTINCT user_number) FROM {table} WHERE {_named(name, span, DUCKDB)}"
        for table in EVENT_ORDERS
    }
    chdb = {"bitmaps of days": _day_bitmaps(name, span)}
    for table in EVENT_ORDERS:
        rows = _named(name, span, CLICKHOUSE)
        chdb[f"{table} groupBitmap"] = f"SELECT groupBitmap(user_number) FROM {table} WHERE {rows}"
        chdb[f"{table} uniqExact"] = f"SELECT uniqExact(user_number) FROM {table} WHERE {rows}"
    return duckdb, chdb


def _any_event(name: str, window: Window | None, span: Span) -> Question:
    duckdb, chdb = _anyone(name, span)
    return Question(criterion=Event(name=name, window=window), duckdb=duckdb, chdb=chdb)


def _any_in_window(turn: Turn) -> Question:
    return _any_event(DENSE, _last_window(WINDOW_DAYS), _last(turn, WINDOW_DAYS))


def _any_ever(turn: Turn) -> Question:
    # No event is so old: the range takes all of them, but is another one each turn.
    return _any_event(MEDIUM, Range(start=START - 1 - turn.number), ALL)


def _any_sparse(turn: Turn) -> Question:
    return _any_event(SPARSE, _last_window(WINDOW_DAYS), _last(turn, WINDOW_DAYS))


def _counted(name: str, least: int) -> Callable[[Turn], Question]:
    def ask(turn: Turn) -> Question:
        criterion = Event(name=name, window=_last_window(WINDOW_DAYS), test=_at_least(least))
        return _aggregated(criterion, name, _last(turn, WINDOW_DAYS), lambda _: f"count(*) >= {least}")

    return ask


def _count_zero(turn: Turn) -> Question:
    days = 7
    criterion = Event(name=DENSE, window=_last_window(days), test=Equals(0.0))
    return _complement(criterion, DENSE, _last(turn, days))


def _complement(criterion: Criterion, name: str, span: Span) -> Question:
    def without(variants: dict[str, str]) -> Variants:
        return {label: f"SELECT (SELECT count(*) FROM {USERS}) - ({sql})" for label, sql in variants.items()}

    duckdb, chdb = _anyone(name, span)
    return Question(criterion=criterion, duckdb=without(duckdb), chdb=without(chdb))


def _of_amount(
    aggregate: Aggregate, bound: Callable[[Turn], int], having: Callable[[Dialect, int], str]
) -> Callable[[Turn], Question]:
    """An aggregate of `amount` over a dense name's last 30 days is at least a bound of the turn."""

    def ask(turn: Turn) -> Question:
        least = bound(turn)
        criterion = Event(
            name=DENSE,
            window=_last_window(WINDOW_DAYS),
            aggregate=aggregate,
            of="amount",
            test=_at_least(least),
        )
        return _aggregated(criterion, DENSE, _last(turn, WINDOW_DAYS), lambda dialect: having(dialect, least))

    return ask


def _distinct_categories(turn: Turn) -> Question:
    least, span = 3, _last(turn, WINDOW_DAYS)
    criterion = Event(
        name=DENSE,
        window=_last_window(WINDOW_DAYS),
        aggregate=Aggregate.DISTINCT,
        of="category",
        test=_at_least(least),
    )
    return _distinct(criterion, span, "category", lambda dialect: dialect.category_bits, least)


def _distinct_days(turn: Turn) -> Question:
    least, span = 4, _last(turn, WINDOW_DAYS)
    criterion = Event(
        name=DENSE,
        window=_last_window(WINDOW_DAYS),
        aggregate=Aggregate.DISTINCT_DAYS,
        test=_at_least(least),
    )
    start = span.first // MICROS_PER_DAY
    return _distinct(criterion, span, None, lambda dialect: dialect.day_bits.format(start=start), least)


def _distinct(
    criterion: Criterion, span: Span, column: str | None, bits: Callable[[Dialect], str], least: int
) -> Question:
    """At least `least` distinct values: counted, or as bits of a word, whichever is faster."""

    def sql(dialect: Dialect) -> dict[str, str]:
        rows = _named(DENSE, span, dialect)
        ways = {
            "distinct": f"count(DISTINCT {column or dialect.day_number}) >= {least}",
            "bits": f"{bits(dialect)} >= {least}",
        }
        return {
            f"{table} {way}": f"SELECT count(*) FROM {_groups(table, rows, having)}"
            for table in EVENT_ORDERS
            for way, having in ways.items()
        }

    return Question(criterion=criterion, duckdb=sql(DUCKDB), chdb=sql(CLICKHOUSE))


def _where(
    where: Callable[[Turn], Where], sql: Callable[[Turn], str], least: int
) -> Callable[[Turn], Question]:
    def ask(turn: Turn) -> Question:
        criterion = Event(
            name=DENSE, where=where(turn), window=_last_window(WINDOW_DAYS), test=_at_least(least)
        )
        having = f"count(*) >= {least}"
        return _aggregated(criterion, DENSE, _last(turn, WINDOW_DAYS), lambda _: having, sql(turn))

    return ask


def _category(turn: Turn) -> str:
    return CATEGORIES[turn.number % len(CATEGORIES)]


def _amount_from(turn: Turn) -> int:
    return 100 + turn.number


_where_equals = _where(
    lambda turn: WhereAttribute(key="category", test=Equals(_category(turn))),
    lambda turn: f"category = '{_category(turn)}'",
    least=2,
)
_where_number = _where(
    lambda turn: WhereAttribute(key="amount", test=_at_least(_amount_from(turn))),
    lambda turn: f"amount >= {_amount_from(turn)}",
    least=2,
)
_where_tree = _where(
    lambda turn: WhereAll(
        conditions=(
            WhereAny(
                conditions=(
                    WhereAttribute(key="category", test=In((_category(turn), CATEGORIES[0]))),
                    WhereAttribute(key="amount", test=_at_least(300)),
                )
            ),
            WhereNot(
                condition=WhereAttribute(key="amount", test=Compare("less_than", float(_amount_from(turn))))
            ),
        )
    ),
    lambda turn: (
        f"(category IN ('{_category(turn)}', '{CATEGORIES[0]}') OR amount >= 300) "
        f"AND NOT amount < {_amount_from(turn)}"
    ),
    least=2,
)


def _range_window(turn: Turn) -> Question:
    start, end = START + 20 * MICROS_PER_DAY + turn.number * TURN_STEP, START + 50 * MICROS_PER_DAY
    criterion = Event(name=DENSE, window=Range(start=start, end=end), test=_at_least(3))
    return _aggregated(criterion, DENSE, Span(first=start, last=end - 1), lambda _: "count(*) >= 3")


def _between_ago(turn: Turn) -> Question:
    window = BetweenAgo(from_=60 * MICROS_PER_DAY, to=30 * MICROS_PER_DAY)
    span = Span(first=turn.now - window.from_ + 1, last=turn.now - window.to)
    criterion = Event(name=DENSE, window=window, test=_at_least(3))
    return _aggregated(criterion, DENSE, span, lambda _: "count(*) >= 3")


def _calendar(turn: Turn) -> Question:
    days, offset = 7, 1 + turn.number
    end = (turn.now // MICROS_PER_DAY + 1 - offset) * MICROS_PER_DAY
    span = Span(first=end - days * MICROS_PER_DAY, last=end - 1)
    window = Calendar(unit=CalendarUnit.DAY, count=days, offset=offset)
    criterion = Event(name=DENSE, window=window, test=_at_least(2))
    return _aggregated(criterion, DENSE, span, lambda _: "count(*) >= 2")


def _any_name(turn: Turn) -> Question:
    least, days = 10, 7
    criterion = Event(window=_last_window(days), test=_at_least(least))
    return _aggregated(criterion, "", _last(turn, days), lambda _: f"count(*) >= {least}")


# --- sequences ----------------------------------------------------------------------------------------------


def _sequence(*names: str) -> Callable[[Turn], Question]:
    """Events of these names in order within 7 days, all in the last 30."""
    within = 7 * MICROS_PER_DAY

    def ask(turn: Turn) -> Question:
        span = _last(turn, WINDOW_DAYS)
        criterion = Sequence(
            steps=tuple(Step(name=name) for name in names), within=within, window=_last_window(WINDOW_DAYS)
        )
        return Question(
            criterion=criterion,
            duckdb={f"{table} ASOF": _asof(names, span, table, within) for table in EVENT_ORDERS},
            chdb={f"{table} windowFunnel": _funnel(names, span, table, within) for table in EVENT_ORDERS},
        )

    return ask


def _asof(names: tuple[str, ...], span: Span, table: str, within: Micros) -> str:
    """Each row of a step with the start of the latest chain that ends there. That start never falls as time
    goes on, so the latest earlier row of the step before carries the best one.
    """

    def rows(name: str) -> str:
        return f"(SELECT user_number, time FROM {table} WHERE {_named(name, span, DUCKDB)})"

    chain = f"(SELECT user_number, time, time AS started FROM {rows(names[0])})"
    for name in names[1:]:
        chain = (
            f"(SELECT step.user_number, step.time, chain.started "
            f"FROM {rows(name)} step ASOF JOIN {chain} chain "
            f"ON step.user_number = chain.user_number AND step.time > chain.time)"
        )
    return (
        f"SELECT count(DISTINCT user_number) FROM {chain} WHERE time - started <= to_microseconds({within})"
    )


def _funnel(names: tuple[str, ...], span: Span, table: str, within: Micros) -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    steps = ", ".join(f"name = '{name}'" for name in names)
    clock = "toUInt64(toUnixTimestamp64Micro(time))"
    having = f"windowFunnel({within}, 'strict_increase')({clock}, {steps}) = {len(names)}"
    rows = f"name IN ({quoted}) AND {span.sql(CLICKHOUSE)}"
    return f"SELECT count() FROM {_groups(table, rows, having)}"


# --- combinations -------------------------------------------------------------------------------------------


def _all_of(turn: Turn) -> Question:
    bound = 500 + turn.number
    criterion = AllOf(
        criteria=(
            UserAttribute(key="plan", test=Equals("plus")),
            UserAttribute(key="score", test=Compare("greater_or_equal", float(bound))),
            Event(name=DENSE, window=_last_window(WINDOW_DAYS), test=_at_least(2)),
            Event(name=MEDIUM, window=_last_window(60)),
        )
    )

    def sql(dialect: Dialect) -> Variants:
        users = f"SELECT user_number FROM {USERS} WHERE plan = 'plus' AND score >= {bound}"

        def also(table: str) -> str:
            return f"SELECT user_number FROM {table} WHERE {_named(MEDIUM, _last(turn, 60), dialect)}"

        def one(table: str) -> str:
            often = _groups(table, _named(DENSE, _last(turn, WINDOW_DAYS), dialect), "count(*) >= 2")
            return (
                f"SELECT count(*) FROM ({users}) WHERE user_number IN {often} "
                f"AND user_number IN ({also(table)})"
            )

        def pushed(table: str) -> str:
            rows = (
                f"{_named(DENSE, _last(turn, WINDOW_DAYS), dialect)} AND user_number IN ({users}) "
                f"AND user_number IN ({also(table)})"
            )
            return f"SELECT count(*) FROM {_groups(table, rows, 'count(*) >= 2')}"

        plain = {f"{table} sets": one(table) for table in EVENT_ORDERS}
        return plain | {f"{table} filtered": pushed(table) for table in EVENT_ORDERS}

    return Question(criterion=criterion, duckdb=sql(DUCKDB), chdb=sql(CLICKHOUSE))


def _any_of(turn: Turn) -> Question:
    country = COUNTRIES[turn.number]
    criterion = AnyOf(
        criteria=(
            UserAttribute(key="country", test=Equals(country)),
            Event(name=SPARSE, window=_last_window(WINDOW_DAYS)),
            Event(name=MEDIUM, window=_last_window(WINDOW_DAYS), test=_at_least(2)),
        )
    )

    def sql(dialect: Dialect) -> Variants:
        span = _last(turn, WINDOW_DAYS)
        return {
            table: (
                f"SELECT count(*) FROM (SELECT user_number FROM {USERS} WHERE country = '{country}' "
                f"UNION DISTINCT SELECT user_number FROM {table} WHERE {_named(SPARSE, span, dialect)} "
                f"UNION DISTINCT SELECT user_number FROM "
                f"{_groups(table, _named(MEDIUM, span, dialect), 'count(*) >= 2')})"
            )
            for table in EVENT_ORDERS
        }

    return Question(criterion=criterion, duckdb=sql(DUCKDB), chdb=sql(CLICKHOUSE))


def _not(turn: Turn) -> Question:
    name = MEDIUM_NAMES[turn.number % len(MEDIUM_NAMES)]
    criterion = Not(criterion=Event(name=name, window=_last_window(WINDOW_DAYS)))
    return _complement(criterion, name, _last(turn, WINDOW_DAYS))


def _often_and_not(name: str, other: str) -> Callable[[Turn], Question]:
    """At least 3 times in the last 30 days, and the other not in the last 7."""

    def ask(turn: Turn) -> Question:
        criterion = AllOf(
            criteria=(
                Event(name=name, window=_last_window(30), test=_at_least(3)),
                Not(criterion=Event(name=other, window=_last_window(7))),
            )
        )
        often, lately = _last(turn, 30), _last(turn, 7)
        duckdb = _often_and_not_sql(DUCKDB, name, often, other, lately)
        chdb = _often_and_not_sql(CLICKHOUSE, name, often, other, lately)
        excluded = _day_bitmaps(other, lately, state=True)
        for table in EVENT_ORDERS:
            groups = _groups(table, _named(name, often, CLICKHOUSE), "count(*) >= 3")
            chdb[f"{table} and bitmaps of days"] = (
                f"WITH (SELECT groupBitmapState(user_number) FROM {groups}) AS often, ({excluded}) AS lately "
                f"SELECT bitmapAndnotCardinality(often, lately)"
            )
        return Question(criterion=criterion, duckdb=duckdb, chdb=chdb)

    return ask


def _often_and_not_sql(dialect: Dialect, name: str, often: Span, other: str, lately: Span) -> dict[str, str]:
    rows, excluded = _named(name, often, dialect), _named(other, lately, dialect)
    together = (
        f"count(*) FILTER (WHERE name = '{name}') >= 3 AND count(*) FILTER (WHERE name = '{other}') = 0"
    )
    variants = {}
    for table in EVENT_ORDERS:
        groups = _groups(table, rows, "count(*) >= 3")
        variants[f"{table} sets"] = (
            f"SELECT count(*) FROM {groups} "
            f"WHERE user_number NOT IN (SELECT user_number FROM {table} WHERE {excluded})"
        )
        both = _groups(table, f"(({rows}) OR ({excluded}))", together)
        variants[f"{table} one pass"] = f"SELECT count(*) FROM {both}"
    return variants


def forms() -> Iterator[Form]:
    """Every row of the table, in order."""
    for name, ask in _FORMS.items():
        yield Form(name=name, ask=ask)


HEADLINE = "A >= 3 times in 30 days, not B in 7 (dense)"
_FORMS: dict[str, Callable[[Turn], Question]] = {
    "attribute equals": _attribute_equals,
    "attribute in a dozen": _attribute_in,
    "attribute number at least": _number_at_least,
    "attribute number between": _number_between,
    "attribute contains": _text_contains,
    "attribute matches a regex": _text_matches,
    "identity contains": _identity_contains,
    "identity matches a regex": _identity_matches,
    "consent": _consent,
    "last seen within 3 days": _last_seen,
    "bucket": _bucket,
    "any event in 30 days (dense)": _any_in_window,
    "any event ever (medium)": _any_ever,
    "any event in 30 days (sparse)": _any_sparse,
    "count >= 3 in 30 days (dense)": _counted(DENSE, 3),
    "count >= 2 in 30 days (medium)": _counted(MEDIUM, 2),
    "count >= 2 in 30 days (sparse)": _counted(SPARSE, 2),
    "count = 0 in 7 days (dense)": _count_zero,
    "count >= 10 of any name in 7 days": _any_name,
    "sum in 30 days": _of_amount(
        Aggregate.SUM, lambda turn: 900 + turn.number, lambda _, least: f"sum(amount) >= {least}"
    ),
    "average in 30 days": _of_amount(
        Aggregate.AVERAGE,
        lambda turn: 200 + turn.number,
        lambda _, least: f"sum(amount) >= {least} * count(*)",
    ),
    "min in 30 days": _of_amount(
        Aggregate.MIN, lambda turn: 50 + turn.number, lambda _, least: f"min(amount) >= {least}"
    ),
    "max in 30 days": _of_amount(
        Aggregate.MAX, lambda turn: 400 + turn.number, lambda _, least: f"max(amount) >= {least}"
    ),
    "distinct values in 30 days": _distinct_categories,
    "distinct days in 30 days": _distinct_days,
    "first value in 30 days": _of_amount(
        Aggregate.FIRST,
        lambda turn: 250 + turn.number,
        lambda dialect, least: f"{dialect.first}(amount, time) >= {least}",
    ),
    "last value in 30 days": _of_amount(
        Aggregate.LAST,
        lambda turn: 250 + turn.number,
        lambda dialect, least: f"{dialect.last}(amount, time) >= {least}",
    ),
    "count >= 2 where equals": _where_equals,
    "count >= 2 where number": _where_number,
    "count >= 2 where and/or/not": _where_tree,
    "count >= 3 in a range": _range_window,
    "count >= 3 between 60 and 30 days ago": _between_ago,
    "count >= 2 in seven calendar days": _calendar,
    "sequence of 2 (dense, medium)": _sequence(DENSE, MEDIUM),
    "sequence of 3 (dense, dense, medium)": _sequence(DENSE, DENSE_TOO, MEDIUM),
    "all of 4": _all_of,
    "any of 3": _any_of,
    "not any event in 30 days": _not,
    "A >= 3 times in 30 days, not B in 7 (medium)": _often_and_not(MEDIUM, MEDIUM_NAMES[1]),
    HEADLINE: _often_and_not(DENSE, DENSE_TOO),
}
