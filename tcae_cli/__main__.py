"""`python -m tcae_cli`, as torchrun starts it."""

from tcae_cli.cli import main

if __name__ == "__main__":
    main()
