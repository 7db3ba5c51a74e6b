"""Which references a file needs, by its header and REFERENCES sections; standard library only, like the package."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from refscale_codec.errors import ContainerError, UsageError
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import FINGERPRINT_SIZE, Container

MOST = 8
"""References of a file, and fingerprints in a section."""

LINKS = 8
"""Most `.rsc` files that are decoded for one whose references are such files, too: itself included, each once."""

FIRST = 128
"""Flag in the first byte: the first fingerprint is that of the lowest layer, in place of the header's."""

_GROUPS = 85  # of 255 bands: no file has more within it, and each is read with all that follow


def needed(file: Container) -> list[bytes]:
    """Return the fingerprints of all references that a file needs, each once, that of the header first.

    Raises:
        ContainerError: a section is malformed, or they are more than `MOST`.
    """
    return of_groups(_groups(file))


def of_groups(files: Iterable[Container]) -> list[bytes]:
    """Return the same of the files of all band groups.

    Raises:
        ContainerError: a section is malformed, or they are more than `MOST`.
    """
    found: dict[bytes, None] = {}
    for file in files:
        if file.header.reference is not None:
            found[file.header.reference] = None
            if file.references is not None and file.similarity_map != b"":
                lowest, others, _ = parse(file.references)
                found |= dict.fromkeys(([] if lowest is None else [lowest]) + others)
    if len(found) > MOST:
        raise ContainerError(f"malformed: {len(found)} references, expected up to {MOST}")
    return list(found)


def require_count(count: int) -> None:
    """Raise UsageError for more references than a file can have."""
    if count > MOST:
        raise UsageError(f"{count} references are more than a file can have, {MOST}")


def parse(payload: bytes) -> tuple[bytes | None, list[bytes], bytes]:
    """Return the parts of a REFERENCES section.

    Returns:
        The fingerprint of the lowest layer, None for that in the header; those of the layers above; the words.

    Raises:
        ContainerError: it is malformed.
    """
    first, above = divmod(payload[0] if payload else 0, FIRST)
    count = first + above
    end = 1 + FINGERPRINT_SIZE * count
    if not 1 <= count <= MOST or len(payload) < end:
        raise ContainerError(f"malformed: REFERENCES section of {len(payload)} bytes for {count} references")
    names = [payload[at : at + FINGERPRINT_SIZE] for at in range(1, end, FINGERPRINT_SIZE)]
    return (names[0], names[1:], payload[end:]) if first else (None, names, payload[end:])


def file_names(file: Container) -> dict[str, str | None]:
    """Return the fingerprints of `needed`, in hexadecimal, each with the name of its file; None if it is not known."""
    known = (file.reference_name or b"").decode("utf-8", "replace").split("\0")
    return {one.hex(): name or None for one, name in zip_longest(needed(file), known) if one is not None}


def _groups(file: Container) -> Iterator[Container]:
    yield file
    for _ in range(1, _GROUPS):
        if file.extra_bands is None:
            break
        file = container.unpack(file.extra_bands)
        yield file


def named(file: Container, fingerprints: Iterable[bytes]) -> str:
    """Return some references of a file for a message: fingerprints, with the names of their files if they are known."""
    names, wanted = file_names(file), [one.hex() for one in fingerprints]
    return ", ".join(one if names[one] is None else f"{one} ({names[one]})" for one in wanted)
