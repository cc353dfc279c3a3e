"""The criteria table: each form of criterion, first-time and warm, beside DuckDB and embedded ClickHouse.

All three store the same rows on the same disk and are queried in the same process, one after the other, each
with its default number of threads. Each turn uses another instant and other operands. Every answer is
compared, and a difference ends the run. Times cover the whole question: for the engine from the criterion to
the count (compile and execute), for a peer from the SQL text to the number. "First" is the first question to
a store that was just opened, whose pages are still being checked; the peers stay open.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from engine.backends.base import Count
from engine.backends.local.backend import LocalBackend
from engine.plan.compile import compile_criterion
from engine.plan.tree import Account, JourneyTree
from tests.bench import synthetic, written_tables
from tests.bench.peers.duckdb_peer import DuckdbPeer
from tests.bench.peers.peer import CLICKHOUSE, DUCKDB, Peer, directory_bytes
from tests.bench.questions import Form, Question, Turn, Variants, forms

OURS = "milepost"
TURNS = 16
"""The first, and fifteen warm ones."""
TRIAL_TURNS = 4
"""Trials of each SQL variant of a question; the fastest one is then measured."""
RATIO_TARGET = 3.0
TABLE_WIDTH = 144
"""Width of the table; a pipe has none."""


class PeersDisagree(Exception):
    """Two stores gave different answers to one question: one is wrong, or the SQL asks something else."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`keep` is a directory that worlds are kept in for later runs; None = a temporary one. Only forms whose
    name contains `only` are run.
    """

    scale: synthetic.Scale = field(default_factory=synthetic.Scale)
    keep: Path | None = None
    only: str = ""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One store's times for one form, in milliseconds: the first, and the median of the warm ones. `way`
    names the fastest SQL variant.
    """

    first_ms: float
    warm_ms: float
    way: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form: the users at turn 0, and the times. A peer that cannot be asked is left out."""

    form: str
    users: int
    ours: Timing
    peers: Mapping[str, Timing]

    @property
    def ratio(self) -> float | None:
        """Warm time of the better peer relative to ours; None without a peer."""
        if not self.peers:
            return None
        return min(timing.warm_ms for timing in self.peers.values()) / self.ours.warm_ms


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Time to load the world, and its size on disk. No time for a kept store."""

    name: str
    seconds: float | None
    disk_bytes: int


def run(options: Options, console: Console) -> list[Row]:
    """Generates the world, fills the three stores, runs all questions and prints the table. Raises
    PeersDisagree.
    """
    if not console.is_terminal:
        console.width = max(console.width, TABLE_WIDTH)
    with _directory(options) as directory, ExitStack() as stack:
        # Before the peers open their files: one that is half filled is filled anew.
        for name in (OURS, DUCKDB.peer, CLICKHOUSE.peer):
            if not _mark(directory, name).exists():
                shutil.rmtree(directory / name, ignore_errors=True)
        peers = _open_peers(directory, console, stack)
        loads = _load(options.scale, directory, peers, console)
        rows = []
        for form in forms():
            if options.only in form.name:
                rows.append(_measure(form, directory / OURS, peers))
                console.print(_progress(rows[-1]), highlight=False)
        console.print(_table(rows, options.scale, peers))
        console.print(_loads_table(loads))
        if options == Options(keep=options.keep):
            versions = ", ".join(f"{peer.name} {peer.version()}" for peer in peers)
            written_tables.write("criteria", markdown(rows), f"{written_tables.machine()}, {versions}")
            console.print(f"written to {written_tables.PAGE}")
        else:
            console.print("some of the forms, or another scale: not written to docs/benchmarks.md")
    return rows


# --- the stores ---------------------------------------------------------------------------------------------


@contextmanager
def _directory(options: Options) -> Iterator[Path]:
    scale = options.scale
    name = f"criteria-{scale.users}-{scale.events}-{scale.seed}"
    if options.keep is not None:
        kept = options.keep / name
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
    else:
        with tempfile.TemporaryDirectory(prefix=name) as temporary:
            yield Path(temporary)


def _open_peers(directory: Path, console: Console, stack: ExitStack) -> list[Peer]:
    peers: list[Peer] = [DuckdbPeer(directory / DUCKDB.peer)]
    if importlib.util.find_spec("chdb") is None:
        console.print("chdb is not installed (make env EXTRAS=dev,sample,bench): its column is left out")
    else:
        # The module's import takes hundreds of megabytes, and it may be missing.
        from tests.bench.peers.chdb_peer import ChdbPeer

        peers.append(ChdbPeer(directory / CLICKHOUSE.peer))
    for peer in peers:
        stack.callback(peer.close)
    return peers


def _load(scale: synthetic.Scale, directory: Path, peers: Sequence[Peer], console: Console) -> list[Loaded]:
    """Fills the stores that are not filled yet, and marks each when done."""
    users, events = directory / "users.parquet", directory / "events.parquet"
    fillers: dict[str, Callable[[], None]] = {OURS: partial(fill, directory / OURS, scale)}
    fillers |= {peer.name: partial(peer.load, users, events) for peer in peers}
    if not (directory / "drawn").exists():
        console.print(f"drawing {scale.users:,} users and {scale.events:,} events, seed {scale.seed}")
        synthetic.write_parquet(synthetic.draw(scale), directory)
        (directory / "drawn").touch()
    loads = []
    for name, filler in fillers.items():
        mark = _mark(directory, name)
        seconds = None
        if not mark.exists():
            console.print(f"filling {name}")
            started = time.perf_counter()
            filler()
            seconds = time.perf_counter() - started
            mark.touch()
        loads.append(Loaded(name=name, seconds=seconds, disk_bytes=directory_bytes(directory / name)))
    return loads


