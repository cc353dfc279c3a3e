"""`milepost import --users`: the options that say what the columns of users are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from milepost.importing import Consent, Settings, UserSettings

_PANEL = "Users"
_OPTIONS_OF_EVENTS = ("name_column", "event_id_column", "type_column", "default_name", "default_type")

Users = Annotated[
    bool,
    typer.Option(
        "--users",
        help="Rows are users: columns are attributes, identities and consents. The time column may be"
        " missing; rows without a time are of --default-time, or of now.",
        rich_help_panel=_PANEL,
    ),
]
Identity = Annotated[
    list[str] | None,
    typer.Option(
        "--identity",
        metavar="COLUMN:TYPE",
        help="Identity column and its type: mail:email. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
ConsentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--consent",
        metavar="COLUMN:REGULATION/PURPOSE",
        help="Consent column with its regulation and purpose: ads_ok:gdpr/ads. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--given",
        metavar="TEXT",
        help="Consent value that means given, in any case. Default: given, true.",
        rich_help_panel=_PANEL,
    ),
]
Denied = Annotated[
    list[str] | None,
    typer.Option(
        "--denied",
        metavar="TEXT",
        help="Consent value that means denied, in any case. Default: denied, false.",
        rich_help_panel=_PANEL,
    ),
]
UnsetNulls = Annotated[
    bool,
    typer.Option(
        "--unset-nulls",
        help="Unset the attribute or identity of a row without a value. Default: keep it.",
        rich_help_panel=_PANEL,
    ),
]


def settings_of(
    settings: Settings,
    *,
    users: bool,
    identity: Sequence[str] | None,
    consent: Sequence[str] | None,
    given: Sequence[str] | None,
    denied: Sequence[str] | None,
    unset_nulls: bool,
) -> Settings | UserSettings:
    """The settings, as those of users when the rows are `users`. Raises ValueError, whose message is for the
    user, for an option that the rows do not have, or that cannot be used.
    """
    if not users:
        of_users = {"identity": identity, "consent": consent, "given": given, "denied": denied}
        for name, value in {**of_users, "unset-nulls": unset_nulls}.items():
            if value:
                raise ValueError(f"--{name} needs --users")
        return settings
    defaults = Settings()
    events_only = [name for name in _OPTIONS_OF_EVENTS if getattr(settings, name) != getattr(defaults, name)]
    events_only += ["profile"] if settings.profile else []
    if events_only:
        raise ValueError(f"--{events_only[0].replace('_', '-')} is for events, not for --users")
    if (given is None) != (denied is None):
        raise ValueError("--given and --denied go together: say which values mean each")
    reading: Mapping[str, Any] = {
        name: getattr(settings, name)
        for name in UserSettings.__dataclass_fields__
        if name in Settings.__dataclass_fields__
    }
    return UserSettings(
        **reading,
        identities=dict(_identity(text) for text in identity or ()),
        consents=tuple(_consent(text) for text in consent or ()),
        given=tuple(given or ()),
        denied=tuple(denied or ()),
        unset_nulls=unset_nulls,
    )


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
