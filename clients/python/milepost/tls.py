"""TLS to a service: the CAs to trust, and the client's own certificate.

from milepost import Client, TLS

Client("milepost.example.org:7443", account="acme", tls=TLS(ca_file="ca.pem"))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class TLS:
    """PEM files. Without any, the service's certificate must be of a CA that gRPC trusts.

    `cert_file` and `key_file` identify the client where the service asks for a certificate (mutual TLS).
    """

    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a channel. Reads the files; raises OSError, and ValueError for half a pair."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("a client's certificate and its key belong together: give both or none")
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.cert_file))


def credentials_of(tls: TLS | bool) -> grpc.ChannelCredentials | None:
    """The credentials for an argument `tls`; True = TLS without files, False = plain text."""
    if isinstance(tls, bool):
        return TLS().credentials() if tls else None
    return tls.credentials()


def _read(file: str | Path | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
