"""Measure the kernels on an NVIDIA GPU: `python -m benchmarks.gpu --out results.json`.

Needs torch, triton, transformers and numpy; bitsandbytes, peft and liger-kernel are measured beside
ours where they are installed. Takes at most 8 minutes. Also `mdl kernels bench`.
"""

import sys

from mdl.errors import MdlError
from mdl.kernels.bench.main import main


def run() -> int:
    """The exit code: 0, or the error's own after one clear message."""
    try:
        main()
    except MdlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(run())
