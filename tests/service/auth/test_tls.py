"""TLS on a real server, with certificates made by the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from structlog.testing import capture_logs

from milepost.v1 import account_service_pb2, account_service_pb2_grpc
from service.auth.listening import CannotListen
from service.config import ConfigError, load
from tests.harness import Serving, serving

HOST = "127.0.0.1"
NOT_READ = "TLS files not usable: the certificates before them stay in use"


class Site:
    """A directory with the files of a server."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.certificate, self.key, self.client_ca = (
            directory / name for name in ("cert.pem", "key.pem", "clients.pem")
        )
        self.issue(self.ca)

    def issue(self, ca: trustme.CA) -> None:
        """Puts a new certificate of a CA into place, as operators are told to."""
        issued = ca.issue_cert(HOST)
        replace(self.key, issued.private_key_pem.bytes())
        replace(self.certificate, b"".join(each.bytes() for each in issued.cert_chain_pems))

    @property
    def settings(self) -> dict[str, Any]:
        return {"tls_cert_file": self.certificate, "tls_key_file": self.key}


def replace(file: Path, content: bytes) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, file)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextmanager
def channel(
    service: Serving, ca: trustme.CA, client: trustme.LeafCert | None = None
) -> Iterator[grpc.Channel]:
    credentials = grpc.ssl_channel_credentials(
        ca.cert_pem.bytes(),
        None if client is None else client.private_key_pem.bytes(),
        None if client is None else client.cert_chain_pems[0].bytes(),
    )
    with grpc.secure_channel(service.address, credentials) as made:
        yield made


def is_answered(through: grpc.Channel) -> bool:
    stub = account_service_pb2_grpc.AccountServiceStub(through)
    try:
        stub.ListAccounts(account_service_pb2.ListAccountsRequest(), timeout=30)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


def test_with_certificates_nothing_but_tls_is_served(tmp_path: Path, site: Site) -> None:
    with serving(tmp_path / "store", access_log="none", **site.settings) as service:
        with channel(service, site.ca) as trusting:
            assert is_answered(trusting)
        with channel(service, trustme.CA()) as trusting_another:
            assert not is_answered(trusting_another)
        with grpc.insecure_channel(service.address) as plain:
            assert not is_answered(plain)


def test_a_renewed_certificate_is_used_from_the_next_connection_on(tmp_path: Path, site: Site) -> None:
    renewed = trustme.CA()
    with (
        serving(tmp_path / "store", readers=0, access_log="none", **site.settings) as service,
        channel(service, site.ca) as before,
    ):
        assert is_answered(before)
        site.issue(renewed)
        with channel(service, renewed) as after, capture_logs() as logs:
            assert is_answered(after)
        assert "TLS files read again" in {each["event"] for each in logs}
        assert is_answered(before)
        with channel(service, site.ca) as late:
            assert not is_answered(late)


def garbage(site: Site) -> None:
    replace(site.certificate, b"no certificate")


def another_key(site: Site) -> None:
    replace(site.key, site.ca.issue_cert(HOST).private_key_pem.bytes())


def missing(site: Site) -> None:
    site.key.unlink()


@pytest.mark.parametrize("spoil", [garbage, another_key, missing])
def test_files_that_cannot_be_used_are_logged_and_those_before_stay(
    tmp_path: Path, site: Site, spoil: Any
) -> None:
    renewed = trustme.CA()
    with serving(tmp_path / "store", readers=0, access_log="none", **site.settings) as service:
        spoil(site)
        with capture_logs() as logs:
            for _ in range(3):
                with channel(service, site.ca) as other:
                    assert is_answered(other)
        errors = [each for each in logs if each["event"] == NOT_READ]
        assert errors
        if spoil is not missing:
            assert len(errors) == 1, "once for a change"
        assert "PRIVATE" not in str(logs)
        site.issue(renewed)
        with channel(service, renewed) as after:
            assert is_answered(after)


def test_a_reload_reads_the_files_at_once(tmp_path: Path, site: Site) -> None:
    renewed = trustme.CA()
    with serving(tmp_path / "store", readers=0, access_log="none", **site.settings) as service:
        site.issue(renewed)
        with capture_logs() as logs:
            service.application.reload()
        assert [each["event"] for each in logs] == ["TLS files read again"]
        with channel(service, renewed) as after:
            assert is_answered(after)


def test_with_mutual_tls_callers_need_a_certificate_of_the_ca(tmp_path: Path, site: Site) -> None:
    clients, others = trustme.CA(), trustme.CA()
    site.client_ca.write_bytes(clients.cert_pem.bytes())
    settings = {**site.settings, "tls_client_ca_file": site.client_ca}
    with serving(tmp_path / "store", access_log="none", **settings) as service:
        with channel(service, site.ca, clients.issue_cert("caller@example.org")) as known:
            assert is_answered(known)
        with channel(service, site.ca, others.issue_cert("caller@example.org")) as unknown:
            assert not is_answered(unknown)
        with channel(service, site.ca) as without:
            assert not is_answered(without)
        # The file of CAs is read again too.
        replace(site.client_ca, others.cert_pem.bytes())
        with channel(service, site.ca, others.issue_cert("caller@example.org")) as renewed:
            assert is_answered(renewed)


@pytest.mark.parametrize("spoil", [garbage, another_key, missing])
def test_at_a_start_such_files_are_refused(tmp_path: Path, site: Site, spoil: Any) -> None:
    spoil(site)
    with (
        pytest.raises(CannotListen, match=r"cannot use the TLS files: .*pem"),
        serving(tmp_path / "store", **site.settings),
    ):
        pass


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tls-cert-file", "c"],
        ["--tls-key-file", "k"],
        ["--tls-client-ca-file", "a"],
        ["--tls-client-ca-file", "a", "--tls-key-file", "k"],
    ],
)
def test_a_certificate_and_its_key_belong_together(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="--tls-cert-file and --tls-key-file belong together"):
        load(arguments, {})
    files = load(["--tls-cert-file", "c", "--tls-key-file", "k"], {}).tls
    assert files is not None
    assert files.client_ca is None
    assert load([], {}).tls is None
