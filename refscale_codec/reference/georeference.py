"""Maps the pixels of one georeferenced picture to another, by a matrix from which `registration` starts.

Coordinates are transformed between reference systems by PROJ, through rasterio, which is imported when it is called.
The error of the matrix (from the curvature of a map projection) is returned as well; block motion vectors compensate
some of it.

A georeference is only a hint to `registration`: where two of them cannot be related, or lie apart, the pictures are
registered without, with a warning through `logging`.
"""

import logging
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, UsageError
from refscale_codec.picture import geo
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import gdal_fields, geotiff

Matrix = NDArray[np.float64]

_POINTS = 9  # along each side of the target, to which the matrix is fitted
_BENT = 0.05  # pixels of error of the affine transform above which a homography is used
_DEGREE = 111_195.0  # metres of a degree of latitude, on the sphere of the mean radius of the Earth
_HALF_TURN = 180.0  # degrees; other units of longitudes give more, 200 gon
_FAR = 1e10  # no place on Earth has such a coordinate in any unit; PROJ takes for ever to turn 1e20 m into a longitude
_LONGEST_REASON = 160  # characters of PROJ's reason in a message: it may quote both systems in full

_log = logging.getLogger(__name__)


class Grid(NamedTuple):
    """The grid of pixels of a georeferenced picture."""

    crs: str
    """Coordinate reference system: an authority and code, such as EPSG:32610, or WKT."""
    transform: tuple[float, ...]
    """(a, b, c, d, e, f): column and row, counted from the first pixel's corner, to x = a column + b row + c and
    y = d column + e row + f."""
    height: int
    """Rows, in pixels."""
    width: int
    """Columns, in pixels."""

    def matrix(self) -> Matrix:
        """Return the matrix from (column, row, 1) of a pixel's centre, the first one's being (0, 0), to (x, y, 1).

        Raises:
            ImageError: a number is larger than coordinates are.
        """
        if max(map(abs, self.transform)) > _FAR:
            raise ImageError(f"the georeference {self.transform} is out of range")
        centres = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        return np.asarray(np.array([self.transform[:3], self.transform[3:], (0, 0, 1)]) @ centres)


def prior(target: Image, reference: Image | None) -> Matrix | None:
    """Return the matrix from a target's pixels to a reference's, see `between`.

    Returns:
        None unless both are georeferenced, can be related and overlap; the last two are logged if they fail. Ground
        control points say only that two pictures lie apart, not exactly enough where they overlap.
    """
    if reference is None:
        return None
    exact = _grid(target), _grid(reference)
    here, there = exact[0] or _about(target), exact[1] or _about(reference)
    if here is None or there is None:
        return None
    try:
        matrix, _ = between(here, there)
        gap = apart(here, there, matrix)
    except (ImageError, UsageError) as error:
        if None not in exact:
            _log.warning("the georeferences of picture and reference are not used: %s", error)
        return None
    if gap:
        _log.warning(
            "the reference shows another place: by the georeferences, it lies %s away from the picture; they are not "
            "used",
            gap,
        )
        return None
    return None if None in exact else matrix


def apart(target: Grid, reference: Grid, matrix: Matrix) -> str:
    """Return about how far apart two pictures lie, with its unit; empty if they overlap or touch.

    Args:
        target: the grid of one.
        reference: the grid of the other.
        matrix: from `between`.
    """
    corners = np.array([(x, y, 1) for x in (-0.5, target.width - 0.5) for y in (-0.5, target.height - 0.5)]).T
    placed = matrix @ corners
    placed = placed[:2] / placed[2]
    lowest, highest, sides = placed.min(axis=1) + 0.5, placed.max(axis=1) + 0.5, (reference.width, reference.height)
    beyond = np.where(highest < 0, highest, np.where(lowest > sides, lowest - sides, 0))
    if (abs(beyond) < 0.5).all():  # pixels; the georeferences may be rounded
        return ""
    a, b, _, d, e, _ = reference.transform
    x, y = float(a * beyond[0] + b * beyond[1]), float(d * beyond[0] + e * beyond[1])
    system = _system(reference.crs)
    if system.is_geographic:
        latitude = (reference.matrix() @ [reference.width / 2, reference.height / 2, 1])[1]
        metres = _DEGREE * math.hypot(x * math.cos(math.radians(latitude)), y)
    elif system.is_projected:
        metres = system.linear_units_factor[1] * math.hypot(x, y)
    else:
        return f"{_plain(math.hypot(x, y))} units of its coordinate reference system"
    return f"{metres / 1000:,.0f} km" if metres >= 10_000 else f"{_plain(metres)} m"


def _plain(number: float) -> str:
    """Return a number to three digits, without an exponent up to a billion."""
    short = f"{number:.3g}"
    return f"{float(short):,.0f}" if 1000 <= float(short) < 1e9 else short


def _grid(picture: Image) -> Grid | None:
    found = geo.georeference(picture.metadata.geo)
    return None if found is None else Grid(*found, picture.height, picture.width)


def _about(picture: Image) -> Grid | None:
    """Return about the grid of a picture with ground control points: by the affine transform that fits them best."""
    found = geo.control_points(picture.metadata.geo)
    if found is None:
        return None
    crs, points = found
    rows, columns, x, y, _ = np.array(points).T
    system = np.stack([columns, rows, np.ones(len(rows))]).T
    fitted, _, rank, _ = np.linalg.lstsq(system, np.stack([x, y]).T, rcond=None)
    return Grid(crs, tuple(fitted.T.ravel().tolist()), picture.height, picture.width) if rank == 3 else None


