"""Rescalers that are trained: torch modules made from a config. A weights file holds both."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

WIDTHS = range(1, 1025)
"""How many channels a layer may have, so that a config cannot ask for more memory than a machine has."""
BLOCKS = range(1, 129)
"""How many blocks a net may have in a row, so that a config cannot ask for more work than building one takes."""
DIVISORS = (1, 2, 4)
"""Sides that a cell of the similarity map may have, in low-res pixels."""
LEVELS = range(2, 257)
"""How many levels the similarity map may have."""


def one_of(default: Any, allowed: range | tuple[Any, ...]) -> Any:
    """Return the field of a `NetConfig` that has one of these values."""
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True)
class NetConfig:
    """Everything that fixes the architecture of a rescaler. All fields are made by `one_of`."""

    kind: ClassVar[str]
    """The family: its key in `model.RESCALERS`, its table in a recipe."""

    scale: int = one_of(2, (2, 4))

    def __post_init__(self) -> None:
        """Reject values that no net can be built for, with a ValueError."""
        for each in fields(self):
            value, allowed = getattr(self, each.name), each.metadata["allowed"]
            if type(value) is not type(each.default) or value not in allowed:
                raise ValueError(f"{each.name} must be {_described(allowed)}, not {value!r}")


def _described(allowed: range | tuple[Any, ...]) -> str:
    if isinstance(allowed, range):
        return f"a whole number, {allowed.start}..{allowed[-1]}"
    *others, last = map(repr, allowed)
    return f"{', '.join(others)} or {last}" if others else last


T = TypeVar("T", bound="TrainedRescaler")


class TrainedRescaler(nn.Module):
    """What the families of rescalers share. A subclass has a `Config`, and what `Rescaler` has beyond this."""

    Config: ClassVar[type[NetConfig]]
    config: NetConfig
    exact = False
    """See `Rescaler`."""
    uses_reference = True
    """See `Rescaler`."""
    cell: int
    """See `Rescaler`."""
    map_levels: int
    """See `Rescaler`."""

    def __init__(self, config: NetConfig) -> None:
        """Build with fresh parameters."""
        super().__init__()
        self.config = config

    @classmethod
    def stored(cls: type[T], config: dict[str, Any]) -> T:
        """Return the net of a weights file's config, ready for its arrays.

        Raises:
            TypeError, ValueError: there is no such net.
        """
        return cls(cls.Config(**config)).for_inference()

    def for_inference(self: T) -> T:
        """Fix the net as a weights file holds it, and return it; it cannot be trained any more."""
        return self.eval().requires_grad_(False)

    @property
    def scale(self) -> int:
        """See `Rescaler`."""
        return self.config.scale

    @property
    def device(self) -> torch.device:
        """See `Rescaler`."""
        return next(self.parameters()).device
