"""Targets of outputs: one struct for each kind, with the checks of its fields.

The tag of a struct and its fields have the names of the contract's (`Output.kind`), so that a message and a
struct are converted by name. To add a kind, add its struct here and to `Target`, and its sink in
`service/delivery/sinks` if it sends.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import ClassVar, Self, TypeAlias, get_args
from urllib.parse import urlsplit

import msgspec

from engine.errors import Violation
from engine.limits import (
    OUTPUT_CREDENTIAL_BYTES_MAX,
    OUTPUT_FILE_AGE_S_MAX,
    OUTPUT_FILE_AGE_S_MIN,
    OUTPUT_FILE_BYTES_MAX,
    OUTPUT_FILE_BYTES_MIN,
    OUTPUT_FOLDER_BYTES_MAX,
    OUTPUT_NAME_BYTES_MAX,
    OUTPUT_PATH_BYTES_MAX,
    OUTPUT_PATH_FOLDERS_MAX,
    OUTPUT_SERVERS_BYTES_MAX,
    OUTPUT_URL_BYTES_MAX,
    OUTPUT_USER_BYTES_MAX,
)
from engine.resources.servers import NO_HOST, Server, is_host, server_of, servers_of
from engine.values import MICROS_PER_SECOND, Micros

_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Controls, line separators and bidirectional marks: a path with them reads as another one."""

SECRET_PREFIX = "whsec_"
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64
"""Length of a signing secret by Standard Webhooks 1.0.0, "Signature scheme"."""

_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]+")
NATS_CREDENTIALS_MARKS = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")
"""What each credentials file has."""

HIDDEN = "***"
"""Stands for a password that is not shown."""

_USER_INFO = re.compile(r"(^|//|,)([^/@]*)@")
"""What stands before a host: of a URL, or of a server in a list."""
_PASSWORD_PARAMETER = re.compile(r"(?<=[?&]password=)[^&#,]*", re.IGNORECASE)


def hide_passwords(url: str) -> str:
    """A URL, or a list of servers, with `HIDDEN` for its passwords. What has a name alone may be a token, and
    is hidden as well.
    """

    def hidden(found: re.Match[str]) -> str:
        user, colon, _ = found[2].partition(":")
        return f"{found[1]}{user + colon if colon else ''}{HIDDEN}@"

    return _PASSWORD_PARAMETER.sub(HIDDEN, _USER_INFO.sub(hidden, url))


def passwords_in(url: str) -> tuple[str, ...]:
    """The passwords and tokens of a URL or a list of servers."""
    user_infos = [found[2].partition(":") for found in _USER_INFO.finditer(url)]
    found = [password if colon else user for user, colon, password in user_infos]
    return (*found, *_PASSWORD_PARAMETER.findall(url))


class ContentMode(enum.StrEnum):
    """How CloudEvents become messages: many in one as JSON, one as JSON, or one as headers and data."""

    BATCHED = "batched"
    STRUCTURED = "structured"
    BINARY = "binary"


