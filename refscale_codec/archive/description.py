"""What an index knows of a picture: said by its file or its metadata, or measured on its samples, never guessed."""

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timezone
from typing import NamedTuple

from refscale_codec.archive import descriptor, footprint
from refscale_codec.archive.footprint import Footprint
from refscale_codec.errors import UsageError
from refscale_codec.picture import geo, metadata
from refscale_codec.picture.image import Image

_DATES = (  # tags of a GeoTIFF, in lower case
    *("acquisitiondatetime", "datetime", "start_datetime", "sensing_time", "product_start_time", "date_acquired"),
    *("acquisition_date", "datatake_1_datatake_sensing_start", "tifftag_datetime"),
)
_SENSORS = (
    ("platform", "spacecraft_id", "spacecraft_name", "satellite", "satelliteid"),
    (*("instruments", "instrument", "sensor_id", "sensor"),),
)
_CLOUD = (  # in percent
    *("eo:cloud_cover", "cloud_cover", "cloudcover", "cloudy_pixel_percentage", "cloud_coverage_assessment"),
)
_OFFSETS = (0x9011, 0x9010)  # EXIF's tags of the time zones of the dates
_MADE = 0x010F, 0x0110  # maker and model
_LONGEST = 200  # characters of a text


class Description(NamedTuple):
    """What is known of a picture; None for what is not."""

    fingerprint: bytes
    width: int
    height: int
    bands: int
    type: str
    """Of the samples, by numpy's name."""
    footprint: Footprint | None
    date: str | None
    """When it was taken, in ISO 8601: a day or a second; in UTC, with `Z`, where the time zone is known."""
    sensor: str | None
    nodata: float
    """Share of the pixels that are nodata in all bands, transparent or not finite, 0..1."""
    cloud: float | None
    """Share of clouds, 0..1, as the metadata has it."""
    descriptor: bytes
    """See `descriptor`."""


def of_picture(image: Image) -> Description:
    """Describe a picture."""
    missing = descriptor.missing_of(image)
    tags = {name.lower(): text for name, text in geo.tags(image.metadata.geo).items()}
    return Description(
        image.fingerprint(),
        image.width,
        image.height,
        image.bands,
        image.pixels.dtype.name,
        footprint.of_picture(image),
        _date(image.metadata, tags),
        _sensor(image.metadata, tags),
        0.0 if missing is None else float(missing.mean()),
        _cloud(tags),
        descriptor.of_preview(descriptor.preview(image)),
    )


_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d):?(\d\d):?(\d\d)(?:\.\d+)?\s*(Z|[-+]\d\d:?\d\d)?)?", re.ASCII)


def iso_date(text: str, zone: str = "", *, whole: bool = False) -> str | None:
    """Return a date, or a date and time, in ISO 8601; None for any other text.

    Args:
        text: as in EXIF, `2021:05:03 10:11:12`, or as in ISO 8601 with `-` or without.
        zone: its time zone, such as `+02:00`, where the text has none.
        whole: whether nothing may follow.
    """
    text = re.sub(r"^([0-9]{4}):([0-9]{2}):([0-9]{2})", r"\1-\2-\3", text.strip())
    found = _DATE.match(text)
    if not found or whole and found.end() < len(text):
        return None
    with suppress(ValueError, OverflowError):
        day = "-".join(found.group(1, 2, 3))
        datetime.strptime(day, "%Y-%m-%d")
        if found[4] is None:
            return day
        time = f"{day}T{':'.join(found.group(4, 5, 6))}"
        zone = (found[7] or zone.strip()).replace("Z", "+00:00").replace(":", "")
        if not re.fullmatch(r"[-+]\d{4}", zone):
            return datetime.strptime(time, "%Y-%m-%dT%H:%M:%S").isoformat()
        known = datetime.strptime(time + zone, "%Y-%m-%dT%H:%M:%S%z").astimezone(timezone.utc)
        return known.replace(tzinfo=None).isoformat() + "Z"
    return None


def require_date(text: str, name: str) -> str:
    """Return a date that a user gives, see `iso_date`; UsageError for anything else."""
    found = iso_date(text, whole=True) if isinstance(text, str) else None
    if found is None:
        raise UsageError(f"{name} must be a date, such as 2021-05-03, not {text!r}")
    return found


def _date(kept: metadata.Metadata, tags: dict[str, str]) -> str | None:
    said = metadata.exif_text(kept.exif, *metadata.EXIF_DATES)
    zone = metadata.exif_text(kept.exif, *_OFFSETS) or ""
    candidates = [iso_date(tags[name]) for name in _DATES if name in tags]
    return next((found for found in (*candidates, said and iso_date(said, zone)) if found), None)


def _sensor(kept: metadata.Metadata, tags: dict[str, str]) -> str | None:
    said = [next((tags[name] for name in names if name in tags), None) for names in _SENSORS]
    made = [metadata.exif_text(kept.exif, tag) for tag in _MADE]
    return _joined(said) or _joined(made)


def _joined(parts: Iterable[str | None]) -> str | None:
    text = " ".join(part.strip() for part in parts if part and part.strip())
    return text[:_LONGEST] or None


def _cloud(tags: dict[str, str]) -> float | None:
    for name in _CLOUD:
        with suppress(KeyError, ValueError):
            percent = float(tags[name])
            if 0 <= percent <= 100:
                return percent / 100
    return None
