"""`python -m refscale_codec` is `refscale`."""

from refscale_codec.cli.main import main

main()
