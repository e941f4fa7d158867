"""Running one daemon a root: its lock, its signals, starting it behind one's back, ending it."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mdl.cachemgr.daemon.loop import DaemonLoop, due_jobs
from mdl.cachemgr.daemon.status_socket import SocketServer, ask_daemon, health
from mdl.cachemgr.daemon.units import UNIT
from mdl.cachemgr.keep_file import shared_folder
from mdl.cachemgr.layout import root_id
from mdl.errors import BusyError, MdlError, NotFoundError
from mdl.settings import Settings, load_settings

log = logging.getLogger("mdl.daemon")

_STARTS_WITHIN = 15.0
_ENDS_WITHIN = 10.0
# A job in progress may take longer than an end should; the journal takes it back next time.
_LONGEST_END = 1.7
_LARGEST_LOG = 1 << 20
_GATHER = 0.3


class Place:
    """Where a root's daemon keeps its socket and log, in $MDL_HOME, mode 0600; and its lock.

    The lock is beside the cache, so that daemons of two homes never keep one root; where nothing
    can be written there, it is in $MDL_HOME.
    """

    def __init__(self, settings: Settings) -> None:
        name = f"daemon-{root_id(settings.cache_root)[:8]}"
        self.root = os.fspath(settings.cache_root)
        self.home = Path(settings.home)
        self.socket = self.home / f"{name}.sock"
        self.log = self.home / f"{name}.log"
        self._own_lock = self.home / f"{name}.lock"

    def _lock(self) -> Path:
        folder = shared_folder(self.root)
        shared = Path(folder or self.home, "daemon.lock")
        return shared if shared.exists() else self._own_lock

    def _open_lock(self) -> int:
        """Open the lock for writing; it is created where it is missing."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = shared_folder(self.root, create=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        if folder is not None:
            with contextlib.suppress(OSError):
                return os.open(os.path.join(folder, "daemon.lock"), flags, 0o666)
        return os.open(self._own_lock, flags, 0o600)

    def holder(self) -> tuple[int, str] | None:
        """(process, its MDL_HOME) of the daemon that holds the lock, `None` for nobody."""
        import fcntl

        try:
            with self._lock().open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pid, _, home = file.read().strip().partition(" ")
                    return (int(pid) if pid.isdigit() else -1), home
        except FileNotFoundError:
            return None
        return None

    def log_in_use(self) -> str | None:
        """The log, if this process writes to it; a service manager keeps one of its own."""
        try:
            return str(self.log) if os.path.samestat(os.fstat(2), self.log.stat()) else None
        except OSError:
            return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; the kernel releases it whatever becomes of this process.

        Raises:
            BusyError: another daemon keeps this root.
        """
        import fcntl

        fd = self._open_lock()
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self.busy() from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {self.home}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    def busy(self) -> BusyError:
        """Why no second daemon can start."""
        pid, home = self.holder() or (-1, "")
        ours = home == str(self.home)
        return BusyError(
            "A daemon already keeps this cache.",
            why=f"process {pid}" + ("" if ours else f", with MDL_HOME={home}"),
            next="`mdl daemon status` shows it, `mdl daemon stop` ends it."
            if ours
            else "One daemon per cache is enough; set its policy there.",
        )


def run_daemon(settings: Settings, *, as_json: bool = False) -> None:
    """Keep the root until SIGTERM or SIGINT.

    Raises:
        BusyError: another daemon keeps this root.
        StoreError: the index was written by a newer mdl.
    """
    place = Place(settings)
    with place.locked():
        loop = DaemonLoop(settings, load_settings)
        stopping = threading.Event()
        _handle_signals(stopping, loop)
        routes = {
            "/v1/health": health,
            "/v1/status": lambda: {**loop.status(), "pid": os.getpid(), "log": place.log_in_use()},
            "/v1/cache": lambda: _listing(settings),
        }
        loop.start()
        server = SocketServer(place.socket, routes)
        server.start()
        root, mode = str(settings.cache_root), loop.watcher.mode.kind
        found = {"pid": os.getpid(), "root": root, "mode": mode}
        try:
            print(json.dumps(found) if as_json else f"mdl daemon keeps {root} ({mode})", flush=True)
            for job in due_jobs(time.monotonic, _waiter(loop, stopping), loop.took):
                loop.run(job)
                if stopping.is_set():
                    break
        finally:
            server.close()
            loop.close()


def _waiter(loop: DaemonLoop, stopping: threading.Event) -> Callable[[float], str]:
    def wait(seconds: float) -> str:
        noted = loop.notes.wake.wait(seconds)
        # A note comes with others: gather them, then look once.
        if stopping.wait(_GATHER if noted else 0.0):
            return "stop"
        loop.notes.wake.clear()
        return "noted" if noted else ""

    return wait


def _handle_signals(stopping: threading.Event, loop: DaemonLoop) -> None:
    """Signals only set flags; the loop does the work. SIGHUP reads the configuration again."""

    def stop(_number: int, _frame: Any) -> None:
        if not stopping.is_set():
            stopping.set()
            timer = threading.Timer(_LONGEST_END, os._exit, (0,))
            timer.daemon = True
            timer.start()
        loop.notes.wake.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, lambda *_: loop.read_config_again())


def _listing(settings: Settings) -> dict[str, Any]:
    from mdl.cachemgr.cache import open_cache

    cache = open_cache(settings)
    try:
        repos, totals = cache.listing()
        return {
            "root": str(cache.root),
            "repos": [repo.to_json() for repo in repos],
            "totals": totals.to_json(),
        }
    finally:
        cache.index.close()


def start_daemon(settings: Settings) -> dict[str, Any]:
    """Start a daemon that outlives this process; its first status.

    Raises:
        BusyError: one is running.
        MdlError: it ended at once; the message has its last words.
    """
    place = Place(settings)
    if place.holder() is not None:
        raise place.busy()
    place.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if place.log.exists() and place.log.stat().st_size > _LARGEST_LOG:
        place.log.replace(place.log.with_suffix(".log.1"))
    fd = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "mdl", "daemon", "run"],
            stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True, cwd="/",
        )  # fmt: skip
    finally:
        os.close(fd)
    deadline = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            found = ask_daemon(place.socket, "/v1/status")
            process.returncode = 0  # it goes on without us: nothing to wait for
            return found
        if process.poll() is not None:
            raise MdlError(
                "The daemon ended at once.", why=_last_words(place.log), next=f"See {place.log}."
            )
        time.sleep(0.05)
    raise MdlError("The daemon does not answer.", next=f"See {place.log}.")


def stop_daemon(settings: Settings) -> int:
    """End the daemon; the process it was.

    Raises:
        NotFoundError: none is running.
        BusyError: it does not end.
    """
    place = Place(settings)
    pid, home = place.holder() or (-1, "")
    if pid <= 0:
        raise NotFoundError("No daemon keeps this cache.", next="`mdl daemon start` starts one.")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise BusyError(
            f"The daemon (process {pid}) belongs to another user.",
            why=f"it runs with MDL_HOME={home}",
            next="Ask them to stop it.",
        ) from error
    except ProcessLookupError:
        pass
    deadline = time.monotonic() + _ENDS_WITHIN
    while place.holder() is not None:
        if time.monotonic() > deadline:
            raise BusyError(f"The daemon (process {pid}) does not end.", next=f"See {place.log}.")
        time.sleep(0.02)
    return pid


def read_log(settings: Settings, lines: int) -> list[str]:
    """The last lines that a daemon started in the background wrote.

    Raises:
        NotFoundError: there is no log.
    """
    log = Place(settings).log
    try:
        return log.read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no log {log}.",
            why="no daemon was started in the background with this MDL_HOME",
            next=f"A systemd unit's log: `journalctl --user -u {UNIT}`.",
        ) from None


def daemon_status(settings: Settings) -> dict[str, Any]:
    """Whether a daemon runs, and what it says of itself."""
    holder = Place(settings).holder()
    if holder is None:
        return {"running": False, "root": str(settings.cache_root)}
    pid, home = holder
    place = Place(settings._replace(home=home or settings.home))
    try:
        return {"running": True, "home": home, **ask_daemon(place.socket, "/v1/status")}
    except (OSError, ValueError) as error:
        return {"running": True, "pid": pid, "home": home, "root": str(settings.cache_root),
                "last_error": f"it does not answer: {error}"}  # fmt: skip


def _last_words(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-3:])
    return ""
