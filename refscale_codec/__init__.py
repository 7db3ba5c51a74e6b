"""refscale: a codec for places photographed again and again.

Importing the package is cheap and does not import torch; import the module you need, for example
`from refscale_codec.codec import encoder`.
"""

__version__ = "0.1.0"
