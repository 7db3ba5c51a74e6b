"""Fit the entropy model of the low-res DCT coefficients to a manifest's training pairs.

    python benchmarks/fit_entropy_model.py ../shared/data/manifest.csv -o build/tables.npz       # an hour on a core

The result would take the place of `refscale_codec/lrcodec/dct/tables.npz`, which is part of the format: another model
is another format. `benchmarks/entropy_coding.py` measures the one in place.

The low-res pictures are those of the shipped nets, at qualities drawn evenly, with and without a reference.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from refscale_codec import model, weights_files
from refscale_codec.lrcodec.dct import coefficients, entropy, scan
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.rescale import tiled

ROUNDS, CROP, QUALITIES = 4, 384, (8, 99)  # of each training picture: how many crops, of what side, at what qualities
SUBSET = 60_000  # coefficients that a set of weights is fitted to
SYMBOLS = 2 * entropy.ESCAPE + 1  # of the model's alphabet


class Sample(NamedTuple):
    """A low-res picture quantised."""

    indices: coefficients.Indices
    steps: scan.Integers


def samples(manifest: Path, seed: int) -> Iterator[Sample]:
    """Yield low-res pictures of the training pictures."""
    rng = np.random.default_rng(seed)
    nets = [model.load(weights_files.shipped(scale)) for scale in (2, 4)]
    for pair in read_manifest(manifest, ("train", "single")):
        pixels = [pictures.read(path).pixels for path in (pair.target, pair.reference) if path is not None]
        for _ in range(ROUNDS):
            top, left = (int(rng.integers(0, max(1, side - CROP + 1))) for side in pixels[0].shape[:2])
            target, *reference = (Image(np.ascontiguousarray(x[top : top + CROP, left : left + CROP])) for x in pixels)
            quality = int(rng.integers(*QUALITIES))
            net = nets[int(rng.random() < 0.2)]
            used = reference[0] if reference and rng.random() < 0.8 else None
            low = tiled.downscale(target, tiled.map_reference(target, used, net.rescaler), net.rescaler, quality)
            yield Sample(coefficients.quantise(low.lr, quality), coefficients.steps(quality))


def groups(sample: Sample, key: tuple[int, int]) -> Iterator[scan.Group]:
    """Yield the groups of a component and frequency as a decoder meets them; frequency 0 means all DC."""
    component, k = key
    indices = sample.indices.transpose(2, 3, 0, 1).astype(np.int64)
    values = (indices * sample.steps[:, :, None, None]).astype(np.float32)
    if k == 0:
        dc = np.zeros(values[:, 0].shape)
        dc[:, 0, 0] = values[:, 0, 0, 0]
        for group in scan.dc_groups(dc, sample.steps):
            ys, xs, other, _ = group.positions
            if other == component:
                yield group
            dc[other, ys, xs] = values[other, 0, ys, xs]
        return
    coded = scan.CodedPlanes(values[:, 0].astype(np.float64))
    for other, before in product(range(3), range(1, k + 1)):
        if before < k or other < component:
            for phase, (row, column) in enumerate(scan.PHASES):
                coded.put(other, before, phase, values[other, before, row::2, column::2])
    for phase, (row, column) in enumerate(scan.PHASES):
        own = values[component, k, row::2, column::2]
        if own.size:
            yield scan.ac_group(coded, sample.steps, component, k, phase)
            coded.put(component, k, phase, own)


class Weights(NamedTuple):
    """Of a set: integers."""

    mean: scan.Exact
    spread: scan.Exact


def fit(
    signed: NDArray[np.float32], plain: NDArray[np.float32], base: NDArray[np.float32], values: NDArray[np.float32]
) -> Weights:
    """Return the weights for features [j, n] and [i, n], a start [n] and the indices [n], all in units of one step."""
    weight = 1 / (0.3 + 3 * abs(signed).mean(axis=0)) if len(signed) else np.ones_like(values)
    gram = (signed * weight) @ signed.T + 1e-5 * values.size * np.eye(len(signed))
    mean = np.linalg.solve(gram, (signed * weight) @ (values - base))
    mean = np.clip(np.rint(mean * scan.ONE), -32768, 32767)
    apart = torch.from_numpy(abs(values - base - (mean / scan.ONE) @ signed).astype(np.float32)).clamp(max=60)
    features = torch.from_numpy(np.concatenate([abs(signed), plain]))
    raw = torch.full((len(features),), -4.0, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 100 else 0.03
        b = functional.softplus(raw) @ features + 0.01  # scale of a Laplace distribution
        near = torch.log(1 - torch.exp(-0.5 / b) + 1e-9)
        far = -apart / b + torch.log(torch.exp(0.5 / b.clamp(min=0.02)) - torch.exp(-0.5 / b) + 1e-30) - np.log(2)
        loss = -torch.where(apart < 0.5, near, far).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    spread = functional.softplus(raw).detach().numpy()
    return Weights(mean, np.clip(np.rint(spread * scan.ONE), 0, 65535).astype(np.float64))


def fit_all(samples: list[Sample]) -> entropy.EntropyTables:
    """Fit all weights, then count the distributions."""
    rng = np.random.default_rng(1)
    means, spreads = {}, {}
    counts = np.zeros((4, entropy.BINS * entropy.FRACTIONS, SYMBOLS))
    keys = [(component, k) for k in range(64) for component in range(3)]
    for done, key in enumerate(keys):
        by_key: dict[str, list[tuple[scan.Group, scan.Integers]]] = defaultdict(list)
        for sample in samples:
            for group in groups(sample, key):
                ys, xs, component, k = group.positions
                values = sample.indices[ys, xs, component, k].ravel().astype(np.int64)
                by_key[group.key].append((group, values))
        for name, of in by_key.items():
            step = np.concatenate([np.full(values.size, group.step) for group, values in of])
            chosen = rng.permutation(step.size)[:SUBSET]
            step = step[chosen].astype(np.float32)
            signed = np.concatenate([stacked(group, group.signed) for group, _ in of], axis=1)[:, chosen] / step
            sizes = np.concatenate([stacked(group, group.sizes) for group, _ in of], axis=1)[:, chosen] / step
            plain = np.concatenate([sizes[len(signed) :], np.ones_like(sizes[:1]), 16 / step[None]])
            base = np.concatenate([group.chosen(group.base) for group, _ in of])[chosen].astype(np.float32)
            base = base / scan.ONE / step
            wanted = np.concatenate([values for _, values in of])[chosen].astype(np.float32)
            means[name], spreads[name] = fit(signed, plain, base, wanted)
            for group, indices in of:
                at = entropy.context(group, means[name], spreads[name])
                off = np.clip((indices - at.nearest) * at.sign, -entropy.ESCAPE, entropy.ESCAPE) + entropy.ESCAPE
                np.add.at(counts[group.kind], (at.row, off), 1)
        print(f"{done + 1} of {len(keys)}", flush=True)
    return entropy.EntropyTables(means, spreads, distributions(counts))


def stacked(group: scan.Group, inputs: list[scan.Exact] | list[scan.Short]) -> NDArray[np.float32]:
    """Return inputs of a group in one piece, [j, n]."""
    none = np.empty((0, group.base.size))
    return group.chosen(np.concatenate([none, *inputs])).astype(np.float32)


def distributions(counts: NDArray[np.float64]) -> scan.Integers:
    """Return frequencies that add up to 2^16, none zero, from counts; classes with few lean on their neighbours."""
    by_size = counts.reshape(4, entropy.BINS, entropy.FRACTIONS, SYMBOLS)
    lent = np.zeros_like(by_size)
    lent[:, 1:] += by_size[:, :-1]
    lent[:, :-1] += by_size[:, 1:]
    smooth = (by_size + 0.05 * lent).reshape(counts.shape) + 0.02
    share = smooth / smooth.sum(axis=-1, keepdims=True)
    frequency: scan.Integers = np.floor(share * (65536 - SYMBOLS)).astype(np.int64) + 1
    most = frequency.argmax(axis=-1)[..., None]
    spare = 65536 - frequency.sum(axis=-1)[..., None]
    np.put_along_axis(frequency, most, np.take_along_axis(frequency, most, -1) + spare, -1)
    return frequency


def store(model: entropy.EntropyTables, path: Path) -> None:
    """Write the file of the format."""
    keys = list(model.mean)
    np.savez_compressed(
        path,
        keys=np.array(keys),
        signed=np.array([len(model.mean[key]) for key in keys], np.int16),
        plain=np.array([len(model.spread[key]) - len(model.mean[key]) for key in keys], np.int16),
        mean=np.concatenate([model.mean[key] for key in keys]).astype(np.int16),
        spread=np.concatenate([model.spread[key] for key in keys]).astype(np.uint16),
        frequency=model.frequency.astype(np.uint16),
    )


def main() -> None:
    """Fit, and write the file."""
    parser = argparse.ArgumentParser(description="Fit the entropy model of the low-res DCT coefficients.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    store(fit_all(list(samples(args.manifest, seed=3))), args.output)


if __name__ == "__main__":
    main()
