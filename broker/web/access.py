"""Who may see pages, and who may change runs.

A page that a browser has open elsewhere must reach neither: `Host` has to be an address that this server was started
for (against names that are made to point here), changes need a session and its secret in a header (against forms of
other sites), and nothing of this server may be framed or run scripts of others.
"""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import Final

#: How long a session lasts, in seconds.
SESSION_S: Final = 12 * 3600.0
#: Most sessions; the oldest ends first.
_MOST_SESSIONS: Final = 1000
#: After so many wrong tokens no more are looked at for a while.
_MOST_WRONG: Final = 10
_WRONG_PAUSE_S: Final = 30.0
COOKIE: Final = "broker_web"
#: The header with the session's secret.
SECRET_HEADER: Final = "x-broker-secret"  # noqa: S105 - the name of a header

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who gave the token.

    Attributes:
        secret: has to come with each change, in a header.
        until: when it ends, on the monotonic clock.
    """

    secret: str
    until: float


@dataclass(slots=True)
class Access:
    """Decides by a token.

    Args:
        token: whoever gives it may change runs; empty: nobody may.
        needs_token: pages need it, too.
        hosts: names and addresses under which browsers may reach this server; empty: any.
    """

    token: str
    needs_token: bool
    hosts: frozenset[str]
    _sessions: dict[str, Session] = field(default_factory=dict[str, Session])
    _wrong: int = 0
    _closed_until: float = 0.0

    def is_for_us(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        if not self.hosts:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        return name.strip("[]").lower() in self.hosts

    def log_in(self, token: str) -> str | None:
        """Begins a session. Returns its cookie; None: the token is wrong, or too many wrong ones were tried."""
        now = time.monotonic()
        if not self.token or now < self._closed_until:
            return None
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            self._wrong += 1
            if self._wrong >= _MOST_WRONG:
                self._wrong, self._closed_until = 0, now + _WRONG_PAUSE_S
            return None
        self._wrong = 0
        self._sessions = {cookie: one for cookie, one in self._sessions.items() if one.until > now}
        if len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = Session(secrets.token_urlsafe(32), now + SESSION_S)
        return cookie

    def log_out(self, cookie: str) -> None:
        """Ends a session."""
        self._sessions.pop(cookie, None)

    def session(self, cookie: str) -> Session | None:
        """The session of a cookie; None: there is none, or it has ended."""
        found = self._sessions.get(cookie)
        return found if found is not None and found.until > time.monotonic() else None

    def may_see(self, cookie: str) -> bool:
        """Whether pages are shown."""
        return not self.needs_token or self.session(cookie) is not None

    def may_change(self, cookie: str, secret: str) -> bool:
        """Whether runs may be changed."""
        found = self.session(cookie)
        return found is not None and hmac.compare_digest(secret.encode(), found.secret.encode())