def _mark(directory: Path, name: str) -> Path:
    """Exists once that store is filled."""
    return directory / f"{name}.filled"


def fill(directory: Path, scale: synthetic.Scale) -> None:
    """A new store in `directory`, or an empty one that is there, with the world of that scale: by the batches
    of an import, checkpointed.
    """
    world = synthetic.draw(scale)
    backend = LocalBackend.open(directory)
    for users in synthetic.user_batches(world):
        backend.append_user_columns(synthetic.ACCOUNT, users)
    for events in synthetic.event_batches(world):
        backend.append_columns(synthetic.ACCOUNT, events)
    backend.checkpoint()
    # Merges what later checkpoints would: the peers' tables are in their final form too.
    while backend._has_to_checkpoint:
        backend.checkpoint()
    backend.close()


# --- asking -------------------------------------------------------------------------------------------------

_ACCOUNT = Account(synthetic.ACCOUNT)
_JOURNEY = JourneyTree(name=f"{synthetic.ACCOUNT}/journeys/bench", inputs=(synthetic.INPUT,))


def ask_ours(backend: LocalBackend, question: Question, turn: Turn) -> int:
    """The engine's answer: the criterion compiled and counted."""
    plan = compile_criterion(_ACCOUNT, _JOURNEY, question.criterion, turn.now, _no_audience)
    return backend.execute(plan, Count()).sizes[0]


def _no_audience(name: str) -> tuple[JourneyTree, str]:
    raise LookupError(name)


def _measure(form: Form, directory: Path, peers: Sequence[Peer]) -> Row:
    turns = [Turn(number) for number in range(TURNS)]
    questions = [form.ask(turn) for turn in turns]
    backend = LocalBackend.open(directory)
    try:
        answers, times = [], []
        for turn, question in zip(turns, questions, strict=True):
            started = time.perf_counter()
            answers.append(ask_ours(backend, question, turn))
            times.append((time.perf_counter() - started) * 1_000)
            backend.wait_until_checked()
    finally:
        backend.close()
    timings = {}
    for peer in peers:
        asked = [question.ways(peer.name) for question in questions]
        if asked[0]:
            timings[peer.name] = _measure_peer(form, peer, asked, answers)
    ours = Timing(first_ms=times[0], warm_ms=statistics.median(times[1:]))
    return Row(form=form.name, users=answers[0], ours=ours, peers=timings)


def _measure_peer(form: Form, peer: Peer, asked: Sequence[Variants], answers: Sequence[int]) -> Timing:
    times: dict[str, list[float]] = {way: [] for way in asked[0]}

    def ask(way: str, turn: int) -> None:
        started = time.perf_counter()
        answer = peer.number(asked[turn][way])
        times[way].append((time.perf_counter() - started) * 1_000)
        if answer != answers[turn]:
            raise PeersDisagree(
                f"{form.name}, turn {turn}: {OURS} {answers[turn]:,}, {peer.name} {answer:,}: "
                f"{asked[turn][way]}"
            )

    for way in times:
        for turn in range(TRIAL_TURNS):
            ask(way, turn)
    best = min(times, key=lambda way: statistics.median(times[way][1:]))
    for turn in range(TRIAL_TURNS, TURNS):
        ask(best, turn)
    return Timing(first_ms=times[best][0], warm_ms=statistics.median(times[best][1:]), way=best)


# --- showing ------------------------------------------------------------------------------------------------


def _progress(row: Row) -> str:
    peers = "  ".join(f"{name} {timing.warm_ms:.2f} ({timing.way})" for name, timing in row.peers.items())
    return f"{row.form}: {row.users:,} users, {row.ours.warm_ms:.2f} ms; {peers}"


def _table(rows: Sequence[Row], scale: synthetic.Scale, peers: Sequence[Peer]) -> Table:
    versions = ", ".join(f"{peer.name} {peer.version()}" for peer in peers)
    table = Table(
        box=box.SIMPLE,
        title=f"Criteria over {scale.users:,} users and {scale.events:,} events (ms)",
        caption=f"{versions}; warm: median of {TURNS - 1}; ratio: the better peer's warm time to ours",
    )
    table.add_column("criterion")
    table.add_column("users", justify="right")
    for name in (OURS, *(peer.name for peer in peers)):
        table.add_column(f"{name} first", justify="right")
        table.add_column("warm", justify="right")
    table.add_column("ratio", justify="right")
    for row in rows:
        cells = [row.form, f"{row.users:,}"]
        for timing in (row.ours, *(row.peers.get(peer.name) for peer in peers)):
            cells += [f"{timing.first_ms:.2f}", f"{timing.warm_ms:.2f}"] if timing else ["", ""]
        table.add_row(*cells, _ratio(row.ratio))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The rows as the table of docs/benchmarks.md."""
    lines = [
        "| criterion | users | first | warm | DuckDB first | warm | chdb first | warm | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        timings = (row.ours, row.peers.get(DUCKDB.peer), row.peers.get(CLICKHOUSE.peer))
        cells = [row.form, f"{row.users:,}"]
        for timing in timings:
            cells += ["", ""] if timing is None else [f"{timing.first_ms:.2f}", f"{timing.warm_ms:.2f}"]
        cells.append("" if row.ratio is None else f"{row.ratio:.2g}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.1f}" if ratio >= RATIO_TARGET else f"[yellow]{ratio:.1f}[/yellow]"


def _loads_table(loads: Sequence[Loaded]) -> Table:
    table = Table(
        box=box.SIMPLE, title="Loading: batches of an import, each made durable; the peers from Parquet"
    )
    for heading in ("store", "seconds", "MB on disk"):
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for load in loads:
        seconds = "kept" if load.seconds is None else f"{load.seconds:.1f}"
        table.add_row(load.name, seconds, f"{load.disk_bytes / 1e6:,.0f}")
    return table
