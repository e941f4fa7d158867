"""Tests written for the Hub itself, with mdl in between; make test-through-hub runs them all."""

import os
import subprocess
import sys


def test_refusals_reach_clients_as_they_are() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "tests/hub/test_errors.py", "-k", "say_why"],
        env=os.environ | {"MDL_TEST_THROUGH_HUB": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " 0 passed" not in done.stdout
