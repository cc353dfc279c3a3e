"""TLS over HTTP, with certificates made by the test: the same files as for gRPC."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path

import pytest
import trustme

from tests.harness import CALL_TIMEOUT_S, Serving, serving
from tests.service.auth.test_tls import HOST, Site, replace


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def answer(service: Serving, ca: trustme.CA, client: trustme.LeafCert | None = None) -> str:
    """What a health check over HTTPS answers."""
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    if client is not None:
        client.configure_cert(context)
    assert service.application.http_address is not None
    port = int(service.application.http_address.rpartition(":")[2])
    connection = http.client.HTTPSConnection(HOST, port, context=context, timeout=CALL_TIMEOUT_S)
    try:
        connection.request(
            "POST", "/grpc.health.v1.Health/Check", b"{}", {"content-type": "application/json"}
        )
        return str(json.loads(connection.getresponse().read())["status"])
    finally:
        connection.close()


def test_a_renewed_certificate_is_used_from_the_next_connection_on(tmp_path: Path, site: Site) -> None:
    renewed = trustme.CA()
    with serving(tmp_path / "store", http_port=0, access_log="none", **site.settings) as service:
        assert answer(service, site.ca) == "SERVING"
        with pytest.raises(ssl.SSLCertVerificationError):
            answer(service, renewed)
        site.issue(renewed)
        assert answer(service, renewed) == "SERVING"
        # What does not fit together changes nothing.
        site.certificate.write_bytes(b"no certificate")
        assert answer(service, renewed) == "SERVING"


def test_with_mutual_tls_callers_need_a_certificate_of_the_ca(tmp_path: Path, site: Site) -> None:
    clients, others = trustme.CA(), trustme.CA()
    site.client_ca.write_bytes(clients.cert_pem.bytes())
    settings = {**site.settings, "tls_client_ca_file": site.client_ca}
    with serving(tmp_path / "store", http_port=0, access_log="none", **settings) as service:
        known, unknown = (ca.issue_cert("caller@example.org") for ca in (clients, others))
        assert answer(service, site.ca, known) == "SERVING"
        for client in (unknown, None):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                answer(service, site.ca, client)
        # The file of CAs is read again too.
        replace(site.client_ca, others.cert_pem.bytes())
        assert answer(service, site.ca, unknown) == "SERVING"
