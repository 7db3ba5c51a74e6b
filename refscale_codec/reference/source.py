"""Where the reference of a band group comes from: one value, in the encoder's plan and out of a file."""

from dataclasses import dataclass

from refscale_codec.reference.band_prediction import Prediction
from refscale_codec.reference.warp import Alignment


@dataclass(frozen=True)
class Unused:
    """The group is coded without a reference."""


@dataclass(frozen=True)
class Warped:
    """The same bands of the older picture, moved into place."""

    alignment: Alignment | None
    """None for as it lies, which takes a reference of the picture's size."""


@dataclass(frozen=True)
class Predicted:
    """The picture's first group as it decodes, with the prediction applied."""

    prediction: Prediction


ReferenceSource = Unused | Warped | Predicted
