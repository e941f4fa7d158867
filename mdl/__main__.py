"""`python -m mdl` is `mdl`."""

from mdl.cli import main

main()
