"""Summaries of imports as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from milepost.cli.text import counted, number, printable
from milepost.importing import FileImported
from milepost.importing.kinds import ColumnKinds
from milepost.v1.catalog_service_pb2 import ValueKind

REASONS_SHOWN = 10
NAMES_SHOWN = 10


def file_summary(name: str, imported: FileImported, elapsed_seconds: float) -> str:
    """One file: a line of figures, then the reasons of rejected rows."""
    rows = imported.rows - imported.resumed_rows
    if imported.was_complete:
        before = "was imported before (--from-start imports it again): "
    else:
        before = f"{_rows(rows)} in {elapsed_seconds:.1f} s, {_rate(rows, elapsed_seconds)}"
        before += (
            f", after {number(imported.resumed_rows)} in earlier runs; " if imported.resumed_rows else "; "
        )
    lines = [f"{printable(name)}: {before}{_parts([imported], str(imported.rejected_path))}"]
    lines += reasons(imported.refusals)
    lines += _left_out(imported.left_out)
    return "\n".join(lines)


def grand_total(
    files: int, imported: Sequence[FileImported], failed: Sequence[Path], elapsed_seconds: float
) -> str:
    """Several files: their number, total figures, and the files that failed."""
    rows = sum(each.rows - each.resumed_rows for each in imported)
    line = f"{number(len(imported))} of {number(files)} files imported"
    before = sum(each.was_complete for each in imported)
    line += f" ({number(before)} of them before)" if before else ""
    line += f": {_rows(rows)} in {elapsed_seconds:.1f} s, {_rate(rows, elapsed_seconds)}"
    lines = [f"{line}; {_parts(imported, 'the files named above')}"]
    if failed:
        named = ", ".join(printable(str(path)) for path in failed[:NAMES_SHOWN])
        more = f" and {number(len(failed) - NAMES_SHOWN)} more" if len(failed) > NAMES_SHOWN else ""
        lines.append(f"{number(len(failed))} failed: {named}{more}")
    return "\n".join(lines)


def reasons(refusals: Mapping[str, int]) -> Iterator[str]:
    """Lines with the reasons of rejected rows, the most frequent first."""
    ordered = sorted(refusals.items(), key=lambda item: (-item[1], item[0]))
    for reason, rows in ordered[:REASONS_SHOWN]:
        yield f"  {_rows(rows)} rejected, {printable(reason)}"
    if ordered[REASONS_SHOWN:]:
        rest = sum(rows for _, rows in ordered[REASONS_SHOWN:])
        yield f"  {number(rest)} rejected for {number(len(ordered) - REASONS_SHOWN)} further reasons"


def kinds(found: ColumnKinds) -> Iterator[str]:
    """The kinds of CSV columns, with the reason where a kind is in doubt."""
    certain = [printable(str(each)) for each in found.columns if each.misfit is None]
    if certain:
        yield f"columns: {', '.join(certain)}"
    for each in found.doubtful:
        yield f"column {printable(str(each))}"


def doubts(found: ColumnKinds) -> Iterator[str]:
    """For each column that is strings because of some values: why, and the options that change it."""
    for each in found.doubtful:
        assert each.misfit is not None
        assert each.almost is not None
        kind = ValueKind.Name(each.almost).removeprefix("VALUE_KIND_").lower()
        way = f"with --column {shlex.quote(f'{each.column}:{kind}')} its row is rejected"
        if each.misfit.is_short:
            way = f"with --null-value {shlex.quote(each.misfit.value)} it means no value, {way}"
        yield f"{each}. {way[0].upper()}{way[1:]}"


def _left_out(columns: Mapping[str, int]) -> Iterator[str]:
    if columns:
        named = ", ".join(f"{printable(name)} ({number(values)})" for name, values in sorted(columns.items()))
        yield f"  left out, as no attribute holds such values: {named}"


def _parts(imported: Sequence[FileImported], where: str) -> str:
    rows_are = imported[0].rows_are if imported else "events"
    accepted = sum(each.accepted for each in imported)
    parts = [f"{counted(accepted, rows_are.removesuffix('s'))} taken"]
    if duplicates := sum(each.duplicates for each in imported):
        parts.append(f"{number(duplicates)} {'was' if duplicates == 1 else 'were'} there already")
    if skipped := sum(each.skipped for each in imported):
        parts.append(f"{number(skipped)} without a user skipped")
    if rejected := sum(each.rejected for each in imported):
        parts.append(f"{number(rejected)} rejected, see {where}")
    return ", ".join(parts)


def _rows(count: int) -> str:
    return counted(count, "row")


def _rate(rows: int, elapsed_seconds: float) -> str:
    return f"{number(round(rows / elapsed_seconds))} rows/s"
