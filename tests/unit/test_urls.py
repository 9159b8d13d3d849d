from pathlib import Path

import pytest

from broker.connections.endpoint import Endpoint
from broker.connections.tls import Tls
from broker.connections.url import parse_url
from broker.errors import BadUrl
from broker.local_server.socket_paths import socket_path


@pytest.mark.parametrize(
    ("url", "endpoint", "db", "shown"),
    [
        ("redis://head", Endpoint("head", 6379), 0, "redis://head:6379"),
        ("valkey://head:7000/3", Endpoint("head", 7000), 3, "valkey://head:7000/3"),
        ("redis://head?db=2", Endpoint("head", 6379), 2, "redis://head:6379/2"),
        ("redis://", Endpoint("localhost", 6379), 0, "redis://localhost:6379"),
        ("REDIS://head/", Endpoint("head", 6379), 0, "redis://head:6379"),
        ("redis://[::1]:7000", Endpoint("::1", 7000), 0, "redis://[::1]:7000"),
        (
            "unix:///run/p%2540%3F%23.sock",
            Endpoint("", 0, "/run/p%40?#.sock"),
            0,
            "unix:///run/p%2540%3F%23.sock",
        ),
        ("unix:///run/a@b/c@d.sock", Endpoint("", 0, "/run/a@b/c@d.sock"), 0, "unix:///run/a@b/c@d.sock"),
        (
            "unix:///run/my%20redis.sock?db=1",
            Endpoint("", 0, "/run/my redis.sock"),
            1,
            "unix:///run/my redis.sock?db=1",
        ),
    ],
)
def test_a_single_server(url: str, endpoint: Endpoint, db: int, shown: str):
    address = parse_url(url)
    assert (address.mode, address.endpoints, address.db, address.shown) == ("single", (endpoint,), db, shown)
    assert address.tls is None


def test_user_and_password_are_decoded_and_not_shown():
    address = parse_url("redis://trainer:p%40ss%2Fword%23@head/1")
    assert (address.username, address.password) == ("trainer", "p@ss/word#")
    assert address.shown == "redis://trainer@head:6379/1"
    assert "p@ss" not in repr(address)


def test_a_password_without_a_user():
    address = parse_url("unix://:secret@/run/redis.sock")
    assert (address.username, address.password, address.endpoints[0].path) == ("", "secret", "/run/redis.sock")


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "rediss+cluster", "valkeys+cluster"])
def test_tls(scheme: str):
    url = f"{scheme}://head?ssl_ca_certs=/ca.pem&ssl_certfile=/me.pem&ssl_keyfile=/me.key&ssl_check_hostname=false"
    assert parse_url(url).tls == Tls("/ca.pem", "/me.pem", "/me.key", verify=True, check_hostname=False)


def test_tls_checks_certificates_unless_told_not_to():
    assert parse_url("rediss://head").tls == Tls(verify=True, check_hostname=True)
    assert parse_url("rediss://head?ssl_cert_reqs=none").tls == Tls(verify=False, check_hostname=False)


def test_sentinel():
    address = parse_url("redis+sentinel://u:pw@s1,s2:27000/main/2?sentinel_password=other")
    assert address.mode == "sentinel"
    assert address.endpoints == (Endpoint("s1", 26379), Endpoint("s2", 27000))
    assert (address.service, address.db, address.password, address.sentinel_password) == ("main", 2, "pw", "other")
    assert address.shown == "redis+sentinel://u@s1:26379,s2:27000/main/2"


def test_cluster():
    address = parse_url("redis+cluster://a:7000,b:7001")
    assert (address.mode, address.endpoints) == ("cluster", (Endpoint("a", 7000), Endpoint("b", 7001)))


def test_servers_of_this_process():
    assert parse_url("embedded://").path == ""
    assert parse_url("embedded:///data/my%20run").path == "/data/my run"
    assert parse_url("fakeredis://name").path == "name"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("head:6379", "no scheme"),
        ("http://:secret@head", "unknown scheme 'http'"),
        ("redis+proxy://head", "unknown scheme"),
        ("redis://:secret@head?timeout=3", "unknown option timeout; known here: db"),
        ("redis://head?ssl_cert_reqs=none", "unknown option ssl_cert_reqs"),
        ("rediss://head?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://head?ssl_check_hostname=maybe", "ssl_check_hostname"),
        ("redis://head?db", "malformed"),
        ("redis://head?db=1&db=2", "twice"),
        ("redis://head/1?db=2", "two databases"),
        ("redis://head/one", "'one' is not a number"),
        ("redis://head/1/2", "longer than /db"),
        ("redis://a,b", "redis+cluster://"),
        ("redis://head:port", "malformed"),
        ("redis://head:99999", "not between 1 and 65535"),
        ("redis://::1", "brackets"),
        ("redis://:sec#ret@head", "%23"),
        ("redis://:sec?ret@head", "malformed"),
        ("redis+sentinel://head", "service's name"),
        ("redis+sentinel://head/main/1/2", "service's name"),
        ("redis+cluster://head/1", "only database 0"),
        ("redis+cluster://head?db=1", "only database 0"),
        ("unix://run/redis.sock", "absolute path"),
        ("embedded://data", "absolute"),
        ("embedded:///data?port=1", "known here: none"),
    ],
)
def test_what_is_refused_is_told_without_the_password(url: str, problem: str):
    with pytest.raises(BadUrl) as caught:
        parse_url(url)
    assert problem in str(caught.value)
    assert "ret@" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://:secret@head:port", "redis://:a/secret@a,b", "redis+sentinel://h/?sentinel_password=secret"],
)
def test_even_malformed_urls_show_no_password(url: str):
    with pytest.raises(BadUrl) as caught:
        parse_url(url)
    assert "secret" not in f"{caught.value} {caught.value!r}"


def test_long_socket_paths_get_a_short_name(tmp_path: Path):
    folder = tmp_path.joinpath(*["a-rather-long-name"] * 8)
    folder.mkdir(parents=True)
    (folder / "file").write_text("found")
    with socket_path(str(folder / "file")) as path:
        assert len(path) < 100
        assert Path(path).read_text() == "found"
