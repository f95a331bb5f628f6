"""The one place where errors become a line and an exit code."""

import sys
import traceback
from importlib import import_module
from typing import Any

import click

from tcae_cli import __version__
from tcae_cli.errors import TcaeError

_COMMANDS = {
    "train": "Train an autoencoder on a source of images.",
    "finetune": "Train a model further: on other images, at another size, or its decoder alone.",
    "encode-dataset": "Encode a source of images into a store of latents.",
    "decode": "Decode a store's latents back to image files.",
    "export": "Write a store's latents in the files another trainer reads.",
    "info": "Show what a store is, how far it is, and its statistics.",
    "verify": "Check a store's files, and its latents against the images.",
    "eval": "Measure models, stores and images: reconstruction, latents, generation, cost.",
}
INTERRUPTED = 130


class _LazyCommands(click.Group):
    """Knows the commands' names and one-line helps; imports a command when it is called."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(import_module(f"tcae_cli.commands.{module}"), module)
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tcae")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def tcae(debug: bool) -> None:
    """Cache image datasets as TC-AE latents in Zarr stores; train, finetune and measure the autoencoder."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 3 too many failed samples, 130 interrupted."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    # Wherever it stands on the line, since nobody remembers which side of the command it belongs to.
    arguments = [*(["--debug"] if debug else []), *(word for word in arguments if word != "--debug")]
    try:
        result: Any = tcae.main(arguments, prog_name="tcae", standalone_mode=False)
        return int(result or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TcaeError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "\nInterrupted; what is committed stays, and the same command goes on "
            "(training: with --resume; eval: anew).",
            err=True,
        )
        return INTERRUPTED
