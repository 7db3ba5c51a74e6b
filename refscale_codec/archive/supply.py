"""The pictures of an index as they are needed: read from their files, or decoded from `.rsc` files that need others."""

from pathlib import Path
from typing import TYPE_CHECKING

from refscale_codec.api import coded
from refscale_codec.archive import chains, disk
from refscale_codec.errors import ContainerError, ImageError, ReferenceMismatch, WeightsError, naming
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.references import LINKS
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

if TYPE_CHECKING:
    from refscale_codec.api.arguments import FilePath
    from refscale_codec.archive.store import Store
    from refscale_codec.model import Model

UNREADABLE = ImageError, ContainerError, WeightsError, ReferenceMismatch
"""What reading a picture of an index may raise."""

_KEPT = 2  # decoded pictures, for files that share a reference

Above = tuple[tuple[bytes, Path], ...]
"""The `.rsc` files that a picture is wanted for, from the top: what they decode to and their paths."""


class Lost(ReferenceMismatch):
    """A reference that cannot be had, and in a word or two why: `Problem` lists them."""

    def __init__(self, message: str, kind: str = "") -> None:
        """Make it; `naming` gives the message alone."""
        super().__init__(message)
        self.kind = kind


class Supply:
    """The pictures of an index; thread-safe."""

    def __init__(self, store: "Store", model: "Model | FilePath | None", device: str | None) -> None:
        """Begin with nothing decoded; arguments are those of `References`."""
        self._store, self._model, self._device = store, model, device
        self._decoded: tuple[tuple[tuple[Path, int, int], Image], ...] = ()  # by path, size and time of modification

    def forget(self) -> None:
        """Drop the pictures that are kept."""
        self._decoded = ()

    def references(self, needs: list[bytes], above: Above = ()) -> list[Image]:
        """Return the pictures that a file needs; it is the last one of `above`, unless that is empty.

        Raises:
            ReferenceMismatch: one cannot be had, or too many files would have to be decoded.
        """
        self.require_near(needs)
        return [self.read(fingerprint, above)[1] for fingerprint in needs]

    def require_near(self, needs: list[bytes]) -> None:
        """Raise a ReferenceMismatch if a file that needs these pictures is one of more than `LINKS` to decode."""
        if len(chains.links(self._store, needs)) >= LINKS:
            raise _too_far("its references are")

    def read(self, fingerprint: bytes, above: Above = ()) -> tuple[Path, Image]:
        """Return where a picture is, and the picture.

        Raises:
            ReferenceMismatch: it cannot be had.
        """
        copies = chains.copies(self._store, fingerprint)
        what = f"the reference {fingerprint.hex()}" + (f", which {above[-1][1]} needs," if above else "")
        faults: list[Lost] = []
        for stored in copies:
            path = self._store.real(stored)
            try:
                if not chains.is_coded(self._store, stored):
                    image = pictures.read(path, need_georeference=False)
                elif len(above) < LINKS and fingerprint not in dict(above):
                    image = self.decoded(path, above)
                else:
                    raise _too_far(f"{what} is")
            except Lost as error:
                faults.append(error)
                continue
            except UNREADABLE as error:
                kind = "missing" if disk.is_gone(path) else "unreadable"
                faults.append(Lost(f"{what} is {kind}: {error}", kind))
                continue
            if image.fingerprint() == fingerprint:
                return path, image
            now = f"{path} is another picture now, {image.fingerprint().hex()}"
            faults.append(Lost(f"{what} is changed: {now}", "changed"))
        raise faults[0] if faults else Lost(f"{what} is unknown: {self._store.name} has no such picture", "unknown")

    def decoded(self, path: Path, above: Above = ()) -> Image:
        """Return what a `.rsc` file decodes to as a reference; of the last ones, the same object.

        Raises:
            ImageError, ContainerError, WeightsError, ReferenceMismatch: it cannot be decoded, or is not of an exact
                model.
        """
        version = path, *disk.status(path)
        if (image := dict(self._decoded).get(version)) is not None:
            return image
        data = disk.coded(path)
        with naming(str(path)):
            content = container.unpack(data)
        older = self.references(references.needed(content), (*above, (content.output_hash or b"", path)))
        with naming(str(path)):
            model = coded.exact_model(content.header, self._model, self._device)
            image = coded.picture(data, path, older, model)
        self._decoded = (*self._decoded[1 - _KEPT :], (version, image))
        return image

    def decoded_together(self, paths: list[Path]) -> list[Image]:
        """Return what several files decode to as references of one picture; errors are those of `decoded`."""
        contents = list(map(disk.unpacked, paths))
        behind = chains.links(self._store, (need for content in contents for need in references.needed(content)))
        if len(behind | {content.output_hash or b"" for content in contents}) >= LINKS:
            raise _too_far(f"{', '.join(map(str, paths))}: as references they are")
        return [self.decoded(path) for path in paths]

    def is_exact(self, path: Path) -> bool:
        """Return whether a `.rsc` file is of an exact model; errors are those of `decoded`."""
        if not disk.has_hash(path):
            return False
        header = disk.unpacked(path).header
        with naming(str(path)):
            return coded.model_for(header, self._model, self._device).exact

    def fault(self, fingerprint: bytes, full: bool, known: dict[bytes, Lost | None]) -> Lost | None:
        """Return why a picture cannot be had, None if it can.

        Args:
            fingerprint: of the picture.
            full: read it, even if its file is as it was.
            known: what was found of others; it gets what is found.
        """
        if fingerprint not in known:
            known[fingerprint] = _too_far("it is")  # for a picture that is decoded from itself
            rows = self._store.rows("SELECT path, size, modified FROM picture WHERE fingerprint = ?", (fingerprint,))
            intact = not full and any(self._is_intact(path, status, known) for path, *status in rows)
            known[fingerprint] = None
            try:
                if not intact:
                    self.read(fingerprint)
            except Lost as error:
                known[fingerprint] = error
        return known[fingerprint]

    def _is_intact(self, stored: bytes, status: list[int], known: dict[bytes, Lost | None]) -> bool:
        """Return whether a file is as it was, and so are all that it is decoded with."""
        try:
            same = list(disk.status(self._store.real(stored))) == status
        except ImageError:
            return False
        return same and not any(self.fault(need, False, known) for need in chains.needs(self._store, stored))


def _too_far(what: str) -> Lost:
    return Lost(
        f"{what} out of reach: more than {LINKS} .rsc files, or one for itself, would have to be decoded; "
        "`refscale refs rebase` of one of them shortens the chain",
        "too far",
    )