class _Target(msgspec.Struct, frozen=True):
    """What every kind has."""

    secrets: ClassVar[frozenset[str]] = frozenset()
    """Fields that are never shown again."""
    urls: ClassVar[frozenset[str]] = frozenset()
    """Fields with URLs, whose passwords are never shown again."""
    overlapping: ClassVar[frozenset[str]] = frozenset()
    """Secrets whose last value stays valid for a while."""
    secrets_of: ClassVar[tuple[str, ...]] = ()
    """Fields that the secrets belong to: an update that changes one of them has to give the secrets again, so
    that a stored password goes to no other server and no other user.
    """
    sends: ClassVar[bool] = True
    """False when consumers come for the changes, so that there is no sink."""

    @classmethod
    def kind(cls) -> str:
        """The name of the kind in the contract."""
        return str(cls.__struct_config__.tag)

    def shown(self) -> dict[str, object]:
        """The fields a caller may read."""
        concealed = self.concealed()
        return {
            field: getattr(concealed, field) for field in self.__struct_fields__ if field not in self.secrets
        }

    def concealed(self) -> Self:
        """Without secrets, and with `HIDDEN` for passwords in URLs: the form that is stored and shown."""
        hidden = {field: hide_passwords(getattr(self, field)) for field in self.urls}
        return msgspec.structs.replace(self, **dict.fromkeys(self.secrets, ""), **hidden)

    def secret_values(self) -> dict[str, str]:
        """The values of what `concealed` hides, by field."""
        concealed = self.concealed()
        return {
            field: getattr(self, field)
            for field in sorted(self.secrets | self.urls)
            if getattr(self, field) != getattr(concealed, field)
        }

    def revealed(self, values: Mapping[str, str]) -> Self:
        """With the values of what is hidden."""
        known = {field: value for field, value in values.items() if field in self.secrets | self.urls}
        return msgspec.structs.replace(self, **known)

    def with_secrets_of(self, known: object) -> Self:
        """With the secrets of `known`, of the same kind, where this has none, unless they belong to other
        values of `secrets_of`; and with its passwords where this has its URL as it is shown. The password of
        one server is not sent to another.
        """
        if not isinstance(known, type(self)):
            return self
        kept, shown = {}, known.concealed()
        for field in self.urls:
            if getattr(self, field) == getattr(shown, field):
                kept[field] = getattr(known, field)
        whole = msgspec.structs.replace(self, **kept)
        if any(getattr(whole, field) != getattr(known, field) for field in self.secrets_of):
            return whole
        secrets = {field: getattr(known, field) for field in self.secrets if not getattr(self, field)}
        return msgspec.structs.replace(whole, **secrets)

    def hidden_faults(self) -> Iterable[Violation]:
        """A violation for each URL that has `HIDDEN` where a password has to be."""
        for field in sorted(self.urls):
            if HIDDEN in passwords_in(getattr(self, field)):
                yield self._fault(field, f"has {HIDDEN} for a password: give the password itself")

    def faults(self) -> Iterable[Violation]:
        """What a caller has to mend. The path begins with `output.{kind}`."""
        raise NotImplementedError

    def _fault(self, field: str, description: str) -> Violation:
        return Violation(f"output.{self.kind()}.{field}", description)

    def _text(self, field: str, bytes_max: int) -> Iterable[Violation]:
        """A violation when a required text is missing or too long."""
        text = getattr(self, field)
        if not text:
            yield self._fault(field, "is required")
        yield from self._too_long(field, bytes_max)

    def _too_long(self, field: str, bytes_max: int) -> Iterable[Violation]:
        if len(getattr(self, field).encode()) > bytes_max:
            yield self._fault(field, f"is longer than {bytes_max} bytes")

    def _ca_faults(self, ca_certificates: str) -> Iterable[Violation]:
        """Of certificates in PEM."""
        yield from self._too_long("ca_certificates", OUTPUT_CREDENTIAL_BYTES_MAX)
        if ca_certificates and "-----BEGIN CERTIFICATE-----" not in ca_certificates:
            yield self._fault("ca_certificates", "must be certificates in PEM")

    def _mode_faults(self, mode: ContentMode) -> Iterable[Violation]:
        """Of a kind whose messages have one event each."""
        if mode is ContentMode.BATCHED:
            yield self._fault("mode", "must be structured or binary: a message has one event")

    def _malformed(self, field: str, read: Callable[[], object]) -> Iterable[Violation]:
        """A violation when reading the field fails."""
        try:
            read()
        except ValueError as error:
            yield self._fault(field, str(error))


