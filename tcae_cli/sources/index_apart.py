"""Updates the index of a source in a process of its own."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

from tcae_cli.errors import SourceError, TcaeError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.processes import leave_with_the_parent
from tcae_cli.sources.index_update import PreviousIndex, index_source
from tcae_cli.sources.listing import ignore
from tcae_cli.sources.merged_rows import SourceChanges

_PROGRESS_EVERY_S = 0.2


def index_source_apart(
    uri: str,
    index_dir: Path,
    previous: PreviousIndex | None = None,
    fields: SampleFields = NO_FIELDS,
    on_progress: Callable[[int], None] = ignore,
) -> SourceChanges:
    """Run index_source in a process of its own, whose end gives back the memory that a scan of millions takes.

    The process ends with this one, and on Ctrl-C.
    Raises everything that index_source raises, and SourceError if the process is killed.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_index_and_send, args=(sender, uri, index_dir, previous, fields), daemon=True)
    try:
        with _deaf_to_ctrl_c():
            process.start()
        sender.close()
        while isinstance(message := receiver.recv(), int):
            on_progress(message)
    except EOFError as error:
        process.join()
        raise SourceError(
            f"{uri}: the process that lists its images ended unexpectedly (exit code {process.exitcode}), "
            f"perhaps for lack of memory; repeat the command"
        ) from error
    finally:
        if process.pid:
            process.kill()
            process.join()
        receiver.close()
    if isinstance(message, TcaeError):
        raise message
    assert isinstance(message, SourceChanges)
    return message


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back here, and for good in processes that start meanwhile: they leave it to their parent."""
    resource_tracker.ensure_running()  # lets Ctrl-C through again when it starts
    held_back: list[int] = []
    # The mask is for the new process alone: here a thread of numpy's without it would take the signal.
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: held_back.append(number)) if in_main_thread else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if held_back:
        signal.raise_signal(signal.SIGINT)


def _index_and_send(
    sender: Connection, uri: str, index_dir: Path, previous: PreviousIndex | None, fields: SampleFields
) -> None:
    """Run index_source in its process: send the number of images found so far, at last the changes or the error."""
    threading.Thread(target=leave_with_the_parent, daemon=True).start()
    sent_at = -_PROGRESS_EVERY_S

    def send_now_and_then(number: int) -> None:
        nonlocal sent_at
        if time.monotonic() - sent_at > _PROGRESS_EVERY_S:
            sent_at = time.monotonic()
            sender.send(number)

    try:
        sender.send(index_source(uri, index_dir, previous, fields, send_now_and_then))
    except TcaeError as error:
        sender.send(error)
