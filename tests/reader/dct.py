"""FORMAT.md, "Coded DCT coefficients": payload of codec 1 -> quantisation indices -> low-res picture."""

from pathlib import Path

import numpy as np

from reader.rangecoder import RangeDecoder, of_frequencies

SIDES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
CORNERS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
PHASES = [(0, 0), (1, 1), (0, 1), (1, 0)]
SAME = [[], CORNERS, SIDES, SIDES + CORNERS]

LUMA = """18 14 14 18 22 29 33 37 15 15 16 19 23 36 37 35 16 16 18 22 29 36 40 35 16 18 21 25 33 45 43 37
19 21 28 35 39 51 49 42 22 27 35 38 43 50 52 46 33 38 42 45 49 54 54 49 40 46 47 48 52 48 49 48"""
CHROMA = """18 19 23 38 67 67 67 67 19 21 24 49 67 67 67 67 23 24 43 67 67 67 67 67 38 49 67 67 67 67 67 67
67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67 67"""
_DIAGONALS = [[(y, d - y) for y in range(8) if 0 <= d - y < 8] for d in range(15)]
ZIGZAG = [8 * y + x for d, cells in enumerate(_DIAGONALS) for y, x in (cells if d % 2 else reversed(cells))]


def steps(quality: int) -> np.ndarray:
    """Return step sizes [3, 64] in zigzag order."""
    p = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = np.array([[int(x) for x in table.split()] for table in (LUMA, CHROMA, CHROMA)])
    return np.clip((tables[:, ZIGZAG] * p + 50) // 100, 1, 255)


class Tables:
    """`tables.npz`."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            keys, frequency = file["keys"].tolist(), file["frequency"].astype(np.int64)
            signed, plain, mean, spread = (
                file[name].astype(np.int64) for name in ("signed", "plain", "mean", "spread")
            )
        self.m = dict(zip(keys, np.split(mean, signed.cumsum()[:-1]), strict=True))
        self.w = dict(zip(keys, np.split(spread, (signed + plain).cumsum()[:-1]), strict=True))
        self.limits = [of_frequencies(table) for table in frequency]
        self.thresholds = [round(4096 * 2 ** (i / 4 - 7.125)) for i in range(47)]


class Decoder:
    """Indices, group by group."""

    def __init__(self, payload: bytes, rows: int, columns: int, quality: int, tables: Tables) -> None:
        self.highest, self.coder, self.tables = list(payload[:3]), RangeDecoder(payload[3:]), tables
        self.rows, self.columns, self.q = rows, columns, steps(quality)
        self.index = np.zeros((3, 64, rows, columns), np.int64)
        self.value = np.zeros((3, 64, rows, columns), np.int64)  # coefficients: index times step size

    def decode(self) -> np.ndarray:
        """Return the coefficients [3, 64, rows, columns]."""
        for component in range(3):
            self._put(component, 0, ([0], [0]), np.array([self.coder.uniform(4096) - 2048]))
        self._dc()
        for k in range(1, max(self.highest) + 1):
            for component in range(3):
                if k <= self.highest[component]:
                    for phase in range(4):
                        self._ac(component, k, phase)
        self.coder.require_end()
        return self.value

    def _put(self, component: int, k: int, cells: tuple, index: np.ndarray) -> None:
        if abs(index).max(initial=0) > 1023:
            raise ValueError("an index is out of range")
        self.index[component, k][cells] = index
        self.value[component, k][cells] = index * self.q[component, k]

    def _cells(self, top: int, left: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        ys, xs = np.meshgrid(np.arange(top, self.rows, step), np.arange(left, self.columns, step), indexing="ij")
        return ys.ravel(), xs.ravel()

    def _dc(self) -> None:
        known = np.zeros((self.rows, self.columns), bool)
        known[0, 0] = True
        o = (max(self.rows, self.columns) - 1).bit_length()
        for level in range(o - 1, -1, -1):
            s = 1 << level
            for part, (top, left, around) in enumerate([(s, s, CORNERS), (0, s, SIDES), (s, 0, SIDES)]):
                ys, xs = self._cells(top, left, 2 * s)
                if not len(ys):
                    continue
                before: list[np.ndarray] = []
                for component in range(3):
                    a, there = [], []
                    for dy, dx in around:
                        y, x = ys + s * dy, xs + s * dx
                        inside = (y >= 0) & (y < self.rows) & (x >= 0) & (x < self.columns)
                        y, x = y.clip(0, self.rows - 1), x.clip(0, self.columns - 1)
                        there.append(inside & known[y, x])
                        a.append(self.value[component, 0][y, x])
                    values, given = np.array(a), np.array(there)
                    n = given.sum(axis=0)
                    b = 4096 * (values * given).sum(axis=0) // n
                    apart = (abs(4096 * values - b) * given).sum(axis=0) // (4096 * n)
                    key = f"dc {component} {min(level, 3)} {min(part, 1)}"
                    self._group(component, 0, (ys, xs), key, b, before, [apart])
                    before = [*before, self.value[component, 0][ys, xs] - b // 4096]
                known[ys, xs] = True

    def _ac(self, component: int, k: int, phase: int) -> None:
        ys, xs = self._cells(*PHASES[phase], 2)
        if not len(ys):
            return

        def at(c: int, frequency: int, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
            y, x = (ys + offset[0]).clip(0, self.rows - 1), (xs + offset[1]).clip(0, self.columns - 1)
            return self.value[c, frequency][y, x]

        signed = [at(component, i) for i in range(1, k)]
        signed += [at(component, 0, offset) - at(component, 0) for offset in SIDES + CORNERS]
        for side in SIDES:
            signed += [at(component, i, side) for i in range(max(1, k - 6), k)]
            signed += [at(component, i, side) for i in range(1, min(k - 6, 6))]
        signed += [at(component, k, offset) for offset in SAME[phase]]
        signed += [at(c, k) for c in range(component)]
        plain = [abs(at(c, k, side)) for c in range(component) for side in SIDES]
        self._group(component, k, (ys, xs), f"ac {component} {k} {phase}", np.zeros_like(ys), signed, plain)

    def _group(
        self,
        component: int,
        k: int,
        cells: tuple,
        key: str,
        b: np.ndarray,
        signed: list[np.ndarray],
        plain: list[np.ndarray],
    ) -> None:
        q, m, w = int(self.q[component, k]), self.tables.m[key], self.tables.w[key]
        constants = [np.full_like(b, q), np.full_like(b, 16)]
        p = b + sum((weight * x for weight, x in zip(m, signed, strict=True)), start=np.zeros_like(b))
        sizes = [*(abs(x) for x in signed), *plain, *constants]
        e = sum((weight * y for weight, y in zip(w, sizes, strict=True)), start=np.zeros_like(b)) // q
        v = (2 * p + 4096 * q) // (8192 * q)
        d = p - 4096 * q * v
        row = 4 * np.searchsorted(self.tables.thresholds, e, side="right") + np.minimum(3, 8 * abs(d) // (4096 * q))
        limits = self.tables.limits[min(component, 1) + (2 if k else 0)]
        off = np.array([self.coder.symbol(limits[i]) - 16 for i in row.tolist()])
        for i in np.flatnonzero(abs(off) == 16):
            off[i] += np.sign(off[i]) * self.coder.unsigned()
        self._put(component, k, cells, v + np.where(d < 0, -1, 1) * off)


def rounded(x: np.ndarray, n: int) -> np.ndarray:
    return (x + (1 << n - 1)) >> n


def picture(coefficients: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the low-res picture [height, width, 3], on about 0..255, of coefficients [3, 64, rows, columns]."""
    _, _, rows, columns = coefficients.shape
    y, u = np.mgrid[:8, :8]
    t = np.rint(2**20 * np.where(u == 0, np.sqrt(0.5), 1) / 2 * np.cos((2 * y + 1) * u * np.pi / 16)).astype(np.int64)
    blocks = np.zeros((3, 64, rows, columns), np.int64)
    blocks[:, ZIGZAG] = coefficients
    f = blocks.reshape(3, 8, 8, rows, columns).transpose(0, 3, 4, 1, 2)
    values = rounded(rounded(t @ f, 10) @ t.T, 20)
    ycbcr = values.transpose(1, 3, 2, 4, 0).reshape(8 * rows, 8 * columns, 3)[:height, :width]
    m = np.rint(2**18 * np.array([[1, 1, 1], [0, -0.344136, 1.772], [1.402, -0.714136, 0]])).astype(np.int64)
    return rounded(ycbcr @ m, 24) / 16 + 128  # type: ignore[no-any-return]
