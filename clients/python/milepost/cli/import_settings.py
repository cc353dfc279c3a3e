"""Makes settings of the options of `milepost import`. A ValueError is a message for the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from milepost.cli.import_options import KINDS, ReadingOptions, RowOptions, UserOptions
from milepost.importing import Consent, Settings, UserSettings
from milepost.importing.profiles import PROFILES, profiled
from milepost.instants import instant_of, text_of
from milepost.time_units import TIME_UNITS
from milepost.v1.catalog_service_pb2 import ValueKind
from milepost.v1.data_pb2 import EventType
from milepost.v1.ingest_service_pb2 import TimeUnit

_TAB = "\t"
_DELIMITER_NAMES = {"tab": _TAB, "\\t": _TAB}
_OF_EVENTS = ("profile", "name_column", "event_id_column", "type_column", "default_name", "default_type")


def settings_of(rows: RowOptions, reading: ReadingOptions, users: UserOptions) -> Settings | UserSettings:
    """The settings that the options give. Raises ValueError for an option that cannot be used."""
    # Options that need no conversion have the names of the settings' fields.
    given = {
        **vars(rows),
        **vars(reading),
        "default_type": _event_type(rows.default_type),
        "time_unit": _time_unit(rows.time_unit),
        "kinds": _kinds(rows.column or ()),
        "delimiter": _delimiter(reading.delimiter),
        "null_values": tuple(reading.null_value or ()),
        "time_format": _time_format(reading.time_format),
        "default_time": _default_time(reading.default_time),
        "exclude": tuple(reading.exclude or ()),
        "flatten": tuple(reading.flatten or ()),
    }
    settings = Settings(**_of(Settings, given) | {"profile": ""})
    if reading.profile:
        if reading.profile not in PROFILES:
            raise ValueError(f"--profile must be one of {', '.join(PROFILES)}, not {reading.profile!r}")
        settings = profiled(settings, reading.profile)
    if users.users:
        return _user_settings(settings, users)
    for option in fields(users):
        if getattr(users, option.name):
            raise ValueError(f"{_option(option.name)} needs --users")
    return settings


def _user_settings(settings: Settings, users: UserOptions) -> UserSettings:
    defaults = Settings()
    for name in _OF_EVENTS:
        if getattr(settings, name) != getattr(defaults, name):
            raise ValueError(f"{_option(name)} is for events, not for --users")
    if (users.given is None) != (users.denied is None):
        raise ValueError("--given and --denied go together: say which values mean each")
    return UserSettings(
        **_of(UserSettings, vars(settings)),
        identities=dict(_identity(text) for text in users.identity or ()),
        consents=tuple(_consent(text) for text in users.consent or ()),
        given=tuple(users.given or ()),
        denied=tuple(users.denied or ()),
        unset_nulls=users.unset_nulls,
    )


def _of(settings: type[Settings] | type[UserSettings], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the settings have a field for."""
    return {each.name: given[each.name] for each in fields(settings) if each.name in given}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# --- values of options ---


def _one_of(option: str, text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, not {text!r}")
    return choices[text]


def _event_type(text: str) -> EventType.ValueType:
    names = {name.removeprefix("EVENT_TYPE_").lower(): value for name, value in EventType.items()}
    type_: EventType.ValueType = _one_of("--default-type", text.lower() or "unspecified", names)
    return type_


def _time_unit(text: str) -> TimeUnit.ValueType:
    unit: TimeUnit.ValueType = _one_of("--time-unit", text, TIME_UNITS)
    return unit


def _kinds(texts: Iterable[str]) -> dict[str, ValueKind.ValueType]:
    kinds = {}
    for text in texts:
        name, _, kind = text.rpartition(":")
        if not name or kind not in KINDS:
            raise ValueError(f"--column must be NAME:KIND with a kind of {', '.join(KINDS)}, not {text!r}")
        kinds[name] = ValueKind.Value(f"VALUE_KIND_{kind.upper()}")
    return kinds


def _delimiter(text: str) -> str:
    character = _DELIMITER_NAMES.get(text, text)
    if text and (len(character) != 1 or not character.isascii() or character in '"\r\n'):
        raise ValueError(f"--delimiter must be one character, or tab, not {text!r}")
    return character


def _time_format(text: str) -> str:
    if text:
        try:
            from milepost.time_formats import TimeFormat
        except ModuleNotFoundError:
            # Without pyarrow nothing is imported, and the import says so.
            return text
        TimeFormat(text)
    return text


def _default_time(text: str) -> str:
    if not text:
        return ""
    try:
        return text_of(instant_of(text))
    except ValueError as error:
        raise ValueError(f"--default-time: {error}") from error


def _identity(text: str) -> tuple[str, str]:
    column, _, identity = text.rpartition(":")
    if not column or not identity:
        raise ValueError(f"--identity must be COLUMN:TYPE, not {text!r}")
    return column, identity


def _consent(text: str) -> Consent:
    column, _, consent = text.rpartition(":")
    regulation, _, purpose = consent.partition("/")
    if not column or not regulation or not purpose:
        raise ValueError(f"--consent must be COLUMN:REGULATION/PURPOSE, not {text!r}")
    return Consent(column, regulation, purpose)
