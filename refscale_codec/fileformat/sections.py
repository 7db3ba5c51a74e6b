"""The table of sections: what a `.rsc` file may hold, as the annotated fields of `Container`.

A section is one entry here, a field annotated with its `Section`, and one row in `docs/FORMAT.md`. That is all:
`container` writes and reads it, its flag is known, its size is limited, and its bytes are counted under a name. What a
payload means is the business of the module that makes it.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, get_type_hints

from refscale_codec.fileformat.header import HEADER_SIZE, Header

MAX_PAYLOAD = 0xFFFF_FFFF  # bytes, of any section
MAX_UNANNOUNCED = 1 << 24  # bytes of all sections that no known flag announces, with their heads
FIRST_ANCILLARY = 128  # a reader skips an unknown section of this type or above, and refuses one below


@dataclass(frozen=True, slots=True)
class Section:
    """The specification of a section. Sizes are in bytes, of the payload alone."""

    number: int
    """Its type in the file, 1..255; a reader that does not know it may skip it from `FIRST_ANCILLARY` on."""
    name: str
    """Its name in documents and messages; that of its flag, too."""
    flag: int | None
    """Bit that announces it: of the optional flags if it may be skipped, else of the required; None: always there."""
    smallest: int
    """Size that it has at least."""
    largest: Callable[[Header], int]
    """Size that it has at most, for a picture with this header. `MAX_PAYLOAD` is the limit besides."""
    counts_as: str
    """The name under which its bytes are counted in `container.bytes_by_section`."""

    @property
    def ancillary(self) -> bool:
        """Whether a reader that does not know it may skip it."""
        return self.number >= FIRST_ANCILLARY

    def at_most(self, header: Header) -> int:
        """Return the size that it has at most, for a picture with this header."""
        return min(self.largest(header), MAX_PAYLOAD)

    def problem(self, size: int, header: Header) -> str | None:
        """Return what is wrong with the size of a payload, worded for a user, or None."""
        largest = self.at_most(header)
        if size > largest:
            return f"over the size limit: {self.name} section of {size} bytes, expected up to {largest}"
        if size < self.smallest:
            return f"malformed: {self.name} section of {size} bytes, expected at least {self.smallest}"
        return None


# ---- largest sizes: generous, so that no writer meets them, but in proportion to the picture


def _at_most(size: int) -> Callable[[Header], int]:
    return lambda header: size


def _low_res(per_pixel: int) -> Callable[[Header], int]:
    return lambda header: 65536 + per_pixel * header.low_res_size[0] * header.low_res_size[1]


def _high_res(per_pixel: int) -> Callable[[Header], int]:
    return lambda header: 65536 + per_pixel * header.height * header.width


def _alignment(header: Header) -> int:
    return 65536 + 8 * -(-header.height // 64) * -(-header.width // 64)  # of each block, two symbols of 24 bits at most


def _references(header: Header) -> int:
    return 8 * _alignment(header)  # of at most 8 layers


def _extra_bands(header: Header) -> int:
    """85 files are 255 bands; this one is the first. Each has 32 bytes of header, and 10 around each section."""
    inside = (
        section for section in TABLE.values() if section.name in ("MAP", "LR", "ALIGNMENT", "PREDICTION", "REFERENCES")
    )
    return 84 * (HEADER_SIZE + 10 + sum(10 + section.largest(header) for section in inside))


# ---- the table


@dataclass(frozen=True, slots=True, repr=False)
class Container:
    """A whole `.rsc` file, taken apart. Payloads are opaque here; None stands for a section that is not there."""

    header: Header
    lr: Annotated[bytes, Section(2, "LR", None, 1, _low_res(32), "low_res")]
    """The low-res picture as the codec named in the header wrote it."""
    similarity_map: Annotated[bytes | None, Section(1, "MAP", 3, 0, _low_res(4), "map")] = None
    """The similarity map; only with a reference or a prediction. None there means the highest level everywhere."""
    output_hash: Annotated[bytes | None, Section(129, "OUTPUT_HASH", 0, 6, _at_most(6), "output_hash")] = None
    """Fingerprint of the decoded picture; None where the writer gave none."""
    alignment: Annotated[bytes | None, Section(4, "ALIGNMENT", 2, 8, _alignment, "alignment")] = None
    """The warp of the reference; only with a reference. None for a reference that is used as it is, or none."""
    bands: Annotated[bytes | None, Section(5, "BANDS", 4, 3, _high_res(1024), "bands")] = None
    """Which bands the picture has, of what type, and what of them is kept without loss; None for 8-bit RGB."""
    extra_bands: Annotated[bytes | None, Section(6, "EXTRA_BANDS", 5, 39, _extra_bands, "extra_bands")] = None
    """A complete `.rsc` file with the bands beyond the first three; None if there are none."""
    prediction: Annotated[bytes | None, Section(7, "PREDICTION", 6, 10, _at_most(30), "prediction")] = None
    """How the bands follow from the first three of the picture; not with an alignment. None if they do not."""
    references: Annotated[bytes | None, Section(8, "REFERENCES", 7, 7, _references, "references")] = None
    """Further references, and how they are blended; only with a reference. None if that of the header is alone."""
    metadata: Annotated[bytes | None, Section(128, "METADATA", 1, 5, _at_most(508 + (1 << 24) - 1), "metadata")] = None
    """The metadata of the picture file; None for none."""
    reference_name: Annotated[bytes | None, Section(130, "REFERENCE_NAME", 2, 1, _at_most(2047), "metadata")] = None
    """The names of the references' files in UTF-8, between them a zero, hints for people; only with a reference."""

    def __repr__(self) -> str:
        """Header and sizes: payloads are long."""
        sizes = ", ".join(f"{section.name} {len(payload)}" for section, payload in self.sections())
        return f"Container({self.header}, {sizes})"

    def sections(self) -> Iterator[tuple[Section, bytes]]:
        """Yield the sections that are there with their payloads, in file order."""
        for name, section in TABLE.items():
            if (payload := getattr(self, name)) is not None:
                yield section, payload


def _table() -> dict[str, Section]:
    hints = get_type_hints(Container, include_extras=True)
    found = {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}
    return dict(sorted(found.items(), key=lambda item: item[1].number))


TABLE: dict[str, Section] = _table()
"""Each section by the name of its field in `Container`, in file order."""


def relation_problem(has_reference: bool, names: Collection[str]) -> str | None:
    """Return what is wrong with the sections of these names being in one file, worded for a user, or None."""
    predicted = "PREDICTION" in names
    if "ALIGNMENT" in names and (predicted or not has_reference):
        return f"malformed: ALIGNMENT {'together with PREDICTION' if predicted else 'without a reference'}"
    if "REFERENCES" in names and (predicted or not has_reference):
        return f"malformed: REFERENCES {'together with PREDICTION' if predicted else 'without a reference'}"
    if "REFERENCE_NAME" in names and not has_reference:
        return "malformed: REFERENCE_NAME without a reference"
    if "MAP" in names and not has_reference and not predicted:
        return "malformed: MAP without a reference"
    return None
