"""TLS: certificates from files, read again when the files change.

Every handshake compares the files with those read last, so a renewed certificate is served from the next
connection on, without a restart. Files that do not fit together are logged, and the last that did are kept.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import structlog

from service.auth.listening import CannotListen

Stamp = tuple[tuple[int, int, int], ...]
"""Inode, size and time of the last change of each file."""

_logger = structlog.get_logger("milepost.tls")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate, with those between it and its CA, and its key. With `client_ca`
    callers need a certificate that one of the CAs in that file signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(file for file in (self.certificate, self.key, self.client_ca) if file is not None)


class _Loaded(NamedTuple):
    """The files as gRPC takes them, and as HTTP does."""

    configuration: grpc.ServerCertificateConfiguration
    context: ssl.SSLContext


class Certificates:
    """The certificates in the files. Safe to call from several threads."""

    def __init__(self, files: TlsFiles) -> None:
        """Reads the files. Raises CannotListen when they cannot be used."""
        self._files = files
        self._lock = threading.Lock()
        try:
            # Before the files are read, so that a change meanwhile is seen by the next handshake.
            self._stamp = _stamp(files)
            self._current = self._served = _read(files)
        except (OSError, ValueError) as error:
            raise CannotListen(f"cannot use the TLS files: {_described(error, files)}") from error

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server that follows the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._served.configuration,
            self._of_handshake,  # type: ignore[arg-type]  # its stub does not know None
            require_client_authentication=self._files.client_ca is not None,
        )

    def context(self) -> ssl.SSLContext:
        """Context of an HTTP server that follows the files."""

        def follow(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
            self.refresh()
            with self._lock:
                connection.context = self._current.context

        with self._lock:
            first = self._current.context
        # Asked before each handshake, also of callers that name no server.
        first.sni_callback = follow
        return first

    def refresh(self) -> None:
        """Reads the files again if they changed, and logs it. Keeps the last that fit together."""
        with self._lock:
            try:
                stamp = _stamp(self._files)
                if stamp == self._stamp:
                    return
                # One log entry for each change, whether or not it can be used.
                self._stamp = stamp
                self._current = _read(self._files)
            except (OSError, ValueError) as error:
                why = _described(error, self._files)
                _logger.error("TLS files not usable: the certificates before them stay in use", error=why)
            else:
                _logger.info("TLS files read again", certificate=str(self._files.certificate))

    def _of_handshake(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks before each handshake: new certificates, or None for those it has."""
        self.refresh()
        with self._lock:
            if self._served is self._current:
                return None
            self._served = self._current
            return self._served.configuration


def _read(files: TlsFiles) -> _Loaded:
    """Reads the files and checks that they fit together. Raises OSError and ValueError."""
    key, certificate = files.key.read_bytes(), files.certificate.read_bytes()
    client_ca = None if files.client_ca is None else files.client_ca.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # An encrypted key fails instead of asking on the terminal.
    context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    configuration = grpc.ssl_server_certificate_configuration(
        [(key, certificate)], root_certificates=client_ca
    )
    return _Loaded(configuration, context)


def _stamp(files: TlsFiles) -> Stamp:
    found = [file.stat() for file in files.all]
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def _described(error: OSError | ValueError, files: TlsFiles) -> str:
    if isinstance(error, ssl.SSLError):
        names = ", ".join(map(str, files.all))
        return f"{names}: {error.reason or error}"
    return str(error)
