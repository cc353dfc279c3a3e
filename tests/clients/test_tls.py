"""The clients and the command line against a service that serves TLS and needs a key."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from typer.testing import Result

from milepost import TLS, Client, errors
from milepost.aio import AsyncClient
from milepost.cli.app import app
from tests.cli_runner import CliRunner
from tests.clients.bridge import the_loop
from tests.harness import serving

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Site:
    address: str
    secret: str
    directory: Path

    def file(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    @property
    def tls(self) -> TLS:
        return TLS(self.file("ca"), self.file("client"), self.file("client-key"))


def write_pair(issued: trustme.LeafCert, directory: Path, name: str) -> None:
    (directory / f"{name}.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (directory / f"{name}-key.pem").write_bytes(issued.private_key_pem.bytes())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service with mutual TLS, the files of a client, and the secret of an operator."""
    directory = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    (directory / "ca.pem").write_bytes(ca.cert_pem.bytes())
    (directory / "other.pem").write_bytes(other.cert_pem.bytes())
    write_pair(ca.issue_cert(HOST), directory, "server")
    write_pair(ca.issue_cert("client@example.org"), directory, "client")
    files = {"tls_cert_file": "server", "tls_key_file": "server-key", "tls_client_ca_file": "ca"}
    settings = {setting: directory / f"{file}.pem" for setting, file in files.items()}
    with serving(directory / "store", access_log="none", **settings) as service:
        made = Site(service.address, "", directory)
        with Client(service.address, tls=made.tls) as anyone:
            secret = anyone.create_api_key("op", operator=True).secret
        yield Site(service.address, secret, directory)


def test_a_client_with_the_files_and_a_key_is_answered(site: Site) -> None:
    with Client(site.address, account="acme", tls=site.tls, api_key=site.secret) as client:
        assert client.is_serving()
        assert client.ensure_account().name == "accounts/acme"
    with Client(site.address, account="acme", tls=site.tls) as client, pytest.raises(errors.Unauthenticated):
        client.get_account()


def test_the_asynchronous_client_too(site: Site) -> None:
    async def name() -> str:
        async with AsyncClient(site.address, account="aio", tls=site.tls, api_key=site.secret) as client:
            return (await client.ensure_account()).name

    assert the_loop().run(name()) == "accounts/aio"


def test_the_key_of_the_environment_is_sent_unless_another_is_given(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILEPOST_API_KEY", site.secret)
    with Client(site.address, account="env", tls=site.tls) as client:
        assert client.ensure_account().name == "accounts/env"
    for other in ("", "mpk_other"):
        with (
            Client(site.address, account="env", tls=site.tls, api_key=other) as client,
            pytest.raises(errors.Unauthenticated),
        ):
            client.get_account()


def test_without_the_files_there_is_no_connection(site: Site) -> None:
    for tls in (False, True, TLS(ca_file=site.file("other")), TLS(ca_file=site.file("ca"))):
        with Client(site.address, account="a", tls=tls, api_key=site.secret) as client:
            assert not client.is_serving(1)


def test_half_a_pair_is_refused(site: Site) -> None:
    for half in (TLS(cert_file=site.file("client")), TLS(key_file=site.file("client-key"))):
        with pytest.raises(ValueError, match="belong together"):
            Client(site.address, tls=half)
    with pytest.raises(FileNotFoundError):
        Client(site.address, tls=TLS(ca_file=site.file("none")))


def run(site: Site, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--target", site.address])


def test_commands_take_the_files_as_options_and_variables(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, cert, key = (site.file(name) for name in ("ca", "client", "client-key"))
    options = ("--tls-ca", ca, "--tls-cert", cert, "--tls-key", key, "--api-key", site.secret)
    assert run(site, "account", "list", *options).exit_code == 0
    variables = {"CA": ca, "CERT": cert, "KEY": key}
    for name, file in variables.items():
        monkeypatch.setenv(f"MILEPOST_TLS_{name}", str(file))
    monkeypatch.setenv("MILEPOST_API_KEY", site.secret)
    listed = run(site, "account", "list")
    assert listed.exit_code == 0, listed.output


def test_files_that_cannot_be_used_are_named(site: Site) -> None:
    half = run(site, "account", "list", "--tls-cert", site.file("client"))
    assert (half.exit_code, half.stderr) == (
        2,
        "milepost: --tls-cert and --tls-key belong together: give both or none\n",
    )
    missing = run(site, "account", "list", "--tls-ca", site.file("none"))
    assert (missing.exit_code, missing.stderr) == (2, f"milepost: there is no file {site.file('none')}\n")


def test_the_wrong_way_to_reach_a_service_that_runs_has_words_of_its_own(site: Site, tmp_path: Path) -> None:
    def said(target: str, *options: str | Path) -> str:
        result = CliRunner().invoke(app, ["account", "list", "--target", target, *map(str, options)])
        assert result.exit_code == 1
        return result.stderr.splitlines()[-1]

    # 1. It encrypts, or asks for a certificate, and the caller does not.
    assert "it may encrypt (--tls, --tls-ca)" in said(site.address)
    assert "or ask for a certificate (--tls-cert, --tls-key)" in said(
        site.address, "--tls-ca", site.file("ca")
    )
    assert "--tls-ca names a CA's file" in said(site.address, "--tls-ca", site.file("other"))
    # 2. It does not encrypt, or does not speak gRPC.
    with serving(tmp_path / "store", access_log="none", http_port=0) as plain:
        assert "leave out --tls and its files" in said(plain.address, "--tls")
        assert "is it --http-port of the service?" in said(f"{plain.application.http_address}")
    with serving(
        tmp_path / "encrypted",
        access_log="none",
        http_port=0,
        tls_cert_file=site.file("server"),
        tls_key_file=site.file("server-key"),
    ) as encrypted:
        hint = said(f"{encrypted.application.http_address}", "--tls-ca", site.file("ca"))
        assert "that port encrypts, but does not answer with gRPC: is it --http-port" in hint
    # 3. Nothing is there.
    with socket.socket() as free:
        free.bind((HOST, 0))
        assert "is the service running?" in said(f"{HOST}:{free.getsockname()[1]}")


@pytest.mark.parametrize("target", ["http://localhost:7443", "https://localhost:7443/"])
def test_a_url_is_no_address(target: str) -> None:
    result = CliRunner().invoke(app, ["account", "list", "--target", target])
    assert result.exit_code == 2
    scheme = target.partition(":")[0]
    assert f"the address of a service is localhost:7443, without {scheme}://" in result.stderr
    assert ("--tls encrypts" in result.stderr) is (scheme == "https")
    with pytest.raises(ValueError, match="the address of a service is localhost:7443"):
        Client(target)
    with pytest.raises(ValueError, match="the address of a service is localhost:7443"):
        AsyncClient(target)
