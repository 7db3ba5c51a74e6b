"""The rows of pictures in an index, and which of them may be references of a picture, by what the rows say."""

import json
import math
from datetime import date
from typing import Any

import numpy as np

from refscale_codec.archive import descriptor, footprint
from refscale_codec.archive.description import Description
from refscale_codec.archive.footprint import Footprint
from refscale_codec.archive.store import PICTURE, Store

CANDIDATES = 20
"""Most pictures that are compared with the one a reference is wanted for."""

_OVERLAP = 0.05  # least share of a picture that a candidate must show

Row = tuple[Any, ...]


def columns(described: Description) -> Row:
    """Return what a row has of a picture, behind the path, size and time of its file."""
    place = described.footprint
    where = (None,) * 5 if place is None else (json.dumps(place.corners), *place[1:])
    return *described[:5], *where, *described[6:]


def description(row: Row) -> Description:
    """Return the description in a row; the inverse of `columns`."""
    _, _, _, fingerprint, width, height, bands, kind, corners, *bounds = row
    west, south, east, north, *others = bounds
    place = None
    if None not in (corners, *bounds[:4]):
        place = Footprint(tuple((x, y) for x, y in json.loads(corners)), west, south, east, north)
    return Description(fingerprint, width, height, bands, kind, place, *others)


def shortlist(store: Store, described: Description) -> list[Row]:
    """Return the rows of at most `CANDIDATES` pictures that fit another one best, each picture once.

    First come those whose footprint overlaps, sorted by how much of the picture they show without nodata and clouds, in
    tenths, and then by how near in time they are. Behind them come those without footprint (or all, if the picture has
    none), sorted by how much their descriptors are alike. The picture itself is not among them.
    """
    kind = described.type, described.bands, described.fingerprint
    fits = "type = ? AND bands IN (?, 1) AND fingerprint != ?"
    order = "ORDER BY path IN (SELECT path FROM file)"  # of copies, one that need not be decoded
    rows: list[Row] = []
    place = described.footprint
    if place is not None:
        turns = " OR ".join(["west <= ? AND east >= ? AND south <= ? AND north >= ?"] * 3)
        bounds = [(place.east + turn, place.west + turn, place.north, place.south) for turn in (-360.0, 0.0, 360.0)]
        found = store.rows(
            f"SELECT {PICTURE} FROM picture WHERE {fits} AND ({turns}) {order}", (*kind, *sum(bounds, ()))
        )
        merits = [_merit(described, description(row)) for row in found]
        ranks = sorted(range(len(found)), key=merits.__getitem__)
        rows = [found[at] for at in ranks if -merits[at][0] >= 10 * _OVERLAP]
    if len(rows) < CANDIDATES:
        unplaced = "" if place is None else " AND west IS NULL"
        others = store.rows(f"SELECT rowid, descriptor FROM picture WHERE {fits}{unplaced} {order}", kind)
        alike = descriptor.similarities(described.descriptor, [row[1] for row in others])
        best = np.argsort(-alike, kind="stable")[: 2 * CANDIDATES]
        for at in best:
            rows += store.rows(f"SELECT {PICTURE} FROM picture WHERE rowid = ?", others[at][:1])
    once = {row[3]: row for row in reversed(rows)}
    return list(reversed(once.values()))[:CANDIDATES]


def _merit(described: Description, other: Description) -> tuple[float, float]:
    """Return what candidates are sorted by: how much they show, in tenths and negative; how many days lie between."""
    assert described.footprint is not None and other.footprint is not None
    shown = footprint.overlap(described.footprint, other.footprint) * (1 - other.nodata) * (1 - (other.cloud or 0))
    return -float(round(10 * shown)), _days_between(described.date, other.date)


def _days_between(one: str | None, other: str | None) -> float:
    if one is None or other is None:
        return math.inf
    return abs((date.fromisoformat(one[:10]) - date.fromisoformat(other[:10])).days)
