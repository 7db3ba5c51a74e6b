"""What GDAL says of a picture with other files beside it, and the picture that follows from that.

The picture as refscale has it and what GDAL says of it alone are known; what GDAL says with the files is compared with
that. Bands change their meaning as they would by a TIFF's own tags: one becomes alpha, indices become the colours of
their palette, and a nodata value of each band becomes one of all.
"""

import math
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.picture import geo, levels
from refscale_codec.picture.geo import Fields
from refscale_codec.picture.io import gdal_fields, geotiff

if TYPE_CHECKING:
    from refscale_codec.picture.image import Image

_OF_PICTURE = (*geo.GEOREFERENCE, "tags")  # the other fields are of bands
_OF_SAMPLES = {"scales", "offsets"}


class Said(NamedTuple):
    """What GDAL says of a picture."""

    fields: Fields
    left_out: list[str]
    shape: tuple[int, int, int]
    """Height, width and bands."""
    kinds: list[str]
    """The colour interpretation of each band."""
    nodata: list[float | None]
    """The nodata value of each band."""
    palette: dict[int, tuple[int, ...]]
    """Red, green, blue and alpha of the first band's indices, 0..255; empty for none."""
    converted: bool
    """Whether refscale's samples are not GDAL's, because of few bits or white as 0."""

    @property
    def order(self) -> list[int]:
        """The bands, from 0, with alpha as the last one."""
        return sorted(range(len(self.kinds)), key=lambda band: self.kinds[band] == "alpha")

    @property
    def indexed(self) -> dict[int, tuple[int, ...]] | None:
        """The palette of a picture that has a band of indices, else None."""
        return self.palette if "palette" in self.kinds else None


def said(file: Any) -> Said:
    """Return what GDAL says of a data set that rasterio has open."""
    kinds = [kind.name for kind in file.colorinterp]
    order = sorted(range(len(kinds)), key=lambda band: kinds[band] == "alpha")
    fields, left_out = gdal_fields.read(file, [kinds[band] for band in order], order)
    nodata = [math.nan if value is not None and math.isnan(value) else value for value in file.nodatavals]
    try:
        palette = file.colormap(1)
    except ValueError:  # there is none
        palette = {}
    structure = file.tags(ns="IMAGE_STRUCTURE") | file.tags(1, ns="IMAGE_STRUCTURE")
    converted = structure.get("MINISWHITE") == "YES" or structure.get("NBITS", "8") in map(str, range(1, 8))
    return Said(fields, left_out, (file.height, file.width, file.count), kinds, nodata, palette, converted)


def joined(
    image: "Image", plain: Said, whole: Said, samples: NDArray[Any] | None, name: str, by: str
) -> tuple["Image", list[str], list[str]]:
    """Return a picture with what GDAL says with the files beside it, and not without.

    Args:
        image: the picture without them.
        plain: what GDAL says of it without them.
        whole: and with them.
        samples: GDAL's, [bands, h, w], if `whole` has a palette that `plain` has not.
        name: of the picture, for messages.
        by: the names of the files, for messages.

    Returns:
        the picture, the names of what is left out, and notes for people.

    Raises:
        ImageError: what bands mean cannot be coded: several of alpha, or indices without a colour.
    """
    left_out, notes = [what for what in whole.left_out if what not in plain.left_out], list[str]()
    changed = {key for key in plain.fields | whole.fields if plain.fields.get(key) != whole.fields.get(key)}
    own_alpha = "alpha" in plain.kinds
    other_nodata = whole.nodata != plain.nodata
    if samples is not None and whole.shape[:2] == image.pixels.shape[:2]:
        lost = changed | geo.fields_of(image.metadata.geo).keys() | {"interpretations"}
        why = "of the palette's indices"
        image = _coloured(image, whole, samples, name, by)
        notes.append(f"the palette in {by} beside it is applied: indices are converted to its colours")
    elif whole.shape != (image.height, image.width, image.bands + own_alpha):
        lost, why = changed, "of other bands"
        left_out += [_nodata_text(whole.nodata)] if other_nodata else []
    else:
        converted = _OF_SAMPLES if whole.converted else set[str]()
        lost, why = changed & converted, "of samples before they are converted"
        if whole.kinds != plain.kinds:
            image = _with_kinds(image, plain, whole, name, by)
            changed |= (plain.fields | whole.fields).keys() - converted  # in their new order
        if other_nodata and whole.converted:
            left_out.append(gdal_fields.named(_nodata_text(whole.nodata), why))
        elif other_nodata:
            image, more = _with_nodata(image, [whole.nodata[band] for band in whole.order[: image.bands]], whole, notes)
            left_out += more
    lost = lost - set(_OF_PICTURE)
    told = lost - {"interpretations"} if samples is not None else lost
    left_out += [gdal_fields.named(key, why) for key in sorted(told)]
    return _with_fields(image, plain, whole, changed - lost, left_out), left_out, notes


