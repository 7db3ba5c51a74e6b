"""What a recipe trains: a rescaler, and the learned low-res codec if it has one; weights to start from and to store."""

import logging
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from refscale_codec import model
from refscale_codec.errors import WeightsError
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.rescale.quantised import floats
from refscale_codec.training import fgrn, flow, untied
from refscale_codec.training.data import Mask, Pixels
from refscale_codec.training.recipe import TrainConfig

_log = logging.getLogger(__name__)
_NAMED = 4  # tensors that a message names

STEPS: dict[str, Callable[..., tuple[Tensor, dict[str, Tensor]]]] = {
    "flow": flow.loss_of,
    "untied": untied.loss_of,
    "fgrn": fgrn.loss_of,
}
"""The training step of each family of rescalers that can be trained, by its kind: the `loss_of` of a rescaler, of the
learned low-res codec or None, of the recipe, a `Crops.marked_batch` and the number of the step."""


class Trained(nn.Module):
    """The nets of a recipe, trained together."""

    def __init__(self, config: TrainConfig) -> None:
        """Build with fresh parameters, drawn from the recipe's seed."""
        super().__init__()
        torch.manual_seed(config.seed)
        self.config = config
        self.rescaler = model.RESCALERS[config.net.kind](config.net)
        self.low_res = None if config.gmm is None else Gmm(config.gmm)
        # not the low-res codec: torch 2.13 crashes in its strided 1x1 convolutions with channels last
        self.rescaler.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(self, batch: tuple[Pixels, Pixels, Mask], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a `Crops.marked_batch` down, through the low-res codec and up.

        Returns:
            The mean loss and, for the log, figures of each crop [b].
        """
        return STEPS[self.config.net.kind](self.rescaler, self.low_res, self.config, batch, step)

    def start_from(self, path: Path) -> None:
        """Take over what has equal name and shape in other weights; tell through `logging` what has not.

        Raises:
            WeightsError: not weights of any net here, or no parameter fits.
        """
        loaded, own = model.load(path), self.state_dict()
        assert isinstance(loaded.rescaler, nn.Module)
        stored = {f"rescaler.{name}": x for name, x in floats(loaded.rescaler.state_dict()).items()}
        if isinstance(loaded.low_res, GmmCodec):
            stored |= {f"low_res.{name}": x for name, x in loaded.low_res.net.state_dict().items()}
        fitting = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
        if fitting.keys().isdisjoint(name for name, _ in self.named_parameters()):
            raise WeightsError(f"nothing in {path} fits the net of the recipe: no parameter has equal name and shape")
        self.load_state_dict(own | fitting)
        left = {
            "of another shape": own.keys() & stored.keys() - fitting.keys(),
            "new in the recipe's net": own.keys() - stored.keys(),
            "only in the file": stored.keys() - own.keys(),
        }
        left_out = [f"{len(names)} {why} ({_abridged(names)})" for why, names in left.items() if names]
        level = logging.WARNING if left_out else logging.INFO
        _log.log(
            level, "%s: took %d tensors of %d; left %s", path, len(fitting), len(own), "; ".join(left_out) or "none"
        )

    def store(self, path: Path) -> None:
        """Write the weights; the rescaler cannot be trained any more."""
        model.store(self.rescaler, path, self.low_res)


def _abridged(names: Collection[str]) -> str:
    """Return the first few of the names of tensors."""
    return ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
