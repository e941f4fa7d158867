"""Headless Chromium through chromedriver's own HTTP protocol (W3C WebDriver), no library."""

import base64
import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

# Keys by name, as WebDriver has them.
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Down": "\ue015"}


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

    def press(self, *keys: str) -> None:
        """Type on the keyboard, wherever the focus is: texts, and names of KEYS."""
        for key in keys:
            actions = [
                {"type": kind, "value": character}
                for character in KEYS.get(key, key)
                for kind in ("keyDown", "keyUp")
            ]
            keyboard = {"type": "key", "id": "keyboard", "actions": actions}
            self._ask("POST", "/actions", {"actions": [keyboard]})

    def tab_to(self, script: str, most: int = 80) -> None:
        """Press Tab until `script`, a function of an element, accepts the one with the focus."""
        for _ in range(most):
            self.press("Tab")
            if self.run(f"return ({script})(document.activeElement)"):
                return
        raise AssertionError(f"the Tab key never reached: {script}")

    def picture(self, path: Path, width: int, *, dark: bool) -> None:
        """The whole page as a PNG, on a screen of that width in CSS pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", **metrics)
        height = self.run("return document.documentElement.scrollHeight")
        self._devtools("Emulation.setDeviceMetricsOverride", **{**metrics, "height": height})
        found = self._devtools("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def _devtools(self, command: str, **params: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._base + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]
