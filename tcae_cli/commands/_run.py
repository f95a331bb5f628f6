"""From a request to an exit code: the job runs under a progress display, and its report is shown."""

import gc
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tcae_cli.commands._options import Gpus
from tcae_cli.errors import DeviceError, DeviceMemoryError, UsageError
from tcae_cli.reports.progress import Progress, listening
from tcae_cli.reports.report import Report

Request = TypeVar("Request")
DeviceRequest = TypeVar("DeviceRequest", bound="_OnDevice")
AnyReport = TypeVar("AnyReport", bound=Report)


class _OnDevice(Protocol):
    @property
    def device(self) -> str | None: ...


def run_job(job: Callable[[Request, Progress], Report], request: Request, *, as_json: bool) -> int:
    """Run a job in this process; return the exit code that its report asks for."""
    from tcae_cli.terminal.progress import ConsoleProgress  # here, since rich would double the time that --help takes
    from tcae_cli.terminal.show import show_report

    if not gc.isenabled():  # the command line disables it while modules are imported; they need no more visits
        gc.freeze()
        gc.enable()
    with ConsoleProgress() as progress, listening(progress), _with_the_command_that_needs_less():
        report = job(request, progress)
    show_report(report, as_json)
    return report.exit_code


def run_job_on_gpus(
    job: Callable[[DeviceRequest, Progress], AnyReport],
    request: DeviceRequest,
    gpus: Gpus,
    *,
    as_json: bool,
) -> int:
    """Run a job in a process on each of so many GPUs, or in this one where `gpus` is None; return the exit code.

    Where there are no GPUs, "all" of them is this process, on the CPU. Raises UsageError, with the command to type
    here, for more GPUs than are visible.
    """
    if gpus is None:
        return run_job(job, request, as_json=as_json)
    from tcae_cli.runtime.device import num_visible_gpus
    from tcae_cli.runtime.launch import on_gpus

    def merge(reports: Sequence[AnyReport]) -> AnyReport:
        return reports[0].of_ranks(reports)

    visible = num_visible_gpus()
    count = visible if gpus == "all" else gpus
    launched = on_gpus(job, merge, count, request.device)
    if gpus == "all" and not visible:
        return run_job(job, request, as_json=as_json)
    if count > visible:
        found = f"{visible} GPUs are visible here" if visible else "no GPU is visible here"
        command = _this_command({"--gpus": str(visible) if visible else None})
        raise UsageError(f"--gpus {gpus}: {found}; run: {command}")
    return run_job(launched, request, as_json=as_json)


def num_ranks(gpus: Gpus, device: str | None) -> int:
    """Return how many ranks a command would have, whether this machine has as many GPUs or not.

    Raises UsageError as run_job_on_gpus does, but not for more GPUs than are visible.
    """
    from tcae_cli.runtime import distributed
    from tcae_cli.runtime.device import num_visible_gpus
    from tcae_cli.runtime.launch import refuse_gpus

    if gpus is None:
        return distributed.world_size()
    refuse_gpus(device)
    return max(1, num_visible_gpus()) if gpus == "all" else gpus


@contextmanager
def _with_the_command_that_needs_less() -> Iterator[None]:
    """Let running out of device memory end with the command to run instead, where its options are known."""
    try:
        yield
    except DeviceMemoryError as error:
        from tcae_cli.runtime import distributed

        if not error.options:
            raise
        command = _this_command(error.options)
        place = "; let the launcher start" if distributed.in_a_launch() else ""
        raise DeviceError(f"{error}{place}: {command}") from error


def _this_command(options: Mapping[str, str | None]) -> str:
    """Return the command line as it was typed, but with these options: a flag's value is "", and None omits an option.

    A value "key=value" takes the place of one of the same key only.
    """
    line = shlex.join(["tcae", *sys.argv[1:]])
    for option, value in options.items():
        key = re.match(r"[^=]+=", value or "")
        old_value = "" if value == "" else rf"[ =]{re.escape(key[0]) if key else ''}\S+"
        new = "" if value is None else f" {option} {value}".rstrip()
        replaced, count = re.subn(rf" {option}{old_value}(?= |$)", new, line)
        line = replaced if count else line + new
    return line