class Webhook(_Target, frozen=True, tag="webhook"):
    """HTTP POST, signed with `secret`."""

    secrets: ClassVar[frozenset[str]] = frozenset({"secret"})
    urls: ClassVar[frozenset[str]] = frozenset({"url"})
    overlapping: ClassVar[frozenset[str]] = frozenset({"secret"})

    url: str
    secret: str = ""
    mode: ContentMode = ContentMode.BATCHED

    def faults(self) -> Iterable[Violation]:
        """The URL and the secret."""
        fault = _url_fault(self.url, "http", "https")
        if fault:
            yield self._fault("url", fault)
        yield from self._too_long("url", OUTPUT_URL_BYTES_MAX)
        try:
            secret = base64.b64decode(self.secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            secret = b""
        has_length = SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX
        if not (self.secret.startswith(SECRET_PREFIX) and has_length):
            base64_bytes = f"the base64 of {SECRET_BYTES_MIN}-{SECRET_BYTES_MAX} bytes"
            yield self._fault("secret", f"must be {SECRET_PREFIX} and {base64_bytes}")


class Nats(_Target, frozen=True, tag="nats"):
    """A NATS JetStream subject. `credentials` is the content of a credentials file, `ca_certificates` has PEM
    (empty: the service's own).
    """

    urls: ClassVar[frozenset[str]] = frozenset({"servers"})
    secrets: ClassVar[frozenset[str]] = frozenset({"credentials"})
    secrets_of: ClassVar[tuple[str, ...]] = ("servers",)
    default_ports: ClassVar[Mapping[str, int]] = {"nats": 4222, "tls": 4222}

    servers: str
    subject: str
    mode: ContentMode = ContentMode.STRUCTURED
    credentials: str = ""
    ca_certificates: str = ""

    def server_list(self) -> tuple[Server, ...]:
        """The servers. Raises ValueError."""
        return servers_of(self.servers, self.default_ports)

    def faults(self) -> Iterable[Violation]:
        """The servers, the subject, the mode and what it authenticates with."""
        yield from self._malformed("servers", self.server_list)
        yield from self._too_long("servers", OUTPUT_SERVERS_BYTES_MAX)
        yield from self._text("subject", OUTPUT_NAME_BYTES_MAX)
        if self.subject and not _is_subject(self.subject):
            yield self._fault("subject", "must be names joined by dots, without spaces and wildcards")
        yield from self._mode_faults(self.mode)
        yield from self._too_long("credentials", OUTPUT_CREDENTIAL_BYTES_MAX)
        if self.credentials and not all(mark in self.credentials for mark in NATS_CREDENTIALS_MARKS):
            yield self._fault("credentials", "must be the content of a credentials file of NATS")
        yield from self._ca_faults(self.ca_certificates)


class Redis(_Target, frozen=True, tag="redis"):
    """A Redis stream, of at most about `max_length` entries (0 = unbounded). `ca_certificates` has PEM
    (empty: the service's own).
    """

    urls: ClassVar[frozenset[str]] = frozenset({"url"})
    default_ports: ClassVar[Mapping[str, int]] = {"redis": 6379, "rediss": 6379}

    url: str
    stream: str
    max_length: int = 0
    ca_certificates: str = ""

    def server(self) -> Server:
        """The server of the URL. Raises ValueError."""
        return server_of(self.url, self.default_ports)

    def database(self) -> int:
        """The number of the database in the URL. Raises ValueError."""
        path = self.server().path.strip("/")
        if path and not (path.isascii() and path.isdecimal()):
            raise ValueError("must end with the number of a database, like redis://host:6379/0")
        return int(path or 0)

    def faults(self) -> Iterable[Violation]:
        """The URL, the stream and its length, and the certificates."""
        yield from self._malformed("url", self.database)
        yield from self._too_long("url", OUTPUT_URL_BYTES_MAX)
        yield from self._text("stream", OUTPUT_NAME_BYTES_MAX)
        if self.max_length < 0:
            yield self._fault("max_length", "must not be negative")
        yield from self._ca_faults(self.ca_certificates)


class SaslMechanism(enum.StrEnum):
    """How a user authenticates to Kafka."""

    PLAIN = "plain"
    SCRAM_SHA_256 = "scram_sha_256"
    SCRAM_SHA_512 = "scram_sha_512"


class Kafka(_Target, frozen=True, tag="kafka"):
    """A Kafka topic. `ca_certificates` has PEM (empty: the service's own)."""

    secrets: ClassVar[frozenset[str]] = frozenset({"password"})
    secrets_of: ClassVar[tuple[str, ...]] = ("bootstrap_servers", "user")
    default_ports: ClassVar[Mapping[str, int]] = {"": 9092}

    bootstrap_servers: str
    topic: str
    mode: ContentMode = ContentMode.STRUCTURED
    user: str = ""
    password: str = ""
    sasl_mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512
    use_tls: bool = False
    ca_certificates: str = ""

    def server_list(self) -> tuple[Server, ...]:
        """The servers to begin with. Raises ValueError."""
        return servers_of(self.bootstrap_servers, self.default_ports)

    def faults(self) -> Iterable[Violation]:
        """The servers, the topic, the mode and what it authenticates with."""
        yield from self._malformed("bootstrap_servers", self._plain_servers)
        yield from self._too_long("bootstrap_servers", OUTPUT_SERVERS_BYTES_MAX)
        yield from self._text("topic", OUTPUT_NAME_BYTES_MAX)
        if self.topic and not _TOPIC.fullmatch(self.topic):
            yield self._fault("topic", "must be letters, digits, '.', '_' and '-', and not '.' or '..'")
        yield from self._mode_faults(self.mode)
        yield from self._too_long("user", OUTPUT_USER_BYTES_MAX)
        yield from self._too_long("password", OUTPUT_CREDENTIAL_BYTES_MAX)
        if bool(self.user) != bool(self.password):
            field = "password" if self.user else "user"
            yield self._fault(field, "is required: a user and a password belong together")
        yield from self._ca_faults(self.ca_certificates)
        if self.ca_certificates and not self.use_tls:
            yield self._fault("ca_certificates", "needs use_tls")

    def _plain_servers(self) -> None:
        if any(server.user or server.password for server in self.server_list()):
            raise ValueError("must have no user and no password: they have fields of their own")


class File(_Target, frozen=True, tag="file"):
    """NDJSON files below the server's output directory. One is finished at `max_bytes` or after `max_age`
    (0 = never), and then compressed when `gzip` says so.
    """

    path: str
    max_bytes: int = 0
    max_age: Micros = 0
    gzip: bool = False

    def faults(self) -> Iterable[Violation]:
        """The path stays below the directory, and file systems can hold it; when files are finished."""
        yield from self._path_faults()
        if self.max_bytes and not OUTPUT_FILE_BYTES_MIN <= self.max_bytes <= OUTPUT_FILE_BYTES_MAX:
            between = f"{OUTPUT_FILE_BYTES_MIN} to {OUTPUT_FILE_BYTES_MAX} bytes"
            yield self._fault("max_bytes", f"must be {between}, or 0 for no limit")
        age_s = self.max_age / MICROS_PER_SECOND
        if self.max_age and not OUTPUT_FILE_AGE_S_MIN <= age_s <= OUTPUT_FILE_AGE_S_MAX:
            between = f"{OUTPUT_FILE_AGE_S_MIN} to {OUTPUT_FILE_AGE_S_MAX} seconds"
            yield self._fault("max_age", f"must be {between}, or unset for no limit")
        if self.gzip and not self.max_bytes and not self.max_age:
            yield self._fault("gzip", "needs max_bytes or max_age: only finished files are compressed")

    def _path_faults(self) -> Iterable[Violation]:
        path = PurePosixPath(self.path)
        if not self.path:
            yield self._fault("path", "is required: a relative path")
        if path.is_absolute():
            yield self._fault("path", "must be a relative path: without '/' at the beginning")
        if ".." in path.parts:
            yield self._fault("path", "must be a relative path without '..'")
        hidden = _HIDDEN.search(self.path)
        if hidden is not None:
            what = f"U+{ord(hidden[0]):04X}"
            yield self._fault("path", f"must have no control characters and bidirectional marks, not {what}")
        yield from self._too_long("path", OUTPUT_PATH_BYTES_MAX)
        if len(path.parts) > OUTPUT_PATH_FOLDERS_MAX:
            yield self._fault(
                "path", f"has {len(path.parts)} folders; at most {OUTPUT_PATH_FOLDERS_MAX} are allowed"
            )
        if any(len(part.encode()) > OUTPUT_FOLDER_BYTES_MAX for part in path.parts):
            yield self._fault("path", f"has a folder with more than {OUTPUT_FOLDER_BYTES_MAX} bytes")


class Watch(_Target, frozen=True, tag="watch"):
    """Nowhere: consumers watch the audience and acknowledge what they have processed."""

    sends: ClassVar[bool] = False

    def faults(self) -> Iterable[Violation]:
        """None: it has no fields."""
        return ()


Target: TypeAlias = Webhook | Nats | Redis | Kafka | File | Watch

TARGETS: dict[str, type[Target]] = {struct.kind(): struct for struct in get_args(Target)}
"""By the name of the kind."""


def _is_subject(text: str) -> bool:
    tokens = text.split(".")
    printable = text.isprintable() and not any(character.isspace() for character in text)
    return printable and all(token not in ("", "*", ">") for token in tokens)


def _url_fault(url: str, *schemes: str) -> str:
    """What is wrong with a URL; "" = nothing."""
    if not url.isprintable() or " " in url:
        return "must have no spaces and no control characters: write a space as %20"
    try:
        parts = urlsplit(url)
        # The port is checked as it is read.
        has_host = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if not has_host:
        return f"must be an {' or '.join(schemes)} URL with a host"
    assert parts.hostname is not None
    return "" if is_host(parts.hostname) else NO_HOST
