"""Golden files whose payloads are changed and whose checksums fit: a picture, or an error of refscale."""

import json
import random
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import GOLDEN, golden
from hypothesis import given, settings
from hypothesis import strategies as st

import refscale_codec
from refscale_codec import model, weights_files
from refscale_codec.codec import decoder
from refscale_codec.errors import ContainerError, RefscaleError, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.fileformat.sections import TABLE
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.model import Model
from refscale_codec.picture import metadata
from refscale_codec.picture.coded import band_section, bands
from refscale_codec.picture.image import Image
from refscale_codec.rangecoder import Encoder
from refscale_codec.reference import blending, warp
from refscale_codec.reference.warp import Alignment, GainOffset, Transform

make = golden()
NAMES = ["alone", "map", "vectors", "homography", "learned", "predicted", "everything", "six-bands", "floats"]
NAMES += list(make.FURTHER)


@cache
def opened(name: str) -> tuple[Container, list[Image], Model]:
    return container.unpack((GOLDEN / f"{name}.rsc").read_bytes()), make.references(name), loaded(name)


@cache
def loaded(name: str) -> Model:
    return model.kept(make.weights(name), "cpu")


@st.composite
def changed(draw: st.DrawFn, payload: bytes) -> bytes:
    """A payload with a few bytes replaced, inserted or cut off, or another one."""
    at = draw(st.integers(0, len(payload)))
    new = draw(st.one_of(st.binary(max_size=12), st.sampled_from([bytes(64), b"\xff" * 64]), noise()))
    return draw(st.sampled_from([payload[:at] + new + payload[at + len(new) :], payload[:at] + new, new]))


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Bytes for the range coder, which makes something of nearly any."""
    return random.Random(draw(st.integers(0, 1 << 20))).randbytes(draw(st.sampled_from([3, 8, 99, 400])))


def numbers(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(-most, most), st.integers(-300, 300), st.just(0))


@st.composite
def alignments(draw: st.DrawFn, header: Header) -> Alignment:
    """An alignment that its numbers need not allow."""
    pairs = draw(st.integers(0, 4))
    transform = Transform(*draw(st.lists(numbers(1 << 33), min_size=2 * pairs, max_size=2 * pairs)))
    still = warp.still(header.height, header.width)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    motion = rng.integers(-warp.LIMIT, warp.LIMIT + 1, still.motion.shape).astype(np.int16) * draw(
        st.sampled_from([0, 1])
    )
    gain = st.builds(GainOffset, numbers(1 << 33), numbers(1 << 33))
    radiometry = draw(st.one_of(st.none(), st.tuples(gain, gain, gain)))
    factor = draw(st.integers(1, warp.MAX_FACTOR))
    return Alignment(header.height, header.width, factor, transform, motion, radiometry)


@st.composite
def layers(draw: st.DrawFn, header: Header) -> bytes:
    """The payload of layers of a reference that is there, or not."""
    names = st.sampled_from([header.reference or bytes(6), bytes(6)])
    rng, shape = np.random.default_rng(draw(st.integers(0, 99))), warp.grid(header.height, header.width)
    above = [
        (draw(names), draw(alignments(header)), rng.integers(1, blending.FULL + 1, shape).astype(np.int16))
        for _ in range(draw(st.integers(0, 2)))
    ]
    return blending.pack(draw(st.none() | names), above)


@st.composite
def hostile(draw: st.DrawFn, file: Container) -> Container:
    """A file with a section, or a field of the header, that is another."""
    kind = draw(st.sampled_from([*TABLE, "header", "inside", "warp", "layers"]))
    if kind == "header":
        field, values = draw(
            st.sampled_from(
                [("width", [1, 17, 640]), ("height", [1, 9, 999]), ("quality", [1, 100]), ("scale", [2, 4])]
            )
        )
        return replace(file, header=replace(file.header, **{field: draw(st.sampled_from(values))}))
    if kind == "inside":
        inner = file if file.extra_bands is None else draw(hostile(container.unpack(file.extra_bands)))
        return replace(file, extra_bands=container.pack(inner))
    if kind == "warp":
        return replace(file, alignment=warp.pack(draw(alignments(file.header))))
    if kind == "layers":
        return replace(file, references=draw(layers(file.header)))
    return replace(file, **{kind: draw(changed(getattr(file, kind) or b""))})


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_payloads_are_decoded_or_refused(data: st.DataObject) -> None:
    file, references, net = opened(data.draw(st.sampled_from(NAMES)))
    try:
        written = container.pack(data.draw(hostile(file)))
    except ValueError:  # of a size that no writer writes
        return
    try:
        with refscale_codec.open(written, references, model=net) as reader:
            assert len(reader.shape) in (2, 3)
            assert isinstance(reader.tags, dict)
            assert reader.crs is None or isinstance(reader.crs, str)
            assert reader.transform is None or len(reader.transform) == 6
        opened_file = decoder.Decoder(written, references, net)
        for index in range(len(opened_file.files)):
            low = opened_file._group(index).low
            assert low.lr.shape[:2] == opened_file.file.header.low_res_size
            assert np.isfinite(low.lr).all()
    except RefscaleError as error:
        assert len(str(error).splitlines()) == 1


def test_a_metadata_section_inflates_to_no_more_than_it_says() -> None:
    largest = metadata.pack(metadata.Metadata(icc=bytes(metadata.MAX_BYTES)))
    assert largest is not None and len(largest) < 20_000
    less = largest[:1] + (50_000).to_bytes(3, "little") + largest[4:]
    tracemalloc.start()
    with pytest.raises(ContainerError, match="does not inflate to the 50000 bytes"):
        metadata.unpack(less)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


MEASURED = """
import resource, sys
from pathlib import Path
from refscale_codec import model
from refscale_codec.codec import decoder
from refscale_codec.errors import ContainerError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)

