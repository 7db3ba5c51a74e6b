"""`python -m refscale_codec` is `refscale`."""

from refscale_codec.cli import main

main()
