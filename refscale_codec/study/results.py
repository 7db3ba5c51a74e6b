"""What `rd-curve` and `eval` measured, in memory and in files: the one schema of results.json and rows.jsonl.

A number that is not finite (no BD-rate, the PSNR of a lossless picture) is null in a file, and NaN once read back.
Nothing here needs torch, so that results can be drawn where it is not installed.
"""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from refscale_codec.errors import UsageError, reason
from refscale_codec.picture.files import write_atomically

SCHEMA = 1
"""Of results.json; rises when a field changes."""

ALL = "all"
"""The dataset of a comparison over all datasets."""

JPEG, BEST = "jpeg", "x265-reference"
"""What every coder is compared with: the common codec, and the best that users have who have a reference."""

Record = TypeVar("Record", bound="Row | Comparison | CoderInfo")


@dataclass(frozen=True)
class Row:
    """One picture through one coder at one quality."""

    dataset: str
    name: str  # of the picture, unique in its dataset
    coder: str  # a `CoderInfo.name`
    quality: int  # the coder's own; higher is better and bigger
    bytes_total: int  # what a receiver needs beside the reference; mostly the whole file
    bytes_by_section: dict[str, int]  # its parts: see `container.bytes_by_section`, or one "picture"
    bpp: float  # bits of `bytes_total` per high-res pixel
    psnr: float  # dB, RGB
    psnr_y: float  # dB, luma
    ssim: float  # NaN where the picture is too small for it
    ms_ssim: float
    si_lr_mean: float  # spatial information of the decoded low-res picture; NaN where there is none
    si_lr_std: float  # the same as in ITU-T P.910
    seconds: dict[str, float]  # "encode", and "decode" where the file was decoded: see the coder

    @property
    def megapixels(self) -> float:
        """Size of the picture."""
        return 8e-6 * self.bytes_total / self.bpp


@dataclass(frozen=True)
class Comparison:
    """BD-rate of a coder against an anchor, mean over the pictures of a dataset."""

    dataset: str  # or `ALL`
    coder: str
    anchor: str
    percent: float  # negative: the coder saves bits; NaN for no figure
    bd_psnr: float  # dB that the coder gains at equal rate
    pictures: int  # that count in the mean
    left_out: int  # without a BD-rate, see the notes
    notes: tuple[str, ...]

    @property
    def of(self) -> int:
        """How many pictures both coders were run on."""
        return self.pictures + self.left_out

    @property
    def stands_for_all(self) -> bool:
        """Whether more than half of these count in the mean."""
        return 2 * self.pictures > self.of

    @property
    def counts(self) -> str:
        """How many pictures count, for texts: "6", "4 of 6"."""
        return f"{self.pictures} of {self.of}" if self.left_out else str(self.pictures)


@dataclass(frozen=True)
class CoderInfo:
    """One coder of the rows."""

    name: str
    label: str  # for legends
    needs_reference: bool
    weights: str | None = None  # of refscale: a key of `Results.weights`; None for all others

    @property
    def is_refscale(self) -> bool:
        """Whether it is this codec, and not one that it is compared with."""
        return self.weights is not None


@dataclass(frozen=True)
class Results:
    """Everything in a results.json: what was measured, with what, where and how."""

    command: str
    convention: str  # how the figures are to be read
    versions: dict[str, str]  # of the packages that the figures depend on
    machine: dict[str, Any]
    weights: dict[str, str]  # fingerprints in hex
    coders: tuple[CoderInfo, ...]
    comparisons: tuple[Comparison, ...]
    rows: tuple[Row, ...]
    missing: dict[str, str] = field(default_factory=dict)  # coders that are not installed, and what installs them
    figures: dict[str, Any] = field(default_factory=dict)  # others, of one command only


def seconds_per_megapixel(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return by coder the seconds that a megapixel takes, mean of all that was coded: "encode", "decode" or both."""
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for row in rows:
        for what, seconds in row.seconds.items():
            sums[row.coder][what][0] += seconds
            sums[row.coder][what][1] += row.megapixels
    return {coder: {what: s / size for what, (s, size) in of.items()} for coder, of in sums.items()}


def write(results: Results, path: Path) -> None:
    """Write a results file; OutputError if it cannot be written."""
    write_atomically(path, dumps(results).encode())


def dumps(results: Results) -> str:
    """Return the text of a results file. Each row is a line, so that files can be compared by their lines."""
    fields = {"schema": SCHEMA} | _finite(dataclasses.asdict(results))
    rows = ",\n".join(json.dumps(row, allow_nan=False) for row in fields["rows"])
    text = json.dumps({**fields, "rows": []}, indent=1, allow_nan=False)
    return text.replace('"rows": []', f'"rows": [\n{rows}\n]') + "\n"


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        UsageError: it cannot be read, is no results file, or was written by a version with another schema.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the results {path}: {reason(error)}") from None
    schema = fields.pop("schema", None) if isinstance(fields, dict) else None
    if schema != SCHEMA:
        shape = "is older than schemas have numbers" if schema is None else f"has the schema {schema}"
        raise UsageError(f"the results {path}: the file {shape}, this version reads {SCHEMA}: measure it again")
    try:
        _require_fields(Results, fields)
        fields["coders"] = tuple(from_fields(CoderInfo, record) for record in fields["coders"])
        fields["comparisons"] = tuple(from_fields(Comparison, record) for record in fields["comparisons"])
        fields["rows"] = tuple(from_fields(Row, record) for record in fields["rows"])
        return Results(**fields)
    except (AttributeError, TypeError, ValueError) as error:
        cause = f": {error}" if isinstance(error, ValueError) else ""
        raise UsageError(f"{path} is not a results file of schema {SCHEMA}{cause}") from None


def to_fields(record: Row | Comparison | CoderInfo) -> dict[str, Any]:
    """Return a record as an object for JSON."""
    fields: dict[str, Any] = _finite(dataclasses.asdict(record))
    return fields


def from_fields(kind: type[Record], fields: Mapping[str, Any]) -> Record:
    """Return the record that `to_fields` wrote; ValueError for fields that are missing, unknown or of another type."""
    _require_fields(kind, fields)
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {
        name: math.nan if value is None and types[name] is float else tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
    if odd := [name for name, value in values.items() if not _is_of(value, types[name])]:
        raise ValueError(f"fields of another type: {', '.join(sorted(odd))}")
    return kind(**values)


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a value is of the type of a field; a whole number is a float, too."""
    if kind is float:
        return isinstance(value, float | int)
    if not isinstance(value, get_origin(kind) or kind if not isinstance(kind, UnionType) else kind):
        return False
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return all(_is_of(part, get_args(kind)[-1 if isinstance(value, dict) else 0]) for part in parts)


def _require_fields(kind: type[Any], fields: Mapping[str, Any]) -> None:
    """Raise a ValueError unless an object has the fields of a class; those with a default may be missing."""
    known = dataclasses.fields(kind)
    unset = dataclasses.MISSING
    needed = {each.name for each in known if each.default is unset and each.default_factory is unset}
    if odd := fields.keys() - {each.name for each in known} | needed - fields.keys():
        raise ValueError(f"fields that are unexpected or missing: {', '.join(sorted(odd))}")


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold by None."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
