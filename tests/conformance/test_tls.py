"""TLS, with a server of this machine that was built with it and certificates made for the test."""

import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from broker.errors import AuthenticationFailed, BadUrl, ServerUnavailable
from tests.conformance.clients import InThread, make_client
from tests.servers import ServerUnderTest, free_port, real_kinds
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cert.pem`, for localhost, signed by its own `key.pem`."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl on PATH")
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    output = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *output]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def port(certificate: Path) -> Generator[int]:
    tls_port = free_port()
    settings = {
        "tls-port": str(tls_port),
        "tls-cert-file": str(certificate / "cert.pem"),
        "tls-key-file": str(certificate / "key.pem"),
        "tls-ca-cert-file": str(certificate / "cert.pem"),
        "tls-auth-clients": "no",
    }
    for kind in real_kinds():
        try:
            with ServerUnderTest(kind, settings=settings):
                yield tls_port
                return
        except ServerUnavailable:
            continue  # built without TLS
    pytest.skip("no server of this machine speaks TLS")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
@pytest.mark.parametrize("options", ["ssl_ca_certs={folder}/cert.pem", "ssl_cert_reqs=none"])
def test_a_certificate_that_checks_or_need_not(certificate: Path, port: int, flavour: str, options: str):
    with make_client(flavour, f"rediss://localhost:{port}?{options.format(folder=certificate)}") as client:
        value = b"x" * 5_000_000
        client.command("SET", "a", value)
        assert client.command("GET", "a") == value


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_certificate_of_nobody_known(port: int, flavour: str):
    with (
        make_client(flavour, f"rediss://localhost:{port}") as client,
        pytest.raises(AuthenticationFailed, match="certificate"),
    ):
        client.command("PING")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_certificate_for_another_host(certificate: Path, port: int, flavour: str):
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}/cert.pem"
    with make_client(flavour, url) as client, pytest.raises(AuthenticationFailed, match="certificate"):
        client.command("PING")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_certificate_file_that_is_missing(port: int, flavour: str):
    url = f"rediss://localhost:{port}?ssl_ca_certs=/no/such/file.pem"
    with make_client(flavour, url) as client, pytest.raises(BadUrl, match=r"no/such/file.*No such file"):
        client.command("PING")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_plain_text_to_a_tls_port(port: int, flavour: str):
    with (
        make_client(flavour, f"redis://localhost:{port}", retry_for_s=0.1) as client,
        pytest.raises(ServerUnavailable, match=r"closed the connection|reset"),
    ):
        client.command("PING")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_wait_over_tls_can_be_interrupted(certificate: Path, port: int, flavour: str):

    url = f"rediss://localhost:{port}?ssl_ca_certs={certificate}/cert.pem"
    with make_client(flavour, url) as client:
        wait = InThread(lambda: client.wait_marker(["wake"], 20))
        wait_until(lambda: b"blocked_clients:1" in client.command("INFO", "clients"), "the client waits")
        client.interrupt()
        assert wait.result(5) is None
