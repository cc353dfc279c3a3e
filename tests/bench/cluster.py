"""Plans over ClickHouse: processor time of a server, beside SQL written by hand for each question, over one
shard and over two, and the embedded store's.

The world is that of the criteria table. Every answer is compared with the embedded store's, and a difference
ends the run. Each turn has another instant and other operands.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from engine.backends.base import Count
from engine.backends.clickhouse import bases
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.query.compiler import counted
from engine.backends.clickhouse.query.literals import number, text
from engine.backends.clickhouse.query.value_tests import in_range
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import (
    CONSENT,
    EVENTS,
    FACTS,
    IDENTITY,
    PROFILES,
    SEEN,
    consent_key,
)
from engine.backends.clickhouse.view import View
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import ConsentState, Equals, EventType, Text
from engine.criteria.operators import NumberRange
from engine.criteria.zones import SPAN_MICROS
from engine.plan.compile import compile_criterion
from engine.plan.model import AttributeMatch, EventMatch, EventSelection, IdentityMatch, Plan, SequenceMatch
from engine.plan.tree import Account, JourneyTree
from engine.values import Kind
from tests.bench import synthetic
from tests.bench.criteria import fill
from tests.bench.questions import HEADLINE, Form, Turn, forms
from tests.engine.backends.clickhouse import library
from tests.engine.backends.clickhouse.servers import ClickHouseServer, fresh_cluster, started

TURNS = 10
"""The first is not counted: it reads from disk."""
TABLE_WIDTH = 132
LOAD_S_MAX = 3_600.0

Answer = TypeVar("Answer")

_ACCOUNT = Account(synthetic.ACCOUNT)
_JOURNEY = JourneyTree(name=f"{synthetic.ACCOUNT}/journeys/bench", inputs=(synthetic.INPUT,))
LOADED = View(
    account=synthetic.ACCOUNT,
    revision=1,
    event_spans=tuple(range(synthetic.START // SPAN_MICROS, synthetic.END // SPAN_MICROS + 1)),
)
"""What counts when both files are loaded: of this the base is built."""
VIEW = msgspec.structs.replace(LOADED, revision=2)
"""With the later writes, of one user in `LATER_EVERY`, which change no answer."""
LATER_EVERY = 100
HOT = ((synthetic.WORKSPACE, "country"), (synthetic.WORKSPACE, "score"), (IDENTITY, "email"))
"""Facts with columns of their own in the base."""


class AnswersDiffer(Exception):
    """Two ways to ask one question gave different numbers."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form: users at the first turn, and median milliseconds: of processor time of one server, by our
    statement and by hand; of each of two shards; of this process for the embedded store; of the clock.
    """

    form: str
    users: int
    ours_ms: float
    by_hand_ms: float
    shard_ms: float
    embedded_ms: float
    clock_ms: float


Afterwards = Callable[[View, Plan, Sequence[ClickHouseServer], Cluster, Console], object]
"""What else is measured over the cluster of one server, given its view and the plan of the last form."""


def run(scale: synthetic.Scale, console: Console, afterwards: Afterwards | None = None) -> list[Row]:
    """Fills the stores, asks all questions and prints the table. Raises AnswersDiffer."""
    if not console.is_terminal:
        console.width = max(console.width, TABLE_WIDTH)
    library.download()
    with tempfile.TemporaryDirectory(prefix="cluster-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        console.print(f"drawing {scale.users:,} users and {scale.events:,} events, seed {scale.seed}")
        users, events = synthetic.write_parquet(synthetic.draw(scale), directory)
        fill(directory / "embedded", scale)
        embedded = LocalBackend.open(directory / "embedded")
        stack.callback(embedded.close)
        one, two = (stack.enter_context(started(directory / f"{shards}", shards, 1)) for shards in (1, 2))
        clusters = [
            stack.enter_context(fresh_cluster([[each.address for each in shard] for shard in servers]))
            for servers in (one, two)
        ]
        began = time.perf_counter()
        views = []
        for cluster in clusters:
            load(cluster, users, events)
            views.append(with_base(cluster))
        console.print(f"both clusters filled in {time.perf_counter() - began:.0f} s")
        console.print(*_sizes(clusters[0]), sep="\n")
        asked = {form.name: form for form in forms()}
        rows = []
        for name, by_hand in BY_HAND.items():
            servers = [server for shard in (*one, *two) for server in shard]
            rows.append(_measure(asked[name], by_hand, clusters, views, servers, embedded))
            console.print(rows[-1])
        console.print(_table(rows, scale))
        if afterwards is not None:
            afterwards(views[0], _plan(asked[HEADLINE], Turn(0)), one[0], clusters[0], console)
    return rows


# --- filling ------------------------------------------------------------------------------------------------


def load(cluster: Cluster, users: Path, events: Path) -> None:
    """Fills a cluster from the two Parquet files. The servers read them: they are faster than our client."""
    for shard in cluster.shards:
        for replica in shard.replicas:
            partitions = f"p >= {shard.partitions.start} AND p < {shard.partitions.stop}"
            for statement in (*_facts(users, partitions), *_events(events, partitions)):
                run_long(replica.server, statement)
            for table in (EVENTS, FACTS, SEEN):
                run_long(replica.server, f"OPTIMIZE TABLE {table} FINAL")


def with_base(cluster: Cluster) -> View:
    """Builds a base, then writes some users again, and returns the view with both."""
    built = bases.build(cluster, [LOADED], {synthetic.ACCOUNT: HOT})
    for replica in cluster.replicas():
        for table, columns in ((FACTS, "time + 1 AS time, toUInt64(2) AS rev"), (SEEN, "toUInt64(2) AS rev")):
            rows = f"SELECT * REPLACE ({columns}) FROM {table} WHERE cityHash64(user) % {LATER_EVERY} = 0"
            run_long(replica.server, f"INSERT INTO {table} {rows}")
        run_long(replica.server, f"OPTIMIZE TABLE {PROFILES} FINAL")
    return msgspec.structs.replace(VIEW, base=built[synthetic.ACCOUNT])


def run_long(server: Server, statement: str) -> None:
    """Runs a statement for as long as it takes."""
    address = server.address
    url = f"http://{address.host}:{address.port}/?database={server.database}"
    urllib.request.urlopen(url, statement.encode(), timeout=LOAD_S_MAX).close()


def _numbered(parquet: Path) -> str:
    """The rows of a file with the columns that all tables have."""
    return (
        f"(SELECT *, '{synthetic.ACCOUNT}' AS account, concat('u', toString(user_number)) AS user,"
        f" toUInt16(bitShiftRight(xxh3(user), 54)) AS p, rowNumberInAllBlocks() AS seq, 1 AS rev"
        f" FROM file('{parquet}', Parquet))"
    )


def _events(parquet: Path, partitions: str) -> tuple[str, ...]:
    return (
        f"INSERT INTO {EVENTS} SELECT account, name, p, user, toUnixTimestamp64Micro(time),"
        f" '{synthetic.INPUT}', {int(EventType.CUSTOM)}, seq, rev, map('category', category),"
        " map('amount', toFloat64(amount)), map(), map(), map()"
        f" FROM {_numbered(parquet)} WHERE {partitions}",
        f"INSERT INTO {SEEN} SELECT account, p, user, '{synthetic.INPUT}', min(time), max(time), 1"
        f" FROM {EVENTS} GROUP BY account, p, user",
    )


def _facts(parquet: Path, partitions: str) -> list[str]:
    consents = f"if(consent, '{ConsentState.GIVEN.value}', '{ConsentState.DENIED.value}')"
    purpose = text(consent_key(synthetic.CONSENT_REGULATION, synthetic.CONSENT_PURPOSE))
    columns = (
        (text(synthetic.WORKSPACE), "'plan'", Kind.STRING, "0", "plan"),
        (text(synthetic.WORKSPACE), "'country'", Kind.STRING, "0", "country"),
        (text(synthetic.WORKSPACE), "'score'", Kind.NUMBER, "score", "''"),
        (text(IDENTITY), "'email'", Kind.STRING, "0", "email"),
        (text(CONSENT), purpose, Kind.STRING, "0", consents),
    )
    rows = f"FROM {_numbered(parquet)} WHERE {partitions}"
    return [
        *(
            f"INSERT INTO {FACTS} SELECT account, {place}, {key}, p, user, {synthetic.START}, seq, rev,"
            f" {int(kind)}, {number_}, {string}, 0, [] {rows}"
            for place, key, kind, number_, string in columns
        ),
        f"INSERT INTO {SEEN} SELECT account, p, user, '{synthetic.INPUT}', {synthetic.START},"
        f" {synthetic.START}, rev {rows}",
    ]


def _sizes(cluster: Cluster) -> list[str]:
    statement = (
        "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active"
        " AND database = currentDatabase() AND rows > 1 GROUP BY table ORDER BY table"
    )
    return [
        f"{table}: {rows:,} rows, {size / rows:.1f} bytes a row"
        for found in cluster.read(statement)
        for table, rows, size in found
    ]


# --- by hand ------------------------------------------------------------------------------------------------

Handwritten = Callable[[Plan], str]


def _attribute(plan: Plan) -> str:
    step = _only(plan, AttributeMatch)
    if isinstance(step.test, NumberRange):
        having = f"argMax(number, time) >= {number(step.test.intervals[0].low or 0.0)}"
    else:
        assert isinstance(step.test, Equals)
        having = f"argMax(string, time) = {text(str(step.test.value))}"
    rows = f"{counted(VIEW, FACTS)} AND place = {text(step.workspaces[0])} AND key = {text(step.key)}"
    return _groups(FACTS, rows, having)


def _identity(plan: Plan) -> str:
    step = _only(plan, IdentityMatch)
    assert isinstance(step.test, Text)
    rows = f"{counted(VIEW, FACTS)} AND place = '{IDENTITY}' AND key = {text(step.type)}"
    return _groups(FACTS, rows, f"position(argMax(string, time), {text(step.test.pattern)}) > 0")


def _count(plan: Plan) -> str:
    step = _only(plan, EventMatch)
    return _groups(EVENTS, _rows(step), f"count() >= {step.intervals[0].low or 1:.0f}")


def _sum(plan: Plan) -> str:
    step = _only(plan, EventMatch)
    low = step.intervals[0].low or 0.0
    return _groups(EVENTS, _rows(step), f"sum(toInt64(round(numbers['amount'] * 100))) >= {low * 100:.0f}")


def _not(plan: Plan) -> str:
    step = _only(plan, EventMatch)
    return (
        f"SELECT (SELECT uniqExact(user) FROM {SEEN} WHERE {counted(VIEW, SEEN)}) -"
        f" (SELECT uniqExact(user) FROM {EVENTS} WHERE {_rows(step)})"
    )


def _often_and_not(plan: Plan) -> str:
    often, lately = [step for step in plan.steps if isinstance(step, EventMatch)]
    if often.intervals[0].low != 3.0:
        often, lately = lately, often
    one, other = (_rows(step) for step in (often, lately))
    return _groups(EVENTS, f"(({one}) OR ({other}))", f"countIf({one}) >= 3 AND countIf({other}) = 0")


def _sequence(plan: Plan) -> str:
    step = _only(plan, SequenceMatch)
    names = [selection.name for selection in step.steps]
    within = f"windowFunnel({step.within}, 'strict_increase')(toUInt64(time),"
    conditions = ", ".join(f"name = {text(name)}" for name in names)
    rows = " OR ".join(f"({_rows_of(selection)})" for selection in step.steps)
    return _groups(EVENTS, f"({rows})", f"{within} {conditions}) = {len(names)}")


_Kind = TypeVar("_Kind")


def _only(plan: Plan, kind: type[_Kind]) -> _Kind:
    (step,) = (step for step in plan.steps if isinstance(step, kind))
    return step


def _rows(step: EventMatch) -> str:
    return _rows_of(step.selection)


def _rows_of(selection: EventSelection) -> str:
    return f"{counted(VIEW, EVENTS)} AND name = {text(selection.name)} AND {in_range('time', selection.time)}"


def _groups(table: str, rows: str, having: str) -> str:
    return f"SELECT count() FROM (SELECT user FROM {table} WHERE {rows} GROUP BY user HAVING {having})"


BY_HAND: dict[str, Handwritten] = {
    "attribute equals": _attribute,
    "attribute number at least": _attribute,
    "identity contains": _identity,
    "count >= 3 in 30 days (dense)": _count,
    "count >= 2 in 30 days (medium)": _count,
    "sum in 30 days": _sum,
    "sequence of 3 (dense, dense, medium)": _sequence,
    "not any event in 30 days": _not,
    HEADLINE: _often_and_not,
}
"""The forms of the table, and how one would ask for them in SQL."""


# --- asking -------------------------------------------------------------------------------------------------


def _measure(
    form: Form,
    by_hand: Handwritten,
    clusters: Sequence[Cluster],
    views: Sequence[View],
    servers: Sequence[ClickHouseServer],
    embedded: LocalBackend,
) -> Row:
    one, two = clusters
    times: dict[str, list[float]] = {"ours": [], "by hand": [], "shard": [], "embedded": [], "clock": []}
    answers: list[int] = []
    for turn in map(Turn, range(TURNS)):
        plan = _plan(form, turn)
        hand = by_hand(plan)

        def ours(cluster: Cluster, view: View, plan: Plan = plan) -> int:
            return Plans(cluster).execute(view, plan, Count()).sizes[0]

        def handwritten(statement: str = hand) -> int:
            return int(one.read(statement)[0][0][0])

        def local(plan: Plan = plan) -> int:
            return embedded.execute(plan, Count()).sizes[0]

        began = time.perf_counter()
        found = {"ours": processor_ms(servers[:1], lambda: ours(one, views[0]))}
        times["clock"].append((time.perf_counter() - began) * 1_000)
        found["by hand"] = processor_ms(servers[:1], handwritten)
        found["shard"] = processor_ms(servers[1:], lambda: ours(two, views[1]))
        started_ = time.process_time()
        answers.append(local())
        times["embedded"].append((time.process_time() - started_) * 1_000)
        for name, (spent, answer) in found.items():
            times[name].append(spent)
            if answer != answers[-1]:
                raise AnswersDiffer(
                    f"{form.name}, turn {turn.number}: {name} {answer:,}, not {answers[-1]:,}"
                )
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    return Row(
        form=form.name,
        users=answers[0],
        ours_ms=medians["ours"],
        by_hand_ms=medians["by hand"],
        shard_ms=medians["shard"],
        embedded_ms=medians["embedded"],
        clock_ms=medians["clock"],
    )


def _plan(form: Form, turn: Turn) -> Plan:
    return compile_criterion(_ACCOUNT, _JOURNEY, form.ask(turn).criterion, turn.now, _no_audience)


def _no_audience(name: str) -> tuple[JourneyTree, str]:
    raise LookupError(name)


def processor_ms(servers: Sequence[ClickHouseServer], ask: Callable[[], Answer]) -> tuple[float, Answer]:
    """Milliseconds of processor time that a question takes of each server, and the answer."""
    before = _processor_s(servers)
    answer = ask()
    return (_processor_s(servers) - before) * 1_000 / len(servers), answer


def _processor_s(servers: Sequence[ClickHouseServer]) -> float:
    return sum(time.clock_gettime(_processor_clock(server.pid)) for server in servers)


def _processor_clock(pid: int) -> int:
    """The clock of a process's time on all processors: what clock_getcpuclockid(3) returns."""
    return ~pid << 3 | 2


def _table(rows: Sequence[Row], scale: synthetic.Scale) -> Table:
    table = Table(
        box=box.SIMPLE,
        title=f"Plans over ClickHouse, {scale.users:,} users and {scale.events:,} events (ms of CPU)",
        caption=f"median of {TURNS - 1}; ratio: our statement to the one by hand",
    )
    table.add_column("criterion")
    headings = ("users", "ours", "by hand", "ratio", "each of 2 shards", "embedded", "ours, by the clock")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        ratio = row.ours_ms / row.by_hand_ms if row.by_hand_ms else float("nan")
        figures = (row.ours_ms, row.by_hand_ms, ratio, row.shard_ms, row.embedded_ms, row.clock_ms)
        cells = [f"{each:.2f}" if each is ratio else f"{each:.1f}" for each in figures]
        table.add_row(row.form, f"{row.users:,}", *cells)
    return table
