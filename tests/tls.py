"""Servers of this machine that speak TLS, and certificates made for tests."""

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.errors import ServerUnavailable
from tests.servers import ServerUnderTest, free_port, real_kinds


def make_certificate(folder: Path) -> None:
    """Makes `cert.pem` in a folder, for localhost, signed by its own `key.pem`."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl on PATH")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    output = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *output]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def tls_server(certificate: Path, client_certificates: str) -> Generator[tuple[ServerUnderTest, int]]:
    """A server that speaks TLS, and the port where it does; `yes`: clients need a certificate, too."""
    tls_port = free_port()
    settings = {
        "tls-port": str(tls_port),
        "tls-cert-file": str(certificate / "cert.pem"),
        "tls-key-file": str(certificate / "key.pem"),
        "tls-ca-cert-file": str(certificate / "cert.pem"),
        "tls-auth-clients": client_certificates,
    }
    for kind in real_kinds():
        try:
            server = ServerUnderTest(kind, settings=settings)
        except ServerUnavailable:
            continue  # built without TLS
        with server:
            yield server, tls_port
            return
    pytest.skip("no server of this machine speaks TLS")
