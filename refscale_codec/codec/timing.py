"""The timing hook of encoder and decoder: called with the name of each stage that is done."""

from collections.abc import Callable

OnStage = Callable[[str], None]


def untimed(stage: str) -> None:
    """Take no times."""
