"""Where the tables keep a value: one slot for each kind."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from engine.backends.clickhouse.query.literals import FALSE, TRUE, any_of, text, texts
from engine.backends.clickhouse.tables import VALUE_COLUMNS, fact_name, promoted_prefix
from engine.backends.clickhouse.view import Base
from engine.values import Kind


class Slot(NamedTuple):
    """Whether a value of one kind is there, and the value, as expressions."""

    there: str
    value: str


NOWHERE = Slot(FALSE, texts([]))
"""The slot of a kind that never occurs."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, or none, as expressions over a row."""

    string: Slot
    number: Slot = NOWHERE
    bool: Slot = NOWHERE
    time: Slot = NOWHERE
    list: Slot = NOWHERE

    @property
    def is_there(self) -> str:
        """Whether there is a value of any kind."""
        return any_of(slot.there for slot in (self.string, self.number, self.bool, self.time, self.list))

    @property
    def strings(self) -> str:
        """The strings in it, as an array: its string, or the elements of its list."""
        alone = f"if({self.string.there}, [{self.string.value}], {texts([])})"
        return f"arrayConcat({alone}, if({self.list.there}, {self.list.value}, {texts([])}))"


def _in_columns(prefix: str) -> Cell:
    """A value of any kind in columns."""
    return Cell(
        string=Slot(f"{prefix}kind = {int(Kind.STRING)}", f"{prefix}string"),
        number=Slot(f"{prefix}kind = {int(Kind.NUMBER)}", f"{prefix}number"),
        bool=Slot(f"{prefix}kind = {int(Kind.BOOL)}", f"{prefix}whole"),
        time=Slot(f"{prefix}kind = {int(Kind.TIME)}", f"{prefix}whole"),
        list=Slot(f"{prefix}kind = {int(Kind.LIST)}", f"{prefix}list"),
    )


FACT = _in_columns("")
"""The value of a row of `facts`."""

USER_ID = Cell(string=Slot(TRUE, "user"))
"""The user's own id."""


def event_attribute(key: str, promoted: Collection[str] = ()) -> Cell:
    """An attribute of a row of `events`. `promoted` are those with columns of their own."""
    if key in promoted:
        return _in_columns(promoted_prefix(key))
    return Cell(*(_in_map(column, key) for column in VALUE_COLUMNS.values()))


class ProfileFact(NamedTuple):
    """A fact of a row of `profiles`: its value, whether it was ever written, and the order of that write."""

    cell: Cell
    is_written: str
    order: str


def profile_fact(base: Base, place: str, key: str) -> ProfileFact:
    """A fact of a row of `profiles`."""
    name = fact_name(place, key)
    if (place, key) not in base.hot:
        written = _in_map("written", name)
        return ProfileFact(event_attribute(name), written.there, written.value)
    hot = f"hot{base.hot.index((place, key))}_"
    return ProfileFact(_in_columns(hot), f"{hot}is_written", f"{hot}written")


def _in_map(column: str, key: str) -> Slot:
    return Slot(f"mapContains({column}, {text(key)})", f"{column}[{text(key)}]")
