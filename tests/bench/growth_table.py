"""The growth table: one line per figure, one column per scale, each with its ratio to the smallest scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from tests.bench.figures import number
from tests.bench.growth_figures import Growth

BYTES_A_MB = 1_000_000
MICROS_A_SECOND = 1_000_000

FIGURES: tuple[tuple[str, Callable[[Growth], float]], ...] = (
    ("ingest, events/s", lambda grown: grown.events_per_second),
    ("ingest and checkpoint, events/s", lambda grown: grown.checkpointed_events_per_second),
    ("ingest, CPU, µs/event", lambda g: g.import_cpu_seconds / g.events * MICROS_A_SECOND),
    ("exact count, p50, ms", lambda grown: grown.count_ms),
    ("stopped: SERVING, s", lambda grown: grown.after_stop.serving_seconds),
    ("stopped: first count, s", lambda grown: grown.after_stop.answered_seconds),
    ("killed: log, MB", lambda grown: grown.log_bytes / BYTES_A_MB),
    ("killed: SERVING, s", lambda grown: grown.after_kill.serving_seconds),
    ("killed: first count, s", lambda grown: grown.after_kill.answered_seconds),
    ("stop that checkpoints, s", lambda grown: grown.checkpoint_seconds),
    ("disk, checkpointed, MB", lambda grown: grown.disk_bytes / BYTES_A_MB),
    ("disk, checkpointed, bytes/event", lambda grown: grown.disk_bytes_an_event),
    ("RSS, most of the import, MB", lambda g: g.memory_after_import.most_resident / BYTES_A_MB),
    ("RSS after the import, MB", lambda grown: grown.memory_after_import.resident / BYTES_A_MB),
    ("  of it anonymous, MB", lambda grown: grown.memory_after_import.anonymous / BYTES_A_MB),
    ("RSS after questions, MB", lambda grown: grown.memory_after_questions.resident / BYTES_A_MB),
    ("  of it anonymous, MB", lambda grown: grown.memory_after_questions.anonymous / BYTES_A_MB),
)


def table(grown: Sequence[Growth]) -> Table:
    """The figures, smallest scale first."""
    smallest, *larger = grown
    # Narrow enough for a pipe, which is 80 columns wide.
    shown = Table(
        title="Growth: ten events a user", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    shown.add_column("users", no_wrap=True)
    shown.add_column(f"{smallest.users:,}", justify="right", no_wrap=True)
    for each in larger:
        shown.add_column(f"{each.users:,}", justify="right", no_wrap=True)
        shown.add_column("×", justify="right", style="dim", no_wrap=True)
    for what, figure in FIGURES:
        least = figure(smallest)
        cells = [number(least)]
        for each in larger:
            cells += [number(figure(each)), number(figure(each) / least) if least else ""]
        shown.add_row(what, *cells)
    counted = [f"{each.after_stop.counted:,}" for each in grown]
    shown.add_row("users counted", counted[0], *(cell for each in counted[1:] for cell in (each, "")))
    return shown
