"""The command line: imports a command when it is used, and turns errors into a line and an exit code."""

import errno
import gc
import os
import sys
import threading
import traceback
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from tcae_cli import __version__
from tcae_cli.commands._command import heading, write_groups
from tcae_cli.errors import TcaeError
from tcae_cli.runtime.processes import is_in_a_group, leave

_COMMANDS = {
    "train": "Train an autoencoder on a source of images.",
    "finetune": "Train a model further: on other images, at another size, or only its decoder.",
    "encode-dataset": "Encode a source of images into a store of latents.",
    "decode": "Decode the latents of a store back to image files.",
    "export": "Write the latents of a store in the format of another trainer.",
    "push": "Upload a store or a model to the Hugging Face Hub, with a card.",
    "info": "Show what a store holds, how much is finished, and its statistics.",
    "verify": "Check the files of a store, and its latents against the images.",
    "eval": "Measure models, stores and images: reconstruction, latents, generation, cost.",
    "models": "List the autoencoders that --model takes, and which are cached; or show the card of one.",
    "weights": "List the pretrained networks that losses and metrics look through, and fetch them ahead.",
}
FAILED = 1
INTERRUPTED = 130
_TOO_MANY_FILES = os.strerror(errno.EMFILE)  # in what Python, torch and the loader of libraries say


class _LazyCommands(click.Group):
    """A group that knows the names and one-line helps of its commands, and imports a command when it is used."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(import_module(f"tcae_cli.commands.{module}"), module)
        return command

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(heading("Commands")):
            formatter.write_dl(list(_COMMANDS.items()))
        write_groups(self, context, formatter)


_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,  # columns
    "color": False if os.environ.get("NO_COLOR") else None,  # None: where the output is a terminal
}


@click.group(
    cls=_LazyCommands,
    context_settings=_CONTEXT,
    epilog="`tcae COMMAND --help` explains a command and shows examples.",
)
@click.version_option(__version__, prog_name="tcae")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand anywhere on the line.")
def tcae(debug: bool) -> None:
    """Cache image datasets as TC-AE latents in Zarr stores; train, finetune and measure the autoencoder."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 3 too many failed samples, 130 interrupted."""
    _use_utf8()
    gc.disable()  # until the job begins: imports make a million objects that stay, which it would visit repeatedly
    try:
        exit_code = _run(sys.argv[1:])
    except Exception:
        if not is_in_a_group():
            raise
        traceback.print_exc()
        exit_code = FAILED
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if exit_code and (is_in_a_group() or not all(thread.daemon for thread in others)):
        # Python would wait for other ranks, or for a thread in the middle of a read that nobody wants any more: a file
        # of the Hugging Face Hub takes minutes to fetch.
        leave(exit_code)
    sys.exit(exit_code)


def _use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where the locale is of another encoding.

    Names and texts are UTF-8 in every file that is read and written here; a POSIX locale knows ASCII alone.
    """
    if sys.getfilesystemencoding() != "utf-8":
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):  # a name that is not UTF-8, or a terminal that is not
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    # --debug may stand anywhere, since nobody remembers which side of the command it belongs to.
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
    except (KeyboardInterrupt, click.Abort):  # an Abort is a RuntimeError
        click.echo(
            "\nInterrupted. Finished work is kept: repeat the command to resume "
            "(train and finetune: with --resume; eval starts again).",
            err=True,
        )
        return INTERRUPTED
    except (OSError, RuntimeError, ImportError) as error:
        if _TOO_MANY_FILES not in str(error):
            raise
        if debug:
            traceback.print_exc()
        click.echo(f"Error: too many files are open at once ({error}); raise their number with ulimit -n", err=True)
        return FAILED
