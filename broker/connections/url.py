"""Reads connection URLs. No other module knows their form."""

import os
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote

from broker.connections.endpoint import Endpoint
from broker.connections.tls import TLS_OPTIONS, Tls
from broker.errors import BadUrl
from broker.local_server.socket_paths import path_in_url
from broker.values.arguments import check_type
from broker.values.names import URL_VARIABLE

Mode = Literal["single", "sentinel", "cluster", "embedded", "fakeredis"]

#: Schemes of plain servers, and whether they mean TLS.
_SERVER_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_NO_OPTIONS: frozenset[str] = frozenset()
_OPTIONS = {
    "single": frozenset({"db"}),
    "sentinel": frozenset({"db", "sentinel_username", "sentinel_password"}),
    "cluster": frozenset({"db"}),
}
#: All options of any URL.
OPTIONS = TLS_OPTIONS.union(*_OPTIONS.values())
_FORMS = (
    "redis://host:port/db, rediss:// (TLS), valkey://, valkeys://, unix:///path/to.sock, "
    "redis+sentinel://host:port,host:port/service/db, redis+cluster://host:port,host:port, embedded://, "
    "embedded:///directory or fakeredis://name"
)
_DEFAULT_PORTS = {"single": 6379, "cluster": 6379, "sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Address:
    """The content of a URL.

    Attributes:
        endpoints: the server, the sentinels, or some nodes of the cluster.
        tls: None: no TLS.
        service: what the sentinels call the server.
        path: for `embedded`, the directory of the data ("": none is kept); for `fakeredis`, the name of the server.
        shown: the URL without passwords, for messages.
    """

    mode: Mode
    shown: str
    endpoints: tuple[Endpoint, ...] = ()
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None
    service: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    path: str = ""


def without_password(url: str) -> str:
    """A URL for messages: without the part before the last `@`, even if malformed; a socket's path is shown."""
    masked = re.sub(r"^(?![^:/]*unix:///)([^:/]*://).*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"(password=)[^&]*", r"\1***", masked)


def url_or_variable(url: str | None) -> str:
    """The URL that was given; None: the one in the environment variable BROKER_URL.

    Raises:
        BadUrl: neither is there.
    """
    if url is None and not (url := os.environ.get(URL_VARIABLE)):
        raise BadUrl(problem=f"no server was named: no URL was given, and {URL_VARIABLE} is not set")
    return url


def parse_url(url: str) -> Address:
    """Reads a URL.

    Args:
        url: one of the forms that the module's error message lists; user names and passwords percent-encoded.

    Raises:
        BadUrl: the scheme or an option is unknown, or a part is missing or malformed. The message holds no password.
    """
    check_type("url", url, str, "a str")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise _bad(url, f"it has no scheme; expected {_FORMS}")
    rest, _, fragment = rest.partition("#")
    if fragment:
        raise _bad(url, "it has a fragment; write '#' in a password as '%23'")
    rest, _, query = rest.partition("?")
    scheme = scheme.lower()
    options = _options(url, query)
    if scheme in ("embedded", "fakeredis"):
        _refuse_others(url, options, _NO_OPTIONS)
        return _local(url, scheme, unquote(rest))
    if scheme in ("unix", "redis+unix", "valkey+unix"):
        return _unix(url, scheme, rest, options)
    protocol, _, variant = scheme.partition("+")
    if protocol in _SERVER_SCHEMES and variant in ("", "sentinel", "cluster"):
        return _servers(url, scheme, variant or "single", rest, options)
    raise _bad(url, f"unknown scheme {scheme!r}; expected {_FORMS}")


def _unix(url: str, scheme: str, rest: str, options: dict[str, str]) -> Address:
    """`unix://user:password@/path/to.sock?db=0`; an `@` after the first slash belongs to the path."""
    userinfo, slash, path = rest.partition("/")
    user, password, place = _split_user(userinfo)
    place += slash + path
    if not place.startswith("/"):
        raise _bad(url, "a Unix socket needs an absolute path: unix:///path/to.sock")
    _refuse_others(url, options, frozenset({"db"}))
    db = _database(url, options.get("db", "0"))
    path = unquote(place)
    shown = f"{scheme}://{f'{user}@' if user else ''}{path_in_url(path)}{f'?db={db}' if db else ''}"
    return Address("single", shown, (Endpoint("", 0, path),), db, user, password)


def _servers(
    url: str, scheme: str, mode: Literal["single", "sentinel", "cluster"], rest: str, options: dict[str, str]
) -> Address:
    """`redis://user:password@host:port/db` and its variants."""
    user, password, place = _split_user(rest)
    hosts, _, path = place.partition("/")
    service, db_text = _path(url, mode, path)
    endpoints = tuple(_endpoint(url, text, _DEFAULT_PORTS[mode]) for text in (hosts or "localhost").split(","))
    if mode == "single" and len(endpoints) > 1:
        raise _bad(url, "several hosts need redis+cluster:// or redis+sentinel://")
    with_tls = _SERVER_SCHEMES[scheme.partition("+")[0]]
    _refuse_others(url, options, _OPTIONS[mode] | (TLS_OPTIONS if with_tls else _NO_OPTIONS))
    if db_text and options.get("db", db_text) != db_text:
        raise _bad(url, "it names two databases")
    db = _database(url, db_text or options.get("db", "0"))
    if db and mode == "cluster":
        raise _bad(url, "a cluster has only database 0")
    shown = f"{scheme}://{f'{user}@' if user else ''}{','.join(map(str, endpoints))}"
    return Address(
        mode=mode,
        shown=shown + (f"/{service}" if service else "") + (f"/{db}" if db else ""),
        endpoints=endpoints,
        db=db,
        username=user,
        password=password,
        tls=_tls(url, options) if with_tls else None,
        service=service,
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
    )


def _local(url: str, scheme: Literal["embedded", "fakeredis"], path: str) -> Address:
    """`embedded://`, `embedded:///directory` and `fakeredis://name`."""
    if scheme == "embedded" and path and not path.startswith("/"):
        raise _bad(url, "the directory must be absolute: embedded:///directory, or embedded:// to keep nothing")
    return Address(scheme, url, path=path)


def _split_user(rest: str) -> tuple[str, str, str]:
    """User, password, and what follows them."""
    userinfo, _, place = rest.rpartition("@")
    user, _, password = userinfo.partition(":")
    return unquote(user), unquote(password), place


def _refuse_others(url: str, options: dict[str, str], allowed: frozenset[str]) -> None:
    """Refuses unknown options: a misspelt option must not be ignored silently."""
    if unknown := sorted(options.keys() - allowed):
        raise _bad(url, f"unknown option {', '.join(unknown)}; known here: {', '.join(sorted(allowed)) or 'none'}")


def _database(url: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text):
        raise _bad(url, f"database {text!r} is not a number")
    return int(text)


def _path(url: str, mode: Literal["single", "sentinel", "cluster"], path: str) -> tuple[str, str]:
    """The service and the database of a URL's path, as text; empty where missing."""
    parts = [unquote(part) for part in path.rstrip("/").split("/")]
    if mode == "sentinel":
        if len(parts) > 2 or not parts[0]:
            raise _bad(url, "it needs the service's name: redis+sentinel://host:port,host:port/service/db")
        return parts[0], parts[1] if len(parts) == 2 else ""
    if len(parts) > 1:
        raise _bad(url, "its path is longer than /db")
    return "", parts[0]


def _endpoint(url: str, text: str, default_port: int) -> Endpoint:
    """Reads `host`, `host:port` or `[address]:port`."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]\s/]+))(?::(\d+))?", text)
    if not match:
        raise _bad(url, "a host is malformed; expected host:port (an IPv6 address in brackets)")
    port = int(match[3] or default_port)
    if not 0 < port < 65536:
        raise _bad(url, f"port {port} is not between 1 and 65535")
    return Endpoint(match[1] or match[2], port)


def _options(url: str, query: str) -> dict[str, str]:
    """The query as a dict; no option twice."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise _bad(url, "its options are malformed; expected ?name=value&name=value") from None
    if len(dict(pairs)) < len(pairs):
        raise _bad(url, "an option is there twice")
    return dict(pairs)


def _tls(url: str, options: dict[str, str]) -> Tls:
    try:
        return Tls.from_options(options)
    except ValueError as error:
        raise _bad(url, str(error)) from None


def _bad(url: str, problem: str) -> BadUrl:
    return BadUrl(url=without_password(url), problem=problem)
