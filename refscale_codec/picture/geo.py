"""The georeference and tags of a picture: the fields of a JSON object, and the one schema of them.

Standard library only. `geotiff` reads the fields from files and writes them; `docs/FORMAT.md` has their meaning.
"""

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Fields = dict[str, Any]
"""Fields by their names, without those that have their default."""

MAX_BYTES = 1 << 20
"""Most bytes of the JSON."""

_DEPTH = 3  # most objects and lists in one another
_MOST_BANDS = 256  # with alpha
_LONGEST_CRS = 1 << 16  # characters
_CODE = re.compile(r"([A-Za-z]\w{0,31}):([\w.-]{1,32})", re.ASCII)
_WKT = re.compile(r"\s*[A-Za-z]\w{0,31}\s*[\[(].*[\])]\s*", re.ASCII | re.DOTALL)
_FILES = re.compile(r"grids|file|\b(init|model)=", re.IGNORECASE)  # what PROJ calls the files that a system names
_PATH = re.compile(r"(?<! )/|/(?! )|[\\~]")  # names of systems have slashes between spaces
MOST_TAGS, _MOST_BAND_TAGS = 1 << 12, 1 << 14  # of one object, and of all bands: GDAL's time rises with the square
_MOST_POINTS = 1 << 13
_BRACKETS = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)
_RPC_NUMBERS = ("height", "lat", "line", "long", "samp")
_RPC_LISTS = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")

INTERPRETATIONS = {
    "undefined", "gray", "palette", "red", "green", "blue", "alpha", "hue", "saturation", "lightness", "cyan",
    "magenta", "yellow", "black", "Y", "Cb", "Cr", "pan", "coastal", "rededge", "nir", "swir", "mwir", "lwir", "tir",
    "other_ir", "sar_ka", "sar_k", "sar_ku", "sar_x", "sar_c", "sar_s", "sar_l", "sar_p",
}  # fmt: skip
"""Names of colour interpretations: those of GDAL in lower case."""

_OF_ALPHA: Fields = {
    "band_tags": {}, "descriptions": None, "units": None, "scales": 1.0, "offsets": 0.0, "interpretations": "alpha",
}  # fmt: skip
"""Fields that have one entry for each band, and what is said of alpha by default."""

GEOREFERENCE = ("crs", "transform", "gcps", "gcp_crs", "rpcs")
"""The fields that say where a picture is."""


def _text(value: object, longest: int = MAX_BYTES) -> bool:
    return isinstance(value, str) and len(value) <= longest and "\0" not in value and _encodable(value)


def _encodable(text: str) -> bool:
    with suppress(UnicodeEncodeError):
        return text.encode() is not None
    return False


def authority_and_code(crs: str) -> tuple[str, str] | None:
    """Return both parts of a coordinate reference system such as `EPSG:32630`; None of one that is WKT."""
    found = _CODE.fullmatch(crs)
    return None if found is None else (found[1], found[2])


def names_a_path(text: str) -> bool:
    """Return whether a coordinate reference system may name a file that is not PROJ's own, which PROJ would open."""
    return bool(_FILES.search(text) and _PATH.search(text))


def _is_crs(value: object) -> bool:
    if not isinstance(value, str) or not _text(value, _LONGEST_CRS):
        return False
    return bool(_CODE.fullmatch(value) or _WKT.fullmatch(value))


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    with suppress(OverflowError):
        return math.isfinite(float(value))
    return False


