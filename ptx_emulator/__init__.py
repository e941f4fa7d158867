"""Run the PTX that Triton compiles on the CPU, thread by thread, as a driver for Triton.

What it emulates, what it detects and what it cannot see: README.md beside this file.
"""

from ptx_emulator.driver import Driver, counting
from ptx_emulator.memory import Fault
from ptx_emulator.parse import Program

__all__ = ["Driver", "Fault", "Program", "counting"]
