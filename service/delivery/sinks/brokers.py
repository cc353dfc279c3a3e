"""What the sinks of brokers have in common: packages, addresses, TLS, and errors that name a field."""

from __future__ import annotations

import importlib
import ssl
from pathlib import Path

from service.delivery.guard import Guard, Peer, TargetRefused
from service.delivery.sinks.sink import SinkError
from service.delivery.trust import trusting

DISTRIBUTION = "milepost-server"


def require(package: str, extra: str) -> None:
    """Imports an optional package. Raises SinkError naming the extra that brings it."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise SinkError(
            f"outputs of kind {extra} need a package that this service lacks ({error.name}): install "
            f"'{DISTRIBUTION}[{extra}]', then resume the connection",
            final=True,
        ) from error


def faulty(kind: str, field: str, why: str) -> SinkError:
    """A fault that goes on until a field of the output is changed."""
    return SinkError(
        f"output.{kind}.{field}: {why}; change it with UpdateOutput, then resume the connection", final=True
    )


def too_large(change: str, limit: str) -> SinkError:
    """A fault of a change that is over a limit."""
    return SinkError(
        f"{change} is larger than the {limit}: raise it, or send fewer attributes, then resume the "
        "connection",
        final=True,
    )


def tls_context(kind: str, ca_certificates: str, ca_file: Path) -> ssl.SSLContext:
    """A context that trusts certificates in PEM, without any those of the service. Raises SinkError."""
    try:
        return ssl.create_default_context(cadata=ca_certificates) if ca_certificates else trusting(ca_file)
    except (ssl.SSLError, ValueError) as error:
        raise faulty(kind, "ca_certificates", f"has no certificate that can be read ({error})") from error
    except OSError as error:
        raise SinkError(f"the service cannot read the authorities it trusts: {error.strerror}") from error


def peers_of(guard: Guard, host: str, port: int) -> tuple[Peer, ...]:
    """The addresses of a host that may be connected to. Raises SinkError."""
    try:
        return guard.peers(host, port)
    except TargetRefused as error:
        raise SinkError(str(error), final=True) from error
    except OSError as error:
        raise SinkError(f"{host} has no address: {error.strerror or error}") from error
