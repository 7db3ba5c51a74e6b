"""Which coders are meant, by their names: no net is loaded, and torch is not imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from refscale_codec.errors import UsageError, printable
from refscale_codec.study.coders import baselines
from refscale_codec.study.styles import FEW

Mode = Literal["reference", "alone", "unrelated"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""How refscale can be measured, see `coders.refscale`."""

EVERYTHING = ("all",)
"""In place of names of coders: all that work here, without those that get an unrelated reference."""


def refscale(weights: str, mode: Mode) -> str:
    """Return the name of refscale with weights of a name: "refscale-x2", "refscale-x2-alone", "refscale-x2-gmm"."""
    return weights + ("" if mode == "reference" else f"-{mode}")


def of_weights(paths: Sequence[Path]) -> list[str]:
    """Name weights by their files: "refscale-x2" for "refscale-x2.safetensors", "refscale-mine" for "mine...".

    Files of equal names are distinguished by their folders.

    Raises:
        UsageError: the same file twice, or names that are equal with their folders.
    """
    for parts in (1, 2):
        names = [printable("-".join([*path.parts[-parts:-1], path.stem])) for path in paths]
        names = [name if name.startswith("refscale") else f"refscale-{name}" for name in names]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"two files of weights have one name: {', '.join(sorted(names))}")


def wanted(given: tuple[str, ...] | None, weights: Sequence[Path]) -> list[str]:
    """Return the names of the coders to measure, each once.

    Args:
        given: by a user: names, or `EVERYTHING`; None for `FEW` and each file of weights with the reference.
        weights: files of weights for refscale.

    Raises:
        UsageError: a name that no coder has, or whose package is missing; weights of equal names.
    """
    installed, missing = baselines.available()
    others = [coder.name for coder in installed]
    own = {refscale(name, mode): mode for name in of_weights(weights) for mode in MODES}
    if given is None:
        return [name for name in others if name in FEW] + [name for name, mode in own.items() if mode == "reference"]
    if given == EVERYTHING:
        return others + [name for name, mode in own.items() if mode != "unrelated"]
    for name in given:
        if name in missing:
            raise UsageError(f"the coder {name} is not installed: {missing[name]}")
        if name not in (*others, *own):
            raise UsageError(f"unknown coder {name}; there are: {', '.join([*others, *own, *missing])}")
    return list(dict.fromkeys(given))
