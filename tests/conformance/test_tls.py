"""TLS, with a server of this machine that was built with it and certificates made for the test."""

import subprocess
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer, Worker
from broker.errors import BadUrl, CertificateRefused, UnsupportedServer
from tests.conformance.clients import make_client
from tests.conformance.test_credentials import Tokens
from tests.lossy_proxy import LossyProxy, ScriptedServer
from tests.threads import InThread
from tests.tls import make_certificate, tls_server
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cert.pem`, for localhost, signed by its own `key.pem`."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    return folder


@pytest.fixture(scope="module")
def port(certificate: Path) -> Generator[int]:
    with tls_server(certificate, "no") as (_, tls_port):
        yield tls_port


@pytest.mark.parametrize("flavour", ["sync", "aio"])
@pytest.mark.parametrize("options", ["ssl_ca_certs={folder}/cert.pem", "ssl_cert_reqs=none"])
def test_a_certificate_that_checks_or_need_not(certificate: Path, port: int, flavour: str, options: str):
    with make_client(flavour, f"rediss://localhost:{port}?{options.format(folder=certificate)}") as client:
        value = b"x" * 5_000_000
        client.command("SET", "a", value)
        assert client.command("GET", "a") == value


def test_tokens_that_are_replaced_all_the_time_over_tls(certificate: Path):
    with tls_server(certificate, "no") as (server, tls_port):
        url, tokens = f"rediss://localhost:{tls_port}?ssl_ca_certs={certificate}/cert.pem", Tokens(server)
        with (
            Trainer(url, "r", RunConfig(consumer_batch_size=1), credentials=tokens) as trainer,
            Worker(url, "r", credentials=tokens, lease_s=30.0) as worker,
        ):
            for step in range(3):
                tokens.replace()
                trainer.enqueue([Task(id=f"t{step}")])
                tokens.replace()
                for attempt in worker.claim(1, timeout=20):
                    worker.submit(attempt, "x")
                tokens.replace()
                assert [rollout.task for rollout in trainer.next_batch(timeout=20)] == [f"t{step}"]
                trainer.advance()
        assert tokens.asked > 6


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_certificate_of_nobody_known(port: int, flavour: str):
    with (
        make_client(flavour, f"rediss://localhost:{port}") as client,
        pytest.raises(CertificateRefused, match="certificate does not verify") as caught,
    ):
        client.command("PING")
    assert "password" not in str(caught.value)
    assert "ssl_ca_certs" in str(caught.value)


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_certificate_for_another_host(certificate: Path, port: int, flavour: str):
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}/cert.pem"
    with make_client(flavour, url) as client, pytest.raises(CertificateRefused, match="certificate"):
        client.command("PING")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_certificate_file_that_is_missing(port: int, flavour: str):
    url = f"rediss://localhost:{port}?ssl_ca_certs=/no/such/file.pem"
    with make_client(flavour, url) as client, pytest.raises(BadUrl, match=r"no/such/file.*No such file"):
        client.command("PING")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
@pytest.mark.parametrize("url", ["redis://{}", "redis+cluster://{}", "redis+sentinel://{}/main"])
def test_plain_text_to_a_tls_port_is_told_at_once(port: int, flavour: str, url: str):
    with (
        make_client(flavour, url.format(f"localhost:{port}"), retry_for_s=30.0) as client,
        pytest.raises(UnsupportedServer, match="the server speaks TLS; begin the URL with `rediss`"),
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


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_an_end_in_the_handshake_passes(certificate: Path, port: int, flavour: str, caplog: pytest.LogCaptureFixture):
    """A proxy without a server behind it, or a server without a place for another client."""
    with LossyProxy(port) as proxy:
        url = f"rediss://localhost:{proxy.port}?ssl_ca_certs={certificate}/cert.pem"
        proxy.refusing = True
        with make_client(flavour, url, retry_for_s=30.0) as client:
            call = InThread(lambda: client.command("PING"))
            wait_until(lambda: "trying for" in caplog.text, "the client says that it tries again")
            proxy.refusing = False
            assert call.result() == b"PONG"


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_full_server_is_waited_for(certificate: Path, flavour: str, caplog: pytest.LogCaptureFixture):
    with tls_server(certificate, "no") as (server, port), ExitStack() as places:
        other = places.enter_context(make_client("sync", server.url))
        other.command("CONFIG", "SET", "maxclients", "1")
        url = f"rediss://localhost:{port}?ssl_ca_certs={certificate}/cert.pem"
        with make_client(flavour, url, retry_for_s=30.0) as client:
            call = InThread(lambda: client.command("PING"))
            wait_until(lambda: "trying for" in caplog.text, "the client says that it tries again")
            assert "in the TLS handshake; a server that is full (maxclients)" in caplog.text
            places.close()
            assert call.result() == b"PONG"


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_server_that_demands_a_certificate(certificate: Path, flavour: str):
    with tls_server(certificate, "yes") as (_, port):
        url = f"rediss://localhost:{port}?ssl_ca_certs={certificate}/cert.pem"
        own = f"&ssl_certfile={certificate}/cert.pem&ssl_keyfile={certificate}/key.pem"
        with make_client(flavour, url + own) as client:
            assert client.command("PING") == b"PONG"
        # What the server says may be lost with the connection that it closes, but not each time.
        with (
            make_client(flavour, url, retry_for_s=60.0) as client,
            pytest.raises(CertificateRefused, match=r"ssl_certfile") as caught,
        ):
            client.command("PING")
        assert "password" not in str(caught.value)


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_an_answer_that_is_not_tls(flavour: str, caplog: pytest.LogCaptureFixture):
    class Talkative(ScriptedServer):
        def serve(self, client: Any) -> None:
            client.sendall(b"-ERR something in plain text\r\n" * 10)
            client.recv(1 << 16)

    with (
        Talkative(lambda _: b"") as server,
        make_client(flavour, f"rediss://localhost:{server.port}", retry_for_s=30.0) as client,
        pytest.raises(UnsupportedServer, match="no TLS there"),
    ):
        client.command("PING")
    assert "trying for" not in caplog.text


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_key_with_a_pass_phrase_is_refused_without_asking_for_it(certificate: Path, port: int, flavour: str):
    key = certificate / "locked.pem"
    command = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", str(certificate / "key.pem")]
    subprocess.run([*command, "-out", str(key)], check=True, capture_output=True, timeout=60)
    url = f"rediss://localhost:{port}?ssl_certfile={certificate}/cert.pem&ssl_keyfile={key}"
    with (
        make_client(flavour, url) as client,
        pytest.raises(BadUrl, match=r"cannot be read: .* a pass phrase") as caught,
    ):
        client.command("PING")
    assert "_ssl.c" not in str(caught.value)
