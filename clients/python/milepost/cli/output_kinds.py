"""The options for kinds of outputs. A test compares them with the kinds of the contract."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration

from milepost.cli.asking import to_duration_message
from milepost.cli.parameters import given, option_of
from milepost.cli.words import choice, one_of, value_of, word_of, words_of
from milepost.durations import text_of
from milepost.outputs import KINDS, OutputKind, kind_of
from milepost.v1.connection_pb2 import ContentMode, Output, SaslMechanism

FILE_BYTES_MAX = 1024 * 1024
"""Longest file that an option reads. No field takes as much."""


def text_or_file(text: str) -> str:
    """A text, or for `@FILE` what the file has, without the line end at its end."""
    if not text.startswith("@"):
        return text
    try:
        with Path(text[1:]).open(encoding="utf-8") as file:
            return file.read(FILE_BYTES_MAX).rstrip("\n")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {text[1:]}: {error}") from error


_of_kinds = partial(typer.Option, rich_help_panel="Address, by kind")


@dataclass(frozen=True)
class Address:
    """The fields of every kind. The help of an option begins with the kinds that have it."""

    path: Annotated[
        str | None, _of_kinds(help="file: relative path below the service's output directory.")
    ] = None
    max_bytes: Annotated[
        int | None, _of_kinds(min=0, help="file: size at which a file is finished. 0: unlimited.")
    ] = None
    max_age: Annotated[
        Duration | None,
        _of_kinds(
            metavar="DURATION",
            parser=to_duration_message,
            help="file: age at which a file is finished, like 1h. 0s: unlimited.",
        ),
    ] = None
    gzip: Annotated[bool | None, _of_kinds(help="file: compress finished files.")] = None
    url: Annotated[str | None, _of_kinds(help="webhook, redis: URL of the endpoint or server.")] = None
    secret: Annotated[
        str | None, _of_kinds(help="webhook: signing secret, `whsec_` and the base64 of 24-64 bytes.")
    ] = None
    mode: Annotated[
        int | None,
        _of_kinds(
            parser=partial(value_of, ContentMode),
            metavar=choice(words_of(ContentMode)),
            help="webhook, nats, kafka: how events become messages: many in one, or one each.",
        ),
    ] = None
    servers: Annotated[
        str | None, _of_kinds(help="nats: `nats://host:port`, `tls` for TLS; separate several with commas.")
    ] = None
    subject: Annotated[str | None, _of_kinds(help="nats: subject to publish to.")] = None
    credentials: Annotated[
        str | None,
        _of_kinds(
            parser=text_or_file, help="nats: content of a credentials file. @FILE reads it from the file."
        ),
    ] = None
    stream: Annotated[str | None, _of_kinds(help="redis: key of the stream.")] = None
    max_length: Annotated[
        int | None, _of_kinds(min=0, help="redis: approximate maximum length of the stream. 0: unlimited.")
    ] = None
    ca_certificates: Annotated[
        str | None,
        _of_kinds(
            parser=text_or_file,
            help="nats, redis, kafka: PEM certificates of authorities to trust. @FILE reads a file.",
        ),
    ] = None
    bootstrap_servers: Annotated[
        str | None, _of_kinds(help="kafka: `host:port`; separate several with commas.")
    ] = None
    topic: Annotated[str | None, _of_kinds(help="kafka: topic to produce to.")] = None
    user: Annotated[str | None, _of_kinds(help="kafka: user to authenticate as.")] = None
    password: Annotated[
        str | None,
        _of_kinds(parser=text_or_file, help="kafka: password of the user. @FILE reads it from a file."),
    ] = None
    sasl_mechanism: Annotated[
        int | None,
        _of_kinds(
            parser=partial(value_of, SaslMechanism),
            metavar=choice(words_of(SaslMechanism)),
            help="kafka: how the user authenticates.",
        ),
    ] = None
    use_tls: Annotated[bool | None, _of_kinds(help="kafka: connect by TLS.")] = None


OPTIONAL = frozenset(
    (
        "secret",
        "mode",
        "credentials",
        "max_length",
        "ca_certificates",
        "user",
        "password",
        "sasl_mechanism",
        "use_tls",
        "max_bytes",
        "max_age",
        "gzip",
    )
)
"""Fields that an output may do without."""

_NEEDS_SECRET = (
    "an output of kind webhook needs one that you and the receiver know:"
    ' --secret "whsec_$(openssl rand -base64 32)" makes one'
)

_ENUMS = {"mode": ContentMode, "sasl_mechanism": SaslMechanism}

kind_option = partial(typer.Option, parser=one_of(list(KINDS)), metavar=choice(list(KINDS)))


def kind_from(kind: str, address: Address, known: Output | None = None) -> OutputKind:
    """The message of a kind with the options given; the other fields are those of `known`, when it is of that
    kind. Raises BadParameter for an option that the kind does not have, and for one that it lacks.
    """
    message = message_factory.GetMessageClass(KINDS[kind])()
    if known is not None and kind_of(known) == kind:
        message.CopyFrom(getattr(known, kind))
    own = [field.name for field in KINDS[kind].fields]
    for name, value in given(address).items():
        if name not in own:
            options = ", ".join(map(option_of, own)) or "no options"
            raise typer.BadParameter(f"an output of kind {kind} has {options}", param_hint=option_of(name))
        if isinstance(value, Duration):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    lacking = [option_of(name) for name in own if name not in OPTIONAL and not getattr(message, name)]
    if lacking:
        raise typer.BadParameter(f"an output of kind {kind} needs {' and '.join(lacking)}")
    return cast(OutputKind, message)


def require_secret(kind: str, address: Address) -> None:
    """Raises BadParameter for a new webhook without a secret."""
    if kind == "webhook" and address.secret is None:
        raise typer.BadParameter(_NEEDS_SECRET, param_hint="--secret")


def address_text(output: Output) -> str:
    """The fields of an output's kind: `path=exports`."""
    kind = kind_of(output)
    fields = getattr(output, kind).ListFields() if kind else []
    return ", ".join(
        f"{field.name}={word_of(_ENUMS[field.name], value) if field.enum_type else _value_text(value)}"
        for field, value in fields
    )


def _value_text(value: object) -> str:
    if isinstance(value, Duration):
        return text_of(value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{len(text.splitlines())} lines" if "\n" in text else text
