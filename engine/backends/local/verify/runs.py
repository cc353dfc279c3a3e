"""Checks sorted runs: each is sorted, complete and covered by its filter, and there are no stray blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TypeAlias

import msgspec
import numpy as np

from engine.backends.local.storage.keys import key
from engine.backends.local.storage.sorted_runs import Items, Keys, Run, RunForm, RunRecord
from engine.backends.local.verify.examination import Examination, Found

_record_decoder = msgspec.msgpack.Decoder(RunRecord)

At: TypeAlias = tuple[int, ...]
"""The parts of a run's keys."""


def check_runs(
    examination: Examination, form: RunForm, check_items: Callable[[At, Items], None] = lambda *_: None
) -> Iterator[None]:
    """Checks all runs of a form. `check_items` is called with the items of each that is sound."""
    runs: dict[At, RunRecord] = {}
    for at, _, record in examination.values(form.record, _record_decoder.decode):
        runs[at] = record
        yield
    filters: dict[At, Keys] = {}
    for at, stored, bits in examination.values(form.filter, lambda value: np.frombuffer(value, np.uint64)):
        filters[at] = bits.copy()
        known = at in runs or not examination.is_sound(form.record)
        examination.expect(known, form.filter, "belongs to an unknown run", stored)
        yield
    compare = examination.is_sound(form.record, form.filter)
    seen = set()
    blocks = examination.values(form.block, lambda value: np.frombuffer(value, form.items))
    for at, group in groupby(blocks, lambda found: found.parts[:-1]):
        seen.add(at)
        whole = list(group)
        if compare and examination.is_sound(form.block):
            items = _check_run(examination, form, at, runs.get(at), filters.get(at), whole)
            if items is not None:
                check_items(at, items)
        yield
    if compare and examination.is_sound(form.block):
        for at in runs.keys() - seen:
            examination.fault(form.block, "of the run are missing", key(form.record, *at))


def _check_run(
    examination: Examination,
    form: RunForm,
    at: At,
    record: RunRecord | None,
    bits: Keys | None,
    blocks: list[Found[Items]],
) -> Items | None:
    """The items of a complete run."""
    stored = key(form.record, *at)
    if record is None:
        examination.fault(form.block, "belong to an unknown run", stored)
        return None
    if bits is None or not len(bits):
        examination.fault(form.filter, "is gone", stored)
        return None
    items = np.frombuffer(b"".join(found.value.tobytes() for found in blocks), form.items)
    in_order = [found.parts[-1] for found in blocks] == list(range(len(record.fences)))
    whole = in_order and len(items) == record.count
    examination.expect(whole, form.block, f"hold {len(items)} of {record.count} items", stored)
    high, low = items["high"], items["low"]
    ascending = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))
    examination.expect(bool(ascending.all()), form.block, "are not sorted", stored)
    # A block that lost all its items keeps its fence.
    fenced = all(
        fence == int(found.value["high"][0])
        for fence, found in zip(record.fences, blocks, strict=False)
        if len(found.value)
    )
    examination.expect(fenced, form.record, "does not match its blocks", stored)
    held = Run(form, at, record, bits).may_hold(form.keys(items))
    examination.expect(bool(held.all()), form.filter, "excludes items of its run", stored)
    ordered = record.first_arrival <= record.last_arrival
    examination.expect(ordered, form.record, "ends before it begins", stored)
    return items if whole else None
