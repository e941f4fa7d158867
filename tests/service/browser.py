"""Headless Chromium through chromedriver's own HTTP protocol (W3C WebDriver), no library."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any


class Browser:
    """One page in one browser; use it as a context manager."""

    def __init__(self, profile: Path) -> None:
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._driver.stdout is not None
        line = ""
        while "started successfully on port" not in line:
            line = self._driver.stdout.readline()
            assert line, "chromedriver ended"
        self._base = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}"
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
        ]
        wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}
        session = self._ask("POST", "/session", {"capabilities": wanted})
        self._base += f"/session/{session['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._ask("DELETE", "")
        self._driver.terminate()
        self._driver.communicate(timeout=20)

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str, seconds: float = 20.0) -> None:
        """Until the script returns something true."""
        deadline = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < deadline, f"never true: {script}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._base + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]
