"""Layers of integers: trained with the quantiser in the loop, run exactly afterwards.

Activations are integers of 8 bits, weights integers of 8 bits times a power of two per output channel, biases multiples
of that power. A convolution's sum stays below 2^24 units (`integers` sees to it, and `IntegerConv` refuses others), so
that float32 accumulates it without rounding in any order: on any machine, with any number of threads. Between layers
values are rounded to bfloat16, to nearest even, which is what a bfloat16 convolution with float32 accumulation does by
itself.

So the same integers may be carried in bfloat16, or in float32 or float64 and rounded to bfloat16 after each operation
(`carried`): the bits are equal. Between bfloat16, convolutions are computed on 8-bit integers where torch can do that
without saturating, and is faster so (`in_eight_bits`; AVX-512 VNNI and AMX: four times as fast as float32), else in
bfloat16. Every operation is one of IEEE 754's on single elements, or such a convolution; there is no exp, tanh or
division by what was computed.
"""

import copy
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_log = logging.getLogger(__name__)

LIMIT = 127
"""Bound on the magnitude of a signed activation and of a weight, in units."""
LEAK = 1 / 4
"""Slope of the rectifier below zero. With none, most channels end as 0 for all pictures (docs/decisions/nets.md)."""
LOWEST, HIGHEST = -64, 191
"""Range of an activation after a rectifier, in units: as many as 8 bits tell apart."""
EXACT_SUM = 1 << 24
"""Up to here float32 holds all integers."""
BIAS_UNIT = 128
"""A bias parameter of 1 is so many units of activation: it learns at the pace of the weights."""
BIAS_BITS = 22
"""Biases have at most so many bits: where weights are tiny, their power of two is that of the bias."""


class _Quantise(torch.autograd.Function):
    """Round to integers and clip; the gradient passes inside of the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        y = x.clamp(low, high).round_()
        ctx.save_for_backward(y)
        ctx.range = (low, high)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], y, *ctx.range), None, None


class _Carry(torch.autograd.Function):
    """Round to what bfloat16 holds; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def activations(x: Tensor, rectifies: bool) -> Tensor:
    """Return `x`, of any shape, as integers: rectified in `LOWEST`..`HIGHEST`, else in -127..127."""
    bounds = (LOWEST, HIGHEST) if rectifies else (-LIMIT, LIMIT)
    x = functional.leaky_relu(x, LEAK) if rectifies else x
    result: Tensor = _Quantise.apply(x, *bounds)  # type: ignore[no-untyped-call]
    return result


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """Return `value` with the gradient of `x`."""
    return x + (value - x).detach()


def carried(x: Tensor) -> Tensor:
    """Return `x`, of any shape, rounded to what bfloat16 holds, in its own type; the gradient passes as it is."""
    if x.dtype == torch.bfloat16:
        return x
    result: Tensor = _Carry.apply(x)  # type: ignore[no-untyped-call]
    return result


@cache
def fastest_carrier(device: torch.device) -> torch.dtype:
    """Return the type that carries the integers of exact nets faster here: the pixels are the same."""
    layer = IntegerConv(64, 64).to(device)
    return _faster(layer, (1, 64, 96, 96), device)


