"""The fields of a training recipe, read from TOML."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from refscale_codec.codec.trial import SLOPE
from refscale_codec.errors import UsageError
from refscale_codec.lrcodec.gmm.latents import STRIDE
from refscale_codec.lrcodec.gmm.net import GmmConfig
from refscale_codec.model import RESCALERS
from refscale_codec.rescale.net import RescaleConfig
from refscale_codec.rescale.trained import NetConfig
from refscale_codec.training import recipe_file

_KINDS = {str: "a text", int: "a whole number", float: "a number", tuple: "a list"}
_BOUNDS: dict[str, tuple[float, float]] = {  # of numbers; those of all others, which are shares, are 0 and 1
    **dict.fromkeys(("steps", "warmup"), (1, 10**9)),
    "gmm_first": (0, 10**9),
    "seed": (0, 2**32 - 1),
    "processor_minutes": (0, 10**9),
    "learning_rate": (1e-9, 100),
    "muon": (0, 100),
    "batch": (1, 4096),
    **dict.fromkeys(("crop", "late_crop"), (0, 8192)),
    "clip": (1e-9, 10**9),
    **dict.fromkeys(("slope", "guidance"), (0, 10**6)),
}


@dataclass(frozen=True)
class TrainConfig:
    """A recipe; every field but `manifest` has a default.

    `net` is a table in the TOML file with the name of one of `model.RESCALERS`, as `[flow]`; `[gmm]` is a `GmmConfig`,
    without it the low-res codec is JPEG.
    """

    manifest: str  # CSV of pairs, relative to the config file
    splits: tuple[str, ...] = ("train", "single")
    net: NetConfig = RescaleConfig()
    gmm: GmmConfig | None = None
    gmm_first: int = 0  # steps at the beginning with JPEG, in which of the learned codec only the entropy model learns
    further: tuple[str, ...] = ()  # more manifests; a row takes the place of that of the same dataset and name before
    start_from: tuple[str, ...] = ()  # weights, relative to the config file: equal names and shapes are taken over
    seed: int = 1
    steps: int = 6000  # length of the schedule: linear warm-up, constant, then linear decay to zero
    processor_minutes: float = 0.0  # length of the schedule in processor time instead, of all threads; 0 for steps
    warmup: int = 100  # steps
    decay: float = 0.4  # share of the schedule, at the end
    learning_rate: float = 6e-4  # of Adam
    muon: float = 0.0  # learning rate of Muon, for the convolutions in blocks; 0 for Adam
    batch: int = 8
    crop: int = 128  # side in pixels
    late_crop: int = 0  # side of crops at the end; 0 for no change
    late: float = 0.4  # share of the schedule in which crops are of that size
    clip: float = 1.0  # bound on the gradient's norm
    average: float = 0.999  # decay of the moving average of parameters
    simulated: float = 0.12  # share of real pairs given a simulated reference
    unrelated: float = 0.12  # share of samples given an unrelated reference
    changed: float = 0.2  # share of the other samples whose reference shows an unrelated place in some rectangles
    alone: float = 0.12  # share of samples coded without a reference
    map_off: float = 0.5  # untied: share of samples whose map is 0 where the reference was made to show something else
    weakened: float = 0.15  # untied: share of samples with lower levels in random rectangles of the map
    rounded: float = 0.06  # share of samples whose low-res picture is only rounded to 8 bits
    quality: tuple[int, int] = (5, 98)  # range of the JPEG's quality, drawn evenly
    slope: float = SLOPE  # about the weight of ln(squared error) beside ln(bits)
    guidance: float = 1.0  # weight of Eq. 5

    def __post_init__(self) -> None:
        """Reject values of the wrong type and those that no run can have."""
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if field.name in ("net", "gmm"):
                continue  # check themselves
            kind = str if field.name == "manifest" else type(default)
            allowed = (int, float) if kind is float else kind
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ValueError(f"{field.name} must be {_KINDS[kind]}, not {value!r}")
            if (
                isinstance(value, int | float)
                and not (bounds := _BOUNDS.get(field.name, (0, 1)))[0] <= value <= bounds[1]
            ):
                raise ValueError(f"{field.name} must be {bounds[0]:,} to {bounds[1]:,}, not {value}")
        for name in ("splits", "start_from", "further"):
            if not all(isinstance(file, str) for file in getattr(self, name)):
                raise ValueError(f"{name} must be a list of texts, not {list(getattr(self, name))}")
        if any(type(end) is not int for end in self.quality):
            raise ValueError(f"quality must be two whole numbers, not {list(self.quality)}")
        if len(self.quality) != 2 or not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"quality must be two rising numbers of 1..100, not {list(self.quality)}")
        unit = STRIDE * self.net.scale
        for name in ("crop", "late_crop"):
            if (side := getattr(self, name)) % unit or side < unit * (name == "crop"):
                raise ValueError(f"{name} must be a multiple of {STRIDE} low-res pixels, {unit}, not {side}")
        if self.gmm is not None and self.rounded >= 1:
            raise ValueError("[gmm] would not learn with rounded = 1")
        if self.gmm is None and self.gmm_first:
            raise ValueError("gmm_first would have no effect without [gmm]")

    @classmethod
    def read(cls, path: Path, manifests: Sequence[Path] = ()) -> "TrainConfig":
        """Read a TOML file, see `recipe_file.read`.

        Raises:
            UsageError: the file is missing or no TOML, or names a field that does not exist.
        """
        table = recipe_file.read(path, manifests)
        try:
            nets: dict[str, Any] = {}
            families: dict[str, type] = {kind: net.Config for kind, net in RESCALERS.items()}
            for name, kind in (families | {"gmm": GmmConfig}).items():
                if name not in table:
                    continue
                entries, of = table.pop(name), "net" if name in families else name
                if not isinstance(entries, dict):
                    raise ValueError(f"{name} must be a table, not {entries!r}")
                if of in nets:
                    raise ValueError(f"there can be only one of the tables {', '.join(families)}")
                nets[of] = kind(**_allowed(entries, kind, f"{path}, table [{name}]"))
            values: dict[str, Any] = _allowed(table, cls, str(path))
            if "manifest" not in values:
                raise ValueError("manifest is missing")
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            return cls(**nets, **values)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}: {error}") from None


def crop_at(config: TrainConfig, share: float) -> int:
    """Return the side of the crops of a step before which a share of the schedule is over."""
    return config.late_crop if config.late_crop and share >= 1 - config.late else config.crop


def _allowed(table: dict[str, Any], kind: type, where: str) -> dict[str, Any]:
    if unknown := table.keys() - {field.name for field in fields(kind)}:
        raise UsageError(f"{where}: unknown field {', '.join(sorted(unknown))}")
    return table


def learning_rate(config: TrainConfig, step: int, share: float) -> float:
    """Return Adam's learning rate at a step, counted from 0, before which a share of the schedule is over."""
    rise = min(1.0, (step + 1) / config.warmup)
    fall = min(1.0, (1 - share) / config.decay) if config.decay else 1.0
    return config.learning_rate * rise * max(fall, 0.0)
