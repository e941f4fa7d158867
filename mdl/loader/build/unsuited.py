"""Why a checkpoint is not built the fast way."""


class Unsuited(Exception):
    """The fast way does not cover this checkpoint; the message says why."""