def _numbers(count: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and len(value) == count and all(map(_number, value))


def _texts(value: object) -> bool:
    if not isinstance(value, dict) or len(value) > MOST_TAGS:
        return False
    return all(_text(part) for pair in value.items() for part in pair)


def _band_tags(value: Any) -> bool:
    return _each(_texts)(value) and sum(map(len, value)) <= _MOST_BAND_TAGS


def _each(check: Callable[[Any], bool], most: int = _MOST_BANDS) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and 0 < len(value) <= most and all(map(check, value))


def _rpcs(value: object) -> bool:
    """Return whether a value is an object of all coefficients, each 20 numbers, offsets and scales."""
    if not isinstance(value, dict):
        return False
    numbers = [f"{name}_{kind}" for name in _RPC_NUMBERS for kind in ("off", "scale")]
    errors = [value[name] for name in ("err_bias", "err_rand") if value.get(name) is not None]
    return (
        all(_number(value.get(name)) for name in numbers)
        and all(map(_number, errors))
        and all(_numbers(20)(value.get(name)) for name in _RPC_LISTS)
    )


_SCHEMA: dict[str, tuple[Callable[[Any], bool], str]] = {  # field: check, and what it must be
    "crs": (_is_crs, "an authority and code, or WKT"),
    "transform": (_numbers(6), "six finite numbers"),
    "tags": (_texts, f"an object of at most {MOST_TAGS:,} texts"),
    "band_tags": (
        _band_tags,
        f"a list of objects of at most {MOST_TAGS:,} texts, and at most {_MOST_BAND_TAGS:,} in all",
    ),
    "descriptions": (_each(lambda value: value is None or _text(value)), "a list of texts or null"),
    "units": (_each(lambda value: value is None or _text(value)), "a list of texts or null"),
    "interpretations": (_each(lambda value: value in INTERPRETATIONS), "a list of colour interpretations"),
    "scales": (_each(_number), "a list of finite numbers"),
    "offsets": (_each(_number), "a list of finite numbers"),
    "gcps": (_each(_numbers(5), _MOST_POINTS), f"a list of at most {_MOST_POINTS:,} lists of five finite numbers"),
    "gcp_crs": (_is_crs, "an authority and code, or WKT"),
    "rpcs": (_rpcs, "an object of rational polynomial coefficients"),
    "mask": (lambda value: value is True, "true"),
}


def fault(name: str, value: object) -> str:
    """Return what a field must be and is not; empty for a valid or unknown one."""
    check, wanted = _SCHEMA.get(name, (lambda _: True, ""))
    with suppress(TypeError):  # a value that cannot be compared
        return "" if check(value) else f"it must be {wanted}"
    return f"it must be {wanted}"


def parse(geo: bytes) -> Fields:
    """Return the fields of JSON, without those of unknown names; all numbers in it are float.

    Raises:
        ValueError: it is too large or too deep, no JSON object, or a field is not as the schema says.
    """
    if len(geo) > MAX_BYTES:
        raise ValueError(f"{len(geo):,} bytes, at most {MAX_BYTES:,} are read")
    if _too_deep(geo):
        raise ValueError(f"more than {_DEPTH} objects and lists in one another")
    try:
        found = json.loads(geo, parse_constant=_refuse, parse_int=float)
    except UnicodeDecodeError:
        raise ValueError("not in UTF-8") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    for name, value in found.items():
        if wrong := fault(name, value):
            raise ValueError(f"{name}: {wrong}")
    return {name: found[name] for name in _SCHEMA if name in found}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _too_deep(geo: bytes) -> bool:
    depth, in_text = 0, False
    for token in _BRACKETS.findall(geo):
        if token == b'"':
            in_text = not in_text
        elif not in_text and len(token) == 1:
            depth += 1 if token in b"[{" else -1
            if depth > _DEPTH:
                return True
    return False


def fields_of(geo: bytes) -> Fields:
    """Return the fields of JSON; none if it is not valid."""
    with suppress(ValueError):
        return parse(geo)
    return {}


def dumped(fields: Fields) -> bytes:
    """Return fields as JSON; empty for none."""
    return json.dumps(fields, separators=(",", ":")).encode() if fields else b""


def of_window(geo: bytes, left: int, top: int) -> bytes:
    """Return the fields of a window of the picture that begins at this column and row.

    One whose numbers would not be finite there is left out.
    """
    fields = fields_of(geo)
    if "transform" in fields:
        a, b, c, d, e, f = fields["transform"]
        fields["transform"] = [a, b, a * left + b * top + c, d, e, d * left + e * top + f]
    if "gcps" in fields:
        fields["gcps"] = [[row - top, column - left, *place] for row, column, *place in fields["gcps"]]
    if "rpcs" in fields:
        rpcs = fields["rpcs"]
        fields["rpcs"] = rpcs | {"line_off": rpcs["line_off"] - top, "samp_off": rpcs["samp_off"] - left}
    return dumped({name: value for name, value in fields.items() if not fault(name, value)})


def without_tags(geo: bytes) -> bytes:
    """Return the georeference alone."""
    return dumped({name: value for name, value in fields_of(geo).items() if name in GEOREFERENCE})


def with_alpha(geo: bytes, mask: bool = False) -> bytes:
    """Return what is said of bands for these and one more, alpha; and that alpha is a mask."""
    fields = fields_of(geo)
    more = {name: [*value, _OF_ALPHA[name]] if name in _OF_ALPHA else value for name, value in fields.items()}
    return dumped(more | {"mask": True} if mask else more)


def without_alpha(fields: Fields) -> Fields:
    """Return fields of bands and alpha for the bands alone."""
    return {name: value[:-1] if name in _OF_ALPHA else value for name, value in fields.items()}


def transform(geo: bytes) -> tuple[float, ...] | None:
    """Return a, b, c, d, e, f of the transform; None if there is none."""
    found = fields_of(geo).get("transform")
    return None if found is None else tuple(map(float, found))


def crs(geo: bytes) -> str | None:
    """Return the coordinate reference system, as `EPSG:code` or WKT; None if there is none."""
    return fields_of(geo).get("crs")


def tags(geo: bytes) -> dict[str, str]:
    """Return the tags of the whole picture."""
    return dict(fields_of(geo).get("tags", {}))


def georeference(geo: bytes) -> tuple[str, tuple[float, ...]] | None:
    """Return the coordinate reference system and the transform; None unless there are both."""
    system, numbers = crs(geo), transform(geo)
    return None if system is None or numbers is None else (system, numbers)


def control_points(geo: bytes) -> tuple[str, list[list[float]]] | None:
    """Return the coordinate reference system of ground control points and these, each row, column, x, y, z, or None."""
    fields = fields_of(geo)
    return (fields["gcp_crs"], fields["gcps"]) if {"gcp_crs", "gcps"} <= fields.keys() else None


def usual_interpretations(bands: int, alpha: bool = False) -> list[str]:
    """Return the default colour interpretations of bands, and of alpha as the last one."""
    return (["red", "green", "blue"] if bands == 3 else ["gray"] + ["undefined"] * (bands - 1)) + ["alpha"] * alpha


def interpretations(geo: bytes, bands: int) -> list[str]:
    """Return the colour interpretations of a picture's bands, without alpha, by GDAL's names in lower case."""
    found: list[str] = fields_of(geo).get("interpretations", usual_interpretations(bands))
    return found[:bands]
