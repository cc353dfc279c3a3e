"""Resolves the header of an import of users against the columns of its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.criteria.model import ConsentState
from engine.values import Kind, Micros
from milepost.grammar import Grammar
from milepost.v1 import ingest_service_pb2 as pb
from service.arrow.layout import TIME, USER_ID, ColumnNames, attribute_kinds, grammar_of
from service.convert.faults import ShapeFaults
from service.convert.times import instant

GIVEN_VALUES = ("given", "true")
DENIED_VALUES = ("denied", "false")


@dataclass(frozen=True, slots=True)
class ConsentLayout:
    """A column of one consent; `states` maps its values, in lower case, to consent states."""

    column: str
    regulation: str
    purpose: str
    states: Mapping[str, ConsentState]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLayout:
    """The column for each field; None when there is none. `default_time` is in microseconds."""

    user_id: str
    time: str | None
    input: str | None
    attributes: tuple[str, ...]
    kinds: Mapping[str, Kind]
    """Attributes to read as a different kind than their type implies."""
    identities: Mapping[str, str]
    """Column to identity type."""
    consents: tuple[ConsentLayout, ...]
    grammar: Grammar
    """How strings are read, and the unit of integer times."""
    default_time: Micros
    default_input: str
    unset_nulls: bool


def user_layout_of(header: pb.ImportUsersHeader, columns: Sequence[str], now: Micros) -> UserLayout:
    """Resolves the columns. Rows without a time get `now` unless the header has a default. Raises
    InvalidInput with every fault.
    """
    faults = ShapeFaults()
    names = ColumnNames(columns, faults)
    user_id = names.find("user_id_column", header.user_id_column, USER_ID, required=True)
    time = names.find("time_column", header.time_column, TIME)
    input_ = names.find("input_column", header.input_column)
    for column in header.identity_columns:
        names.find(f"identity_columns[{column!r}]", column, required=True)
    for index, consent in enumerate(header.consent_columns):
        names.find(f"consent_columns[{index}].column", consent.column, required=True)
    for index, column in enumerate(header.ignored_columns):
        names.find(f"ignored_columns[{index}]", column, required=True)
    _find_columns_meant_twice(header, (user_id, time, input_), faults)
    consents = _consents(header, faults)
    meant = {user_id, time, input_, *header.identity_columns, *header.ignored_columns}
    meant |= {consent.column for consent in consents}
    attributes = tuple(each for each in columns if each not in meant)
    kinds = attribute_kinds(header.attribute_kinds, attributes, faults)
    grammar = grammar_of(header, faults)
    default_time = now
    if header.HasField("default_time"):
        default_time = instant(header.default_time, "header.default_time", faults)
    faults.raise_if_any()
    assert user_id is not None
    return UserLayout(
        user_id=user_id,
        time=time,
        input=input_,
        attributes=attributes,
        kinds=kinds,
        identities=dict(header.identity_columns),
        consents=consents,
        grammar=grammar,
        default_time=default_time,
        default_input=header.input,
        unset_nulls=header.unset_nulls,
    )


def _find_columns_meant_twice(
    header: pb.ImportUsersHeader, own: Sequence[str | None], faults: ShapeFaults
) -> None:
    """Adds a fault for each column with two meanings. One column may hold several consents."""
    meanings: dict[str, str] = {column: "the user id, time or input" for column in own if column is not None}
    groups = (
        ("an identity", header.identity_columns),
        ("a consent", dict.fromkeys(consent.column for consent in header.consent_columns)),
        ("left out", header.ignored_columns),
    )
    for meaning, columns in groups:
        for column in columns:
            before = meanings.setdefault(column, meaning)
            if before != meaning:
                faults.add("header", f"the column {column!r} cannot be both {before} and {meaning}")


def _consents(header: pb.ImportUsersHeader, faults: ShapeFaults) -> tuple[ConsentLayout, ...]:
    found: dict[tuple[str, str], ConsentLayout] = {}
    for index, consent in enumerate(header.consent_columns):
        path = f"header.consent_columns[{index}]"
        name = consent.regulation, consent.purpose
        for field, value in zip(("regulation", "purpose"), name, strict=True):
            if not value:
                faults.add(f"{path}.{field}", "is required")
        if name in found:
            faults.add(path, f"the consent {'/'.join(name)!r} already has a column")
        given = {value.lower() for value in consent.given_values or GIVEN_VALUES}
        denied = {value.lower() for value in consent.denied_values or DENIED_VALUES}
        for value in sorted(given & denied):
            faults.add(path, f"{value!r} cannot mean both given and denied")
        states = dict.fromkeys(given, ConsentState.GIVEN) | dict.fromkeys(denied, ConsentState.DENIED)
        found[name] = ConsentLayout(consent.column, *name, states)
    types: dict[str, str] = {}
    for column, identity in sorted(header.identity_columns.items()):
        if not identity:
            faults.add(f"header.identity_columns[{column!r}]", "the identity type is required")
        elif identity in types:
            other = types[identity]
            faults.add(
                f"header.identity_columns[{column!r}]", f"{identity!r} already has the column {other!r}"
            )
        types.setdefault(identity, column)
    return tuple(found.values())