def outline(picture: Image, crs: str, along: int = _POINTS) -> Matrix | None:
    """Return points along the border of a picture in a coordinate reference system, or None if it has no georeference.

    Args:
        picture: of ground control points, about the border is returned.
        crs: the system; of EPSG:4326 the points are longitude and latitude.
        along: how many points a side has, its last one being the first of the next side.

    Returns:
        [2, 4 (along - 1)]: x and y, from the first pixel's corner along the first row.

    Raises:
        UsageError, ImageError: as in `between`.
    """
    grid = _grid(picture) or _about(picture)
    if grid is None:
        return None
    rise = np.linspace(0, 1, along)[:-1]
    columns = np.concatenate([rise, 0 * rise + 1, 1 - rise, 0 * rise]) * grid.width - 0.5
    rows = np.concatenate([0 * rise, rise, 0 * rise + 1, 1 - rise]) * grid.height - 0.5
    return _transformed(grid.matrix() @ [columns, rows, np.ones(len(rows))], grid.crs, crs)[:2]


def between(target: Grid, reference: Grid) -> tuple[Matrix, float]:
    """Return the matrix from a target's pixels to a reference's.

    Returns:
        The 3x3 matrix from (x, y, 1) of a pixel's centre to the reference, and its largest error in pixels of the
        reference. It is an affine transform, or a homography if that is clearly more accurate.

    Raises:
        UsageError: rasterio is not installed.
        ImageError: an unknown reference system, a grid without an inverse, or a target outside the area of one of the
            systems.
    """
    columns, rows = (np.linspace(-0.5, side - 0.5, _POINTS) for side in (target.width, target.height))
    here = np.stack([*map(np.ravel, np.meshgrid(columns, rows)), np.ones(_POINTS**2)])
    placed = _transformed(target.matrix() @ here, target.crs, reference.crs)
    try:
        there = np.linalg.inv(reference.matrix()) @ _unwound(placed, target, reference)
    except np.linalg.LinAlgError:
        raise ImageError(f"the georeference {reference.transform} is degenerate") from None
    found = [fit(here, there) for fit in (_affine, _homography)]
    affine, bent = ((matrix, float(_errors(matrix, here, there).max())) for matrix in found)
    return bent if bent[1] + _BENT < affine[1] else affine


def _unwound(points: Matrix, target: Grid, reference: Grid) -> Matrix:
    """Return points [(x, y, 1), n] of a target in the reference's system, with whole turns added to longitudes.

    So the points are not torn at the antimeridian, and their middle lies less than half a turn from the reference's.
    """
    middle = points[0, points.shape[1] // 2]
    away = (reference.matrix() @ [reference.width / 2, reference.height / 2, 1])[0] - middle
    if target.crs == reference.crs and (abs(away) < _HALF_TURN or not geotiff.installed()):
        return points
    system = _system(reference.crs)
    if not system.is_geographic:
        return points
    turn = 2 * math.pi / system.units_factor[1]
    turns = 0 if target.crs == reference.crs else np.rint((middle - points[0]) / turn)
    return np.stack([points[0] + turn * (turns + np.rint(away / turn)), *points[1:]])


def _transformed(points: Matrix, source: str, wanted: str) -> Matrix:
    """Return points [(x, y, 1), n] of one coordinate reference system in another."""
    if source == wanted:
        return points
    systems = _system(source), _system(wanted)
    if not (abs(points) < _FAR).all():
        raise ImageError(f"the picture is outside the area of {_short(source)}")
    from rasterio.warp import transform

    try:
        x, y = transform(*systems, points[0].tolist(), points[1].tolist())
    except Exception as error:  # GDAL's errors have no public base
        raise ImageError(
            f"the picture is outside the area of {_short(wanted)}, or {_short(source)} cannot be related to it: "
            f"{_short(error, _LONGEST_REASON)}"
        ) from None
    found = np.stack([x, y, np.ones(len(x))])
    if not np.isfinite(found).all():
        raise ImageError(f"the picture is outside the area of {_short(wanted)}")
    return found


def _system(text: str) -> Any:
    """Return a coordinate reference system of rasterio.

    Raises:
        UsageError: rasterio is not installed.
        ImageError: PROJ does not know it.
    """
    try:
        return gdal_fields.system_of(text)
    except ImportError as error:
        raise UsageError(f"georeferences need rasterio ({error}): pip install 'refscale-codec[geo]'") from error
    except ValueError as error:
        raise ImageError(
            f"unknown coordinate reference system {_short(text)}: {_short(error, _LONGEST_REASON)}"
        ) from None


def _short(text: object, longest: int = 40) -> str:
    """Return the beginning of a text of PROJ, in one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else line[:longest] + "..."


def _affine(here: Matrix, there: Matrix) -> Matrix:
    """Return the affine transform nearest to points [(x, y, 1), n]."""
    scale = np.diag([1 / max(here[0].max(), 1), 1 / max(here[1].max(), 1), 1])
    return np.asarray(np.linalg.lstsq((scale @ here).T, there.T, rcond=None)[0].T @ scale)


def _homography(here: Matrix, there: Matrix) -> Matrix:
    """Return the homography nearest to points [(x, y, 1), n]; an affine transform if OpenCV finds none.

    OpenCV computes in single precision, so points of large coordinates are taken relative to their mean.
    """
    centred = np.eye(3)
    centred[:2, 2] = -there[:2].mean(axis=1)
    found, _ = cv2.findHomography(here[:2].T, (centred @ there)[:2].T)
    if found is None:
        return _affine(here, there)
    matrix = np.linalg.inv(centred) @ found
    return np.asarray(matrix / matrix[2, 2])


def _errors(matrix: Matrix, here: Matrix, there: Matrix) -> Matrix:
    """Return the error of a matrix at each point, in pixels."""
    placed = matrix @ here
    return np.asarray(np.hypot(*(placed / placed[2] - there)[:2]))
