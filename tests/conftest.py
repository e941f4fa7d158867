"""Fixtures every test folder shares: a running loopback Hub and a clean environment for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.hub import LoopbackHub

# Set here, before any test imports it: huggingface_hub reads its constants once, at import.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# No test opens the database of whoever runs it.
_home = tempfile.TemporaryDirectory(prefix="mdl-tests-")
os.environ["MDL_HOME"] = _home.name

THROUGH_HUB = os.environ.get("MDL_TEST_THROUGH_HUB") == "1"
if THROUGH_HUB:
    from tests.hub import front

    front.prepare()


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A Hub with nothing in it. An error inside its own threads fails the test.

    With MDL_TEST_THROUGH_HUB=1 its clients reach it through `mdl serve --hub`.
    """
    with LoopbackHub() as running, contextlib.ExitStack() as stack:
        if THROUGH_HUB:
            stack.enter_context(front.mdl_in_front(running, tmp_path_factory.mktemp("front")))
        yield running
    assert running.errors == []


@pytest.fixture
def hub_env(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The environment of a fresh machine whose Hub is `hub`: set here, and to give to processes.

    Inside this process huggingface_hub was imported earlier, so calls of its functions need
    `endpoint=`, `cache_dir=` and `token=` of their own.
    """
    for name in list(os.environ):
        if name.startswith(("HF_", "MDL_", "HUGGING_FACE", "TRANSFORMERS_")):
            monkeypatch.delenv(name)
    ours = {
        "HF_HOME": str(tmp_path / "hf"),
        "MDL_HOME": str(tmp_path / "mdl"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    yield dict(os.environ)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the machine lacks (`system`; not in `make test-system`), or is not for the Hub.

    `@pytest.mark.system(program or package, …)` names what is needed.
    """
    if THROUGH_HUB and item.get_closest_marker("straight") is not None:
        pytest.skip("is about what reaches the Hub itself")
    marker = item.get_closest_marker("system")
    if marker is None or item.config.getoption("markexpr") == "system":
        return
    missing = [
        name for name in marker.args if shutil.which(name) is None and find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"{_SYSTEM}{', '.join(missing)}")


_SYSTEM = "needs the system's "


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for all the tests that want programs which are not here."""
    skipped = terminalreporter.stats.get("skipped", [])
    of_system = [report for report in skipped if _SYSTEM in str(report.longrepr)]
    if of_system:
        terminalreporter.stats["skipped"] = [each for each in skipped if each not in of_system]
        programs = {
            program
            for report in of_system
            for program in report.longrepr[2].partition(_SYSTEM)[2].split(", ")
        }
        terminalreporter.write_line(
            f"{len(of_system)} tests did not run: they need {', '.join(sorted(programs))}. "
            "make test-system installs these and runs them."
        )