@cache
def faster_float(device: torch.device) -> torch.dtype:
    """Return the type in which convolutions of floats are faster here, as in training."""
    with torch.random.fork_rng([]):  # what a training draws must not depend on whether this was asked before
        layer = nn.Conv2d(64, 64, 3, padding=1)
    layer = layer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    layers = {dtype: copy.deepcopy(layer).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return _faster(lambda x: layers[x.dtype](x), (1, 64, 96, 96), device)


def _faster(work: Callable[[Tensor], Tensor], shape: tuple[int, ...], device: torch.device) -> torch.dtype:
    """Return float32 or bfloat16, whichever some work on a tensor takes less time in."""
    inputs = (torch.ones(shape, device=device, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    taken = {x.dtype: _seconds(work, x.contiguous(memory_format=torch.channels_last)) for x in inputs}
    return min(taken, key=lambda dtype: taken[dtype])


@torch.inference_mode()
def _seconds(work: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return the time that some work on a tensor takes: the shortest of some, since other work may disturb."""
    shortest = math.inf
    for _ in range(6):
        start = time.perf_counter()
        float(work(x)[0, 0, 0, 0])
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


class EightBits:
    """A convolution on 8-bit integers by oneDNN, rounded to bfloat16: the same as the other ways of computing it."""

    def __init__(self, weight: Tensor, bias: Tensor, step: Tensor, rectifies: bool) -> None:
        """Pack an `IntegerConv` for one processor.

        Args:
            weight: [out, in, 3, 3] in int8.
            bias: [out] in float32, in units of activation.
            step: [out], what a weight of 1 stands for.
            rectifies: whether activations are `LOWEST`..`HIGHEST`, else -127..127.
        """
        self.offset = -LOWEST if rectifies else 128  # what is added to activations so that they are 0..255
        self.bias, self.step = bias, step
        self.zeros = torch.zeros(len(step), dtype=torch.int64)
        self.weight = torch.ops.onednn.qconv_prepack(weight, step, 1.0, self.offset, *self._PLACES, 1, None)

    _PLACES = [1, 1], [1, 1], [1, 1]  # stride, padding, dilation

    def __call__(self, x: Tensor) -> Tensor:
        """Map integers, in bfloat16 or a larger type, to the convolution rounded to bfloat16."""
        shift = self.offset - 128  # to int8, since to uint8 would be several times slower
        inputs = (x + shift if shift else x).to(torch.int8).view(torch.uint8) + 128
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            *(inputs, 1.0, self.offset, self.weight, self.step, self.zeros, self.bias, *self._PLACES, 1),
            *(1.0, 0, torch.bfloat16, "none", [], ""),
        )
        return result


class _Convolve(torch.autograd.Function):
    """A convolution by `EightBits`; the gradients are the float's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, packed: EightBits) -> Tensor:
        ctx.save_for_backward(x, weight)
        return packed(x).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        places = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        return *torch.ops.aten.convolution_backward(
            gradients[0], x, weight, [len(weight)], *places, ctx.needs_input_grad[:3]
        ), None


@cache
def in_eight_bits(device: torch.device) -> bool:
    """Return whether `EightBits` is exact here and faster than float32; the pixels are the same without it.

    Without AVX-512 VNNI, oneDNN may fall back to an implementation without vector instructions.
    """
    if not exact_in_eight_bits(device):
        return False
    shapes = (1, 64, 16, 16), (64, 64, 3, 3)
    x, weight = (torch.ones(shape).contiguous(memory_format=torch.channels_last) for shape in shapes)
    in_floats = partial(functional.conv2d, weight=weight, bias=torch.ones(64), padding=1)
    return _seconds(EightBits(weight.to(torch.int8), torch.ones(64), torch.ones(64), False), x) < _seconds(in_floats, x)


def exact_in_eight_bits(device: torch.device) -> bool:
    """Return whether `EightBits` works here and is exact: without VNNI, processors add with saturation.

    If not, the same pixels are computed in another way, so whatever the operators raise is a reason, and logged.
    """
    if device.type != "cpu":
        return False
    draw = torch.Generator().manual_seed(1)
    for rectifies, channels in itertools.product((False, True), (5, 64, 96)):
        low, high = (LOWEST, HIGHEST) if rectifies else (-LIMIT, LIMIT)
        x = torch.randint(low, high + 1, (1, channels, 12, 12), generator=draw)
        x[..., 6:, :] = high  # as large as can be, beside weights as large
        weight = torch.randint(-LIMIT, LIMIT + 1, (16, channels, 3, 3), generator=draw)
        weight[8:] = LIMIT - 30
        step, bias = torch.full((16,), 0.25), torch.full((16,), 3.0)
        wanted = functional.conv2d(x.double(), weight.double() / 4, bias.double(), padding=1).float().bfloat16()
        inputs = x.bfloat16().contiguous(memory_format=torch.channels_last)
        try:
            computed = EightBits(weight.to(torch.int8), bias, step, rectifies)(inputs)
        except (AttributeError, RuntimeError) as error:  # no such operator in this build; it does not run here
            _log.info("no convolutions of 8-bit integers: %s", " ".join(str(error).split())[:200])
            return False
        if not torch.equal(computed, wanted):
            return False
    return True


def integers(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights and biases as integers, and their powers of two.

    Args:
        weight: [out, in, 3, 3].
        bias: [out], in `BIAS_UNIT` units of activation.

    Returns:
        The weights in -127..127, the biases, both in float32, and the exponents e [out]: what they stand for is
        integer x 2^e. A bias times 2^e is a number of bfloat16.
    """
    magnitudes = weight.abs()
    highest = magnitudes.amax(dim=(1, 2, 3)).clamp(min=2.0**-20)
    offset = (BIAS_UNIT * bias).bfloat16().float()
    rounding = HIGHEST * weight[0].numel() / 2 + 1  # what it may add to a sum
    summed = HIGHEST * magnitudes.sum(dim=(1, 2, 3)) + offset.abs()
    least = torch.maximum(highest / LIMIT, summed / (EXACT_SUM - rounding))
    least = torch.maximum(least, (offset.abs() + 2.0**-40) / (1 << BIAS_BITS))
    exponent = torch.ceil(torch.log2(least))
    step = torch.exp2(exponent)
    whole = (weight / step[:, None, None, None]).round().clamp(-LIMIT, LIMIT)
    return whole, (offset / step).round(), exponent


class QuantisedConv(nn.Module):
    """A 3x3 convolution of integer activations in training: float parameters, used as `integers` makes them."""

    def __init__(self, channels_in: int, channels_out: int, gain: float = 1.0, *, rectifies: bool = False) -> None:
        """Build it with torch's usual initial weights, times `gain`.

        Activations are `LOWEST`..`HIGHEST` if it rectifies, else -127..127: its inputs are rounded and clipped to
        that.
        """
        super().__init__()
        self.rectifies = rectifies
        start = nn.Conv2d(channels_in, channels_out, 3, padding=1).weight.detach()
        self.weight = nn.Parameter(gain * start)
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, channels_in, h, w] to [b, channels_out, h, w], rounded to bfloat16; the gradient is the float's."""
        x = activations(x, self.rectifies)
        with torch.no_grad():
            whole, offset, exponent = integers(self.weight, self.bias)
            step = torch.exp2(exponent)
            weight, exact_bias = whole * step[:, None, None, None], offset * step
        weight = straight_through(weight, self.weight).to(x.dtype)
        bias = straight_through(exact_bias, BIAS_UNIT * self.bias).to(x.dtype)
        if in_eight_bits(x.device):
            packed = EightBits(whole.to(torch.int8), exact_bias, step, self.rectifies)
            result: Tensor = _Convolve.apply(x, weight, bias, packed)  # type: ignore[no-untyped-call]
            return result
        return carried(functional.conv2d(x, weight, bias, padding=1))

    def exact(self) -> "IntegerConv":
        """Return the layer that does the same from integers alone."""
        layer = IntegerConv(self.weight.shape[1], self.weight.shape[0], rectifies=self.rectifies)
        whole, offset, exponent = integers(self.weight.detach(), self.bias.detach())
        layer.load_state_dict(
            {"weight": whole.to(torch.int8), "bias": offset.int(), "exponent": exponent.to(torch.int8)}
        )
        return layer


class IntegerConv(nn.Module):
    """A 3x3 convolution of integer activations for inference: its state is integers."""

    def __init__(self, channels_in: int, channels_out: int, *, rectifies: bool = False) -> None:
        """Build it with zeros, to be filled by `load_state_dict`; see `QuantisedConv`."""
        super().__init__()
        self.rectifies = rectifies
        self.weight: Tensor
        self.bias: Tensor
        self.exponent: Tensor
        self.register_buffer("weight", torch.zeros(channels_out, channels_in, 3, 3, dtype=torch.int8))
        self.register_buffer("bias", torch.zeros(channels_out, dtype=torch.int32))
        self.register_buffer("exponent", torch.zeros(channels_out, dtype=torch.int8))
        self._ready: tuple[tuple[torch.dtype, torch.device], Callable[[Tensor], Tensor]] | None = None

    def largest_sum(self) -> int:
        """Return a bound on any partial sum in units, whatever the activations are."""
        sums = self.weight.long().abs().sum(dim=(1, 2, 3)) * HIGHEST + self.bias.long().abs()
        return int(sums.max())

    def require_exact(self) -> None:
        """Raise a ValueError if a sum might not be exact."""
        if self.largest_sum() > EXACT_SUM:
            raise ValueError("the weights of an integer convolution are so large that sums are not exact")

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, channels_in, h, w] to [b, channels_out, h, w], rounded to bfloat16, in the type of `x`.

        Raises:
            ValueError: a sum might not be exact.
        """
        key = x.dtype, x.device
        if self._ready is None or self._ready[0] != key:
            self.require_exact()
            self._ready = key, self._prepared(*key)
        return carried(self._ready[1](activations(x, self.rectifies)))

    def _prepared(self, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the convolution of integers in a type."""
        step = torch.tensor([2.0**e for e in self.exponent.tolist()], device=device)
        bias = self.bias.to(device).float() * step
        if dtype == torch.bfloat16 and in_eight_bits(device):
            return EightBits(self.weight, bias, step, self.rectifies)
        weight = (self.weight.to(device).float() * step[:, None, None, None]).to(dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return partial(functional.conv2d, weight=weight, bias=bias.to(dtype), padding=1)


class QuantisedBlock(nn.Module):
    """Residual block on a state in bfloat16: two convolutions of 8-bit integers beside the identity."""

    def __init__(self, width: int) -> None:
        """Build for `width` channels."""
        super().__init__()
        self.first: nn.Module = QuantisedConv(width, width, 1.7)
        self.second: nn.Module = QuantisedConv(width, width, 0.3, rectifies=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus the residual, rounded to bfloat16: [b, width, h, w]."""
        return carried(x + self.second(self.first(x)))


def floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what training may go on from: the state of an exact net, its integers as the floats they stand for."""
    result = {name: x.float() for name, x in state.items() if x.is_floating_point()}
    for name, exponent in state.items():
        layer, _, last = name.rpartition(".")
        if last == "exponent":
            step = torch.exp2(exponent.float())
            result[f"{layer}.weight"] = state[f"{layer}.weight"].float() * step[:, None, None, None]
            result[f"{layer}.bias"] = state[f"{layer}.bias"].float() * step / BIAS_UNIT
    return result


def make_exact(net: nn.Module) -> None:
    """Replace every `QuantisedConv` inside of `net` by its `IntegerConv`."""
    for name, child in net.named_children():
        if isinstance(child, QuantisedConv):
            setattr(net, name, child.exact())
        else:
            make_exact(child)