def _with_fields(image: "Image", plain: Said, whole: Said, changed: set[str], left_out: list[str]) -> "Image":
    """Return a picture with the fields that have changed; those that GDAL no longer says are removed.

    What is left out of them is added to `left_out`.
    """
    fields, new = geo.fields_of(image.metadata.geo), {key: whole.fields[key] for key in changed & whole.fields.keys()}
    if "tags" in changed:
        known, tags = plain.fields.get("tags", {}), whole.fields.get("tags", {})
        kept = {key: text for key, text in fields.get("tags", {}).items() if key in tags or key not in known}
        said = {key: text for key, text in tags.items() if known.get(key) != text}
        tags = gdal_fields.first_tags(kept | said, left_out)
        new = {key: value for key, value in new.items() if key != "tags"} | ({"tags": tags} if tags else {})
    if image.alpha is not None and image.bands == len(whole.kinds):  # alpha is none of GDAL's bands
        new = geo.fields_of(geo.with_alpha(geo.dumped(new)))
    replaced = changed | ({"transform"} if "gcps" in new else set())
    fields = {key: value for key, value in fields.items() if key not in replaced} | new
    return replace(image, metadata=replace(image.metadata, geo=geo.dumped(fields)))


def _with_kinds(image: "Image", plain: Said, whole: Said, name: str, by: str) -> "Image":
    """Return a picture whose bands have other colour interpretations, so that one may become alpha."""
    alphas = [band for band, kind in enumerate(whole.kinds) if kind == "alpha"]
    if len(alphas) > 1 or len(alphas) == len(whole.kinds):
        what = f"{len(alphas)} bands of alpha" if len(whole.kinds) > 1 else "nothing but alpha"
        raise ImageError(f"{name} has {what} by {by} beside it: correct its colour interpretations")
    if alphas == [band for band, kind in enumerate(plain.kinds) if kind == "alpha"]:
        return image
    planes, other = [*image.pixels.transpose(2, 0, 1)], None
    if "alpha" in plain.kinds:
        planes.append(image.alpha)
    elif image.alpha is not None:
        other = image.alpha  # of a mask
    by_band = dict(zip(plain.order, planes, strict=True))
    planes = [by_band[band] for band in whole.order]
    alpha = planes.pop() if alphas else None
    if other is not None:
        alpha = other if alpha is None else np.where(other > 0, alpha, alpha.dtype.type(0))
    return replace(image, pixels=np.stack(planes, axis=2), alpha=None if alpha is None else alpha.copy())


