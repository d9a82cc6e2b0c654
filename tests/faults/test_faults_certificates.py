"""Certificates expired, wrong and missing on the real Triton, and the same client after they were mended.

The client against wrong material of its own, and the command line: tests/client/test_client_tls.py.
"""

from __future__ import annotations

import datetime
import ipaddress
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cytoserve_client import TLS, Client, errors
from cytoserve_deploy.errors import DeployError
from cytoserve_deploy.launch.local_server import LocalServer
from known_cells import ROOT, UM_PER_PIXEL, KnownCells

pytestmark = pytest.mark.integration

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
DEADLINE_S = 3.0


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, and their files."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    pem: Path
    key_pem: Path


def issue(folder: Path, name: str, issuer: Pair | None = None, days: tuple[int, int] = (-1, 2)) -> Pair:
    """Make a certificate for 127.0.0.1, valid between two days from now; without an issuer an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    pem, key_pem = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_pem.write_bytes(key.private_bytes(*form))
    return Pair(certificate, key, pem, key_pem)


@dataclass(frozen=True)
class Authority:
    """An authority and what it has issued, in one folder."""

    folder: Path
    own: Pair

    def pair(self, name: str, days: tuple[int, int] = (-1, 2)) -> Pair:
        return issue(self.folder, name, self.own, days)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("certificates")
    return Authority(folder, issue(folder, "authority"))


def served(pair: Pair, authority: Authority, port: int = 0, mutual: bool = False) -> LocalServer:
    """Return a server, not yet started, with this certificate. Its own warm-up speaks clear text, so there is none."""
    return LocalServer(
        model_repository=ROOT / "model_repository",
        warm_up=False,
        grpc_port=port,
        tls_cert=str(pair.pem),
        tls_key=str(pair.key_pem),
        tls_client_ca=str(authority.own.pem) if mutual else "",
    )


def right(client: Client, known: KnownCells) -> None:
    images = known.images(range(4))
    assert known.check(client.classify(images, UM_PER_PIXEL, one_sample=False), images, allowed=()) == 4


def refused(client: Client, known: KnownCells) -> str:
    """See that a call ends with a typed error in its time; return its message."""
    began = time.monotonic()
    with pytest.raises(errors.ServerUnavailable) as caught:
        client.classify(known.images([0]), UM_PER_PIXEL, timeout=DEADLINE_S)
    assert time.monotonic() - began < DEADLINE_S + 1
    return caught.value.message


def test_a_server_with_a_bad_certificate_is_refused_until_it_has_a_good_one(
    authority: Authority, known: KnownCells, tmp_path: Path
) -> None:
    """One client, and one address behind which the server is started with one certificate after the other."""
    bad = [
        authority.pair("expired", (-3, -1)),
        authority.pair("early", (1, 3)),
        issue(tmp_path, "server", issue(tmp_path, "other")),
    ]
    server = served(bad[0], authority).start()
    port = server.layout.grpc_port
    try:
        with Client(server.grpc_url, timeout=30, tls=TLS(authority.own.pem)) as client:
            refused(client, known)
            for pair in bad[1:]:
                server.stop()
                server = served(pair, authority, port).start()
                refused(client, known)
            server.stop()
            server = served(authority.pair("good"), authority, port).start()
            client.wait_until_ready(15)
            right(client, known)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def mutual(authority: Authority) -> Iterator[LocalServer]:
    with served(authority.pair("server"), authority, mutual=True) as running:
        yield running


@pytest.mark.parametrize("fault", ["expired", "of another authority", "missing", "clear text"])
def test_a_client_with_a_bad_certificate_is_turned_away_and_others_are_not(
    mutual: LocalServer, authority: Authority, known: KnownCells, fault: str, tmp_path: Path
) -> None:
    old, stranger = authority.pair("old", (-3, -1)), issue(tmp_path, "stranger", issue(tmp_path, "other"))
    tls = {
        "expired": TLS(authority.own.pem, old.key_pem, old.pem),
        "of another authority": TLS(authority.own.pem, stranger.key_pem, stranger.pem),
        "missing": TLS(authority.own.pem),
        "clear text": None,
    }[fault]
    good = authority.pair("client")
    with (
        Client(mutual.grpc_url, timeout=30, tls=TLS(authority.own.pem, good.key_pem, good.pem)) as proper,
        Client(mutual.grpc_url, timeout=30, tls=tls) as client,
    ):
        right(proper, known)
        refused(client, known)
        right(proper, known)


def test_a_certificate_that_is_missing_stops_the_start(authority: Authority) -> None:
    gone = authority.pair("gone")
    gone.pem.unlink()
    with pytest.raises(DeployError, match=r"gone\.pem cannot be read"):
        served(gone, authority).start()


def test_a_key_that_is_another_certificates_stops_the_start(authority: Authority) -> None:
    one, other = authority.pair("one"), authority.pair("two")
    one.key_pem.write_bytes(other.key_pem.read_bytes())
    with pytest.raises(DeployError):
        served(one, authority).start()
