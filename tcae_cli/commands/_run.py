"""From a request to an exit code: the job runs under a progress display, and its report is shown."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from tcae_cli.reports.progress import Progress
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

    with ConsoleProgress() as progress:
        report = job(request, progress)
    show_report(report, as_json)
    return report.exit_code


def run_job_on_gpus(
    job: Callable[[DeviceRequest, Progress], AnyReport], request: DeviceRequest, gpus: int | None, *, as_json: bool
) -> int:
    """Run a job in a process on each of so many GPUs, or in this one where `gpus` is None; return the exit code."""
    if gpus is None:
        return run_job(job, request, as_json=as_json)
    from tcae_cli.runtime.launch import on_gpus

    def merge(reports: Sequence[AnyReport]) -> AnyReport:
        return reports[0].of_ranks(reports)

    return run_job(on_gpus(job, merge, gpus, request.device), request, as_json=as_json)
