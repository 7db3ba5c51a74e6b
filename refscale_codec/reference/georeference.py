"""Where the pixels of one georeferenced picture lie in another, as a matrix that `registration` can start from.

Coordinates go from one reference system to the other by PROJ, through rasterio, which only this needs: it is imported
when it is called. What the matrix cannot follow (a map projection's curvature) is returned as a residual; block motion
vectors make up for some of it.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, UsageError
from refscale_codec.picture import geotiff
from refscale_codec.picture.image import Image

Matrix = NDArray[np.float64]

_POINTS = 9  # along each side of the target, to fit to
_BENT = 0.05  # pixels by which an affine transform must miss before a homography is worth its tilt


class Grid(NamedTuple):
    """What a georeferenced picture file says of its grid of pixels."""

    crs: str
    """Coordinate reference system, as WKT or any other text that PROJ knows, such as EPSG:32610."""
    transform: tuple[float, ...]
    """(a, b, c, d, e, f): column and row, counted from the first pixel's corner, to x = a column + b row + c and
    y = d column + e row + f."""
    height: int
    """Rows, in pixels."""
    width: int
    """Columns, in pixels."""

    def matrix(self) -> Matrix:
        """Return what takes (column, row, 1) of a pixel's centre, that of the first being (0, 0), to (x, y, 1)."""
        centres = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        return np.asarray(np.array([self.transform[:3], self.transform[3:], (0, 0, 1)]) @ centres)


def prior(target: Image, reference: Image | None) -> Matrix | None:
    """Return where the pixels of a target lie in a reference; None if not both are georeferenced; see `between`."""
    grids = [None if picture is None else _grid(picture) for picture in (target, reference)]
    return None if grids[0] is None or grids[1] is None else between(grids[0], grids[1])[0]


def _grid(picture: Image) -> Grid | None:
    said = geotiff.georeference(picture.metadata.geo)
    return None if said is None else Grid(*said, picture.height, picture.width)


def between(target: Grid, reference: Grid) -> tuple[Matrix, float]:
    """Return where the pixels of a target lie in a reference.

    Returns:
        The 3x3 matrix that takes (x, y, 1) of a pixel's centre to that in the reference, and by how many of its
        pixels the matrix misses at most: it is an affine transform, or a homography where that is clearly nearer.

    Raises:
        UsageError: rasterio is not installed.
        ImageError: PROJ does not know a system, a grid has no inverse, or the target does not lie where both systems
            have coordinates.
    """
    columns, rows = (np.linspace(-0.5, side - 0.5, _POINTS) for side in (target.width, target.height))
    here = np.stack([*map(np.ravel, np.meshgrid(columns, rows)), np.ones(_POINTS**2)])
    try:
        there = np.linalg.inv(reference.matrix()) @ _transformed(target.matrix() @ here, target.crs, reference.crs)
    except np.linalg.LinAlgError:
        raise ImageError(f"the georeference {reference.transform} puts all pixels on one line") from None
    found = [fit(here, there) for fit in (_affine, _homography)]
    affine, bent = ((matrix, float(_misses(matrix, here, there).max())) for matrix in found)
    return bent if bent[1] + _BENT < affine[1] else affine


def _transformed(places: Matrix, source: str, wanted: str) -> Matrix:
    """Return places [(x, y, 1), n] of one coordinate reference system in another."""
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
        from rasterio.warp import transform
    except ImportError as error:
        raise UsageError(f"georeferences need rasterio ({error}): pip install 'refscale-codec[geo]'") from error
    systems = []
    for text in (source, wanted):
        try:
            systems.append(CRS.from_user_input(text))
        except CRSError:
            raise ImageError(f"PROJ does not know the coordinate reference system {text[:80]!r}") from None
    try:
        x, y = transform(*systems, places[0].tolist(), places[1].tolist())
    except Exception as error:  # GDAL's errors have no public base
        raise ImageError(f"the picture lies where {wanted[:60]!r} has no coordinates: {error}") from None
    found = np.stack([x, y, np.ones(len(x))])
    if not np.isfinite(found).all():
        raise ImageError(f"the picture lies where {wanted[:60]!r} has no coordinates")
    return found


def _affine(here: Matrix, there: Matrix) -> Matrix:
    """Return the affine transform nearest to points [(x, y, 1), n]."""
    scale = np.diag([1 / max(here[0].max(), 1), 1 / max(here[1].max(), 1), 1])
    return np.asarray(np.linalg.lstsq((scale @ here).T, there.T, rcond=None)[0].T @ scale)


def _homography(here: Matrix, there: Matrix) -> Matrix:
    """Return the homography nearest to points [(x, y, 1), n]; an affine transform if OpenCV finds none.

    OpenCV takes points in single precision, so those that may lie far away are counted from their mean.
    """
    centred = np.eye(3)
    centred[:2, 2] = -there[:2].mean(axis=1)
    found, _ = cv2.findHomography(here[:2].T, (centred @ there)[:2].T)
    if found is None:
        return _affine(here, there)
    matrix = np.linalg.inv(centred) @ found
    return np.asarray(matrix / matrix[2, 2])


def _misses(matrix: Matrix, here: Matrix, there: Matrix) -> Matrix:
    """Return by how many pixels a matrix misses each point."""
    placed = matrix @ here
    return np.asarray(np.hypot(*(placed / placed[2] - there)[:2]))
