"""`pytest -p tests.ptx_emulator.plugin` runs kernels as PTX for the target `PTX_TARGET`."""

import os

from tests.ptx_emulator.launching import install

DRIVER = install(
    int(os.environ.get("PTX_TARGET", "90")),
    whole_tiles=os.environ.get("PTX_TILES", "whole") == "whole",
)


def pytest_terminal_summary(terminalreporter):
    launched = ", ".join(f"{name} {count}" for name, count in sorted(DRIVER.launched.items()))
    terminalreporter.write_line(f"launches of PTX: {launched or 'none'}")
