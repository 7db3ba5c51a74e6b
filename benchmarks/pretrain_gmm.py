"""Teach the learned low-res codec's entropy model, on what a trained rescaler leaves of the training pictures.

    python benchmarks/pretrain_gmm.py ../shared/data/manifest.csv weights/refscale-x2.safetensors -o build/runs/gmm

The codec's transform is left as it starts, JPEG's DCT with JPEG's quantiser, for which the rescaler was trained: so the
low-res pictures' latents are those that JPEG has, and what is learned is to code them in fewer bits. The rescaler runs
once, over a few thousand crops whose low-res pictures are kept. What comes out, `weights.safetensors`, codes at once,
and is what a recipe with `[gmm]` starts from, in which all parts learn together. Stopped, it goes on where it was.

To teach the transform too, on the error of the low-res picture, does not serve: such a codec has a lower error at
equal bits than JPEG, and yet much the worse high-res picture, since what the rescaler leaves to JPEG's quantiser
to drop counts as much as what it means to send.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from refscale_codec import model
from refscale_codec.lrcodec.gmm.latents import STRIDE
from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.training import data, loop

SAMPLES, SIDE, BATCH = 8000, 64, 16  # low-res crops, their side in pixels, and how many a step takes
QUALITY = (10, 97)
ALONE = 0.12  # share of samples coded without a reference
RATE = 1e-3  # of Adam; for the last `DECAY` of the steps it falls to nothing
DECAY = 0.4


@torch.inference_mode()
def make_samples(net: RescaleNet, manifest: Path) -> dict[str, NDArray[np.generic]]:
    """Return low-res pictures, low-res references in 8 bits, and qualities."""
    scale = net.scale
    pairs = data.read_manifest(manifest, ("train", "single"))
    crops = data.Crops(pairs, scale * SIDE, simulated=0.12, unrelated=0.08, changed=0.2)
    parts: dict[str, list[NDArray[np.generic]]] = {"lr": [], "reference": [], "quality": []}
    for step in range(SAMPLES // BATCH):
        hr, ref = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in crops.batch(1, step, BATCH))
        quality = np.random.default_rng([1, step]).integers(*QUALITY, BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            lr = net.downscale(hr, ref, torch.from_numpy(quality).float() / 100).lr
        reference = 128 * loop.low_res_reference(ref, scale) + 128
        for name, x in (("lr", lr.float().half()), ("reference", reference.to(torch.uint8))):
            parts[name].append(x.numpy())
        parts["quality"].append(quality)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def batch(samples: dict[str, NDArray[np.generic]], step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return low-res pictures, references as the codec takes them, and qualities of a step, flipped and turned."""
    rng = np.random.default_rng([2, step])
    places = rng.integers(0, len(samples["quality"]), BATCH)
    pictures = samples["lr"][places].astype(np.float32), samples["reference"][places].astype(np.float32) / 128 - 1
    turns, flip = int(rng.integers(4)), int(rng.integers(2))
    lr, reference = (
        torch.from_numpy(np.ascontiguousarray(np.rot90(x, turns, (2, 3))[..., :: 1 - 2 * flip])).float()
        for x in pictures
    )
    reference *= torch.from_numpy(rng.random((BATCH, 1, 1, 1)) >= ALONE)
    return lr, reference, torch.from_numpy(samples["quality"][places]).float()


def main() -> None:
    """Train until the steps or the minutes are over."""
    parser = argparse.ArgumentParser(description="Teach the learned low-res codec alone.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("weights", type=Path, help="of the rescaler, which stays as it is")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    args = parser.parse_args()
    started = saved = time.monotonic()
    args.output.mkdir(parents=True, exist_ok=True)
    net = model.load(args.weights).rescaler
    assert isinstance(net, RescaleNet)
    kept = args.output / "low-res.npz"
    if not kept.exists():
        np.savez(kept.with_suffix(".part.npz"), **make_samples(net, args.manifest))  # type: ignore[arg-type]
        kept.with_suffix(".part.npz").replace(kept)
    samples = dict(np.load(kept))

    torch.manual_seed(1)
    gmm, averaged = Gmm(GmmConfig()), Gmm(GmmConfig())
    averaged.load_state_dict(gmm.state_dict())
    optimizer = torch.optim.Adam(gmm.parameters(), RATE, betas=(0.9, 0.99))
    checkpoint = args.output / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        gmm.load_state_dict(state["gmm"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]

    def save() -> None:
        state = {"gmm": gmm.state_dict(), "averaged": averaged.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"step": step}, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)
        model.store(net, args.output / "weights.safetensors", averaged)

    recent: list[tuple[float, ...]] = []
    while step < args.steps and time.monotonic() - started < 60 * args.minutes:
        falling = (args.steps - step) / (DECAY * args.steps)
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 50, falling)
        torch.manual_seed(step)
        lr, reference, quality = batch(samples, step)
        with torch.no_grad():
            y = functional.conv2d(lr - 0.5, gmm.forward_dct, stride=STRIDE) * gmm.gains(quality / 100)
        with torch.autocast("cpu", torch.bfloat16):
            bpp = gmm.bits(y, reference, quality / 100) / SIDE**2
        loss = torch.log(bpp + 0.02).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(gmm.parameters(), 1.0)
        if bool(torch.isfinite(norm)):
            optimizer.step()
        step += 1
        with torch.no_grad():
            keep = min(0.999, (1 + step) / (10 + step))
            for mean, value in zip(averaged.parameters(), gmm.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)
        recent.append((float(loss.detach()), float(bpp.detach().mean())))
        if step % 200 == 0:
            mean_loss, mean_bpp = np.mean(recent, axis=0).round(4).tolist()
            figures = {"loss": mean_loss, "bpp": mean_bpp}
            line = json.dumps(figures | {"step": step, "seconds": round(time.monotonic() - started)})
            with (args.output / "log.jsonl").open("a") as log:
                log.write(line + "\n")
            print(line, flush=True)
            recent = []
        if time.monotonic() - saved > 240:
            save()
            saved = time.monotonic()
    save()


if __name__ == "__main__":
    main()
