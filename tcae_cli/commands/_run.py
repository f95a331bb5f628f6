"""From a request to an exit code: the job runs under a progress display, and its report is shown."""

from collections.abc import Callable
from typing import TypeVar

from tcae_cli.console import ConsoleProgress, show_report
from tcae_cli.report import Progress, Report

Request = TypeVar("Request")


def run_job(job: Callable[[Request, Progress], Report], request: Request, *, as_json: bool) -> int:
    """Run a job in this process; returns the exit code its report asks for."""
    with ConsoleProgress() as progress:
        report = job(request, progress)
    show_report(report, as_json)
    return report.exit_code
