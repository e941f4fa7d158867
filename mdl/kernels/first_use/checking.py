"""Run the checking process and watch it: it may be slow, hang, or die, and the caller goes on."""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from mdl.kernels.first_use.verdict import Finding, Limits
from mdl.kernels.swap import Need

WORKER = (sys.executable, "-W", "ignore", "-m", "mdl.kernels.first_use.worker")


def examine_all(
    needs: Sequence[Need],
    device: str,
    limits: Limits,
    progress: Callable[[str], None],
    worker: Sequence[str] = WORKER,
) -> list[Finding]:
    """A finding for each need; those that were not reached within the limits say so.

    Args:
        device: as torch names it.
        progress: given one line for each need that is begun.
        worker: the command of the checking process.
    """
    end = time.monotonic() + limits.total
    found: list[Finding] = []
    why = f"not reached within {limits.total:.0f} s"
    while len(found) < len(needs) and time.monotonic() < end:

        def announce(place: int, before: int = len(found)) -> None:
            done = before + place
            progress(f"checking kernel {done + 1} of {len(needs)}, {needs[done]}")

        try:
            process = _Process(needs[len(found) :], device, worker)
        except OSError as error:
            why = f"the checking process could not start: {error}"
            break
        more = process.watch(limits, end, announce)
        found += more
        if not more:
            why = process.trouble or why
            break
    return [*found, *(Finding(need, failure=why, lasting=False) for need in needs[len(found) :])]


class _Process:
    """One checking process; `watch` ends it. trouble: why it found nothing."""

    def __init__(self, needs: Sequence[Need], device: str, worker: Sequence[str]) -> None:
        self._needs, self.trouble = needs, ""
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 # closed by watch
        self._process = subprocess.Popen(
            worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        job = json.dumps({"device": device, "needs": [asdict(need) for need in needs]})
        self._talker = threading.Thread(target=self._talk, args=(job,), daemon=True)
        self._talker.start()

    def _talk(self, job: str) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(OSError), stdin:  # it may have ended; its last words say why
            stdin.write(job)
        with stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put(None)

    def watch(self, limits: Limits, end: float, announce: Callable[[int], None]) -> list[Finding]:
        """What the process found, and a failure for the need at which it hung or died."""
        found: list[Finding] = []
        begun, silence = False, limits.start
        try:
            while len(found) < len(self._needs):
                message = self._next(min(silence, end - time.monotonic()))
                if message is None:
                    break
                if "begun" in message:
                    begun, silence = True, limits.silence
                    announce(len(found))
                else:
                    begun = False
                    found.append(Finding.from_json(message["found"]))
        except TimeoutError:
            if time.monotonic() < end:
                self.trouble = f"no result within {silence:.0f} s"
        else:
            self.trouble = self._last_words() if len(found) < len(self._needs) else ""
        finally:
            self._process.kill()
            self._process.wait()
            self._talker.join()
            self._errors.close()
        if begun and self.trouble:
            found.append(self._failed(found, self.trouble))
        return found

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The process's next message; None at its end; libraries may print other lines.

        Raises:
            TimeoutError: there was none for so long.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise TimeoutError from None
            if line is None:
                return None
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict) and message.keys() & {"begun", "found"}:
                    return message

    def _failed(self, found: list[Finding], failure: str) -> Finding:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Finding(self._needs[len(found)], failure=failure, checked_at=now)

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        lines = _text(self._errors).strip().splitlines()
        return f"the process ended, {lines[-1][:200]}" if lines else "the process ended"


def _text(file: Any) -> str:
    stream: TextIO = file
    stream.seek(0)
    return stream.read()
