"""Finds the kinds of the columns of one CSV file, by the grammar that the service uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from milepost.arrays import has_value
from milepost.grammar import Grammar
from milepost.importing.csv_file import Block, CsvFile
from milepost.importing.errors import nameless
from milepost.importing.kinds import Misfit, Values
from milepost.importing.prefetch import prefetched
from milepost.importing.settings import Reading


def values_of(path: Path, reading: Reading) -> dict[str, Values]:
    """The values of the attributes whose kind is not given. Reads the whole file. Raises CannotImport if it
    cannot be read, or if a column without a name has a value.
    """
    file = CsvFile(path, reading)
    grammar = Grammar(decimal_comma=reading.decimal_comma, time_format=reading.time_format)
    found = {
        place: Values()
        for place, name in file.columns.items()
        if name not in reading.own_columns and name not in reading.kinds
    }
    looked_at = [*found, *file.unnamed] or list(file.columns)[:1]
    # Reads to the end in any case: a damaged file has to be found before a row is sent.
    with prefetched(file.blocks(looked_at)) as blocks:
        for block in blocks:
            for place, texts in zip(block.columns, block.batch.columns, strict=True):
                if place in found:
                    _add(found[place], texts, grammar, path, block)
                elif place in file.unnamed:
                    _check_empty(texts, path, int(place), block)
            # A column of strings stays one. One column is always read, to count rows.
            looked_at[1:] = [place for place in looked_at[1:] if place not in found or found[place].plausible]
    return {file.columns[place]: values for place, values in found.items()}


def _add(values: Values, texts: Any, grammar: Grammar, path: Path, block: Block) -> None:
    has = has_value(texts)
    plausible = values.plausible
    if not plausible:
        return
    values.values += int(has.sum())
    for kind in plausible:
        fits = grammar.fits(kind, texts)
        values.fitting[kind] += int(fits.sum())
        if kind not in values.misfits and (has & ~fits).any():
            place = int(np.argmax(has & ~fits))
            values.misfits[kind] = Misfit(path, block.row_of(place), texts[place].as_py())


def _check_empty(texts: Any, path: Path, place: int, block: Block) -> None:
    has = has_value(texts)
    if has.any():
        row = int(np.argmax(has))
        raise nameless(f"{path}, line 1: column {place + 1}", block.row_of(row), texts[row].as_py())