def _coloured(image: "Image", whole: Said, samples: NDArray[Any], name: str, by: str) -> "Image":
    """Return a picture in the colours of the palette that its samples [bands, h, w] are indices of."""
    indices, with_alpha = samples[0], whole.kinds == ["palette", "alpha"]
    if whole.kinds != ["palette"] and not with_alpha or with_alpha and whole.converted:
        raise ImageError(
            f"{name} has a palette beside bands other than alpha, by {by}: write its bands to files of their own with "
            f"`gdal_translate -b 1 {shlex.quote(name)} band1.tif`"
        )
    if not whole.palette:
        raise ImageError(f"{name} has indices of a palette by {by} beside it, which has no colours: correct it there")
    table = np.array(list(whole.palette.values())).clip(0, 255).astype(np.uint8)
    known = (indices >= 0) & (indices < len(table))
    places = np.where(known, indices, 0).astype(np.intp)
    known &= places == indices
    nodata = whole.nodata[0]
    valid = np.ones_like(known) if nodata is None else ~levels.equal(indices, nodata)
    if (unknown := indices[valid & ~known]).size:
        raise ImageError(
            f"{name} has samples of {unknown[0]}, and the palette in {by} beside it ends at {len(table) - 1}"
        )
    colours = table[places]
    opacities = [np.where(valid, colours[..., 3], np.uint8(0))]
    for alpha in ([] if image.alpha is None else [image.alpha]) + ([samples[1]] if with_alpha else []):
        full = float(levels.opaque(alpha.dtype))
        opacities.append(np.rint(alpha.clip(0, full) / full * 255).astype(np.uint8))
    opacity = np.minimum.reduce(opacities)
    fields = {key: value for key, value in geo.fields_of(image.metadata.geo).items() if key in _OF_PICTURE}
    return replace(
        image,
        pixels=np.ascontiguousarray(colours[..., :3]),
        alpha=opacity if len(opacities) > 1 or (opacity < levels.opaque(opacity.dtype)).any() else None,
        nodata=None,
        metadata=replace(image.metadata, geo=geo.dumped(fields)),
    )


def _with_nodata(
    image: "Image", values: list[float | None], whole: Said, notes: list[str]
) -> tuple["Image", list[str]]:
    """Return a picture whose bands, without alpha, have these nodata values, and the names of what is left out.

    If they differ, they become one that no valid sample has, or else alpha if all bands have them at the same pixels.
    """
    if image.alpha is not None and "alpha" not in whole.kinds:
        return image, [f"{_nodata_text(values)}, since its alpha says what is valid"]
    nodata = [geotiff.nodata_of(_narrowed(value, image, notes), image.pixels.dtype, notes) for value in values]
    wanted = [value for value in dict.fromkeys(nodata) if value is not None]
    if len(set(nodata)) == 1 or not wanted:
        return replace(image, nodata=nodata[0]), []
    planes = image.pixels.transpose(2, 0, 1)
    missing = [
        np.zeros(plane.shape, bool) if value is None else levels.equal(plane, value)
        for plane, value in zip(planes, nodata, strict=True)
    ]
    for one in dict.fromkeys([*wanted, *levels.limits_of(image.pixels.dtype)]):
        if not any((levels.equal(plane, one) & ~where).any() for plane, where in zip(planes, missing, strict=True)):
            notes.append(f"{_nodata_text(values)} become {one:g}, which no valid sample has")
            pixels = np.where(np.stack(missing, axis=2), image.pixels.dtype.type(one), image.pixels)
            return replace(image, pixels=pixels, nodata=one), []
    if any((where != missing[0]).any() for where in missing[1:]):
        return image, [f"{_nodata_text(values)}, since bands differ in what is valid and no one value is free in all"]
    notes.append(f"{_nodata_text(values)} become alpha")
    alpha, _, fields = geotiff.masked_alpha(image.pixels, image.alpha, None, ~missing[0], image.metadata.geo)
    return replace(image, alpha=alpha, nodata=None, metadata=replace(image.metadata, geo=fields)), []


def _narrowed(value: float | None, image: "Image", notes: list[str]) -> float | None:
    """Return a nodata value as the samples hold it: beyond float32 they have become infinite."""
    with np.errstate(over="ignore"):
        narrow = None if value is None or image.pixels.dtype.kind != "f" else float(np.float32(value))
    if value is None or narrow is None or math.isfinite(narrow) or not math.isfinite(value):
        return value
    notes.append(f"the nodata value {value:g} becomes {narrow:g}, as those samples of 64 bits do")
    return narrow


def _nodata_text(values: list[float | None]) -> str:
    texts = ["none" if value is None else f"{value:g}" for value in values]
    return f"nodata value {texts[0]}" if len(set(texts)) == 1 else f"nodata values {', '.join(texts)} of bands"