net, before = model.load(Path(sys.argv[2])), peak()
try:
    decoder.decode(Path(sys.argv[1]).read_bytes(), None, net)
except ContainerError:
    print(peak() - before)
"""


def test_latents_take_memory_as_their_payload_goes_on(tmp_path: Path) -> None:
    """A kilobyte that says the picture has 8000 x 8000 pixels, and has its hyper-latents but few of its latents."""
    pytest.importorskip("resource")
    net, coder, each = loaded("learned-alone").low_res, Encoder(), 250 * 250
    assert isinstance(net, GmmCodec)
    for frequency in net.entropy_model.frequency / 65536:
        coder.symbols(np.tile(frequency, (each, 1)), np.full(each, frequency.argmax(), np.int32))
    file = opened("learned-alone")[0]
    header = replace(file.header, width=8000, height=8000)
    forged = container.pack(Container(header, bytes(4) + coder.payload() + bytes(1000), output_hash=file.output_hash))
    (tmp_path / "forged.rsc").write_bytes(forged)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "forged.rsc"), str(make.weights("learned-alone"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300 << 20  # all features and latents take 1.5 GB


def test_files_within_files_are_held_once() -> None:
    """A picture of 255 bands has 85 files, each within the one before."""
    header = Header(64, 64, 2, 1, 50, bytes(6), None)
    nested = container.pack(Container(header, bytes(90_000)))
    for _ in range(83):
        nested = container.pack(Container(header, b"x", extra_bands=nested))
    described = band_section.pack(bands.Bands(np.dtype(np.uint8), 255))
    found, files = decoder.disassemble(Container(header, b"x", bands=described, extra_bands=nested))
    assert (found.depth, len(files)) == (255, 85)
    assert sum(len(file.extra_bands or b"") for file in files) == len(nested)
    assert files[-1].lr == bytes(90_000)


@pytest.mark.parametrize("name", ["alone", "learned-alone"])
def test_weights_that_give_no_numbers_are_named(tmp_path: Path, name: str) -> None:
    """They are finite themselves; what the nets make of them is not."""
    data = make.weights(name).read_bytes()
    tensors = safetensors.torch.load(data)
    extreme = {key: torch.full_like(x, 6e4) if x.is_floating_point() else x for key, x in tensors.items()}
    config = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    path = tmp_path / "extreme.safetensors"
    safetensors.torch.save_file(extreme, path, config)
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    with pytest.raises(WeightsError, match="numbers that are not finite"):
        refscale_codec.encode(picture, model=path)
    fingerprint = weights_files.fingerprint(path)
    file = container.unpack(refscale_codec.encode(picture, model=make.weights(name)))
    forged = container.pack(replace(file, header=replace(file.header, weights=fingerprint)))
    with pytest.raises(WeightsError, match="numbers that are not finite"):
        refscale_codec.decode(forged, model=path)
