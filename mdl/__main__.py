"""`mdl`, and `python -m mdl`."""

import gc


def main() -> None:
    """Run the command line."""
    # Importing makes objects that stay; looking for garbage among them costs a tenth of an answer.
    gc.set_threshold(50_000, 20, 20)
    from mdl.cli import main as run

    run()


if __name__ == "__main__":
    main()
