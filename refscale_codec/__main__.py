"""`python -m refscale_codec` is `refscale`."""

from refscale_codec.cli import interrupt


def main() -> None:
    """Run the command line; Ctrl-C is caught from here on, before anything that takes time is imported."""
    with interrupt.told():
        from refscale_codec.cli import memory

        with memory.told():
            from refscale_codec.cli.main import main as run

            run()


if __name__ == "__main__":
    main()
