"""`mdl`, and `python -m mdl`."""

import gc


def main() -> None:
    """Run the command line."""
    # Imported objects stay; searching them for garbage takes a tenth of the time of `mdl resolve`.
    gc.set_threshold(50_000, 20, 20)
    from mdl.cli import main as run

    run()


if __name__ == "__main__":
    main()
