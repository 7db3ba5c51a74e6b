"""The reference of a band group: one value, in the encoder's plan and when read from a file."""

from dataclasses import dataclass

from refscale_codec.reference.band_prediction import Prediction
from refscale_codec.reference.warp import Alignment


@dataclass(frozen=True)
class Unused:
    """The group is coded without a reference."""


@dataclass(frozen=True)
class Warped:
    """The same bands of the older picture, warped."""

    alignment: Alignment | None
    """None uses the older picture as it is; it must then have the picture's size."""


@dataclass(frozen=True)
class Predicted:
    """A prediction from the decoded first group of the picture."""

    prediction: Prediction


ReferenceSource = Unused | Warped | Predicted
