"""From a request to an exit code: the job runs under a progress display, and its report is shown."""

from collections.abc import Callable
from typing import TypeVar

from tcae_cli.reports.progress import Progress
from tcae_cli.reports.report import Report
from tcae_cli.terminal.progress import ConsoleProgress
from tcae_cli.terminal.show import show_report

Request = TypeVar("Request")


def run_job(job: Callable[[Request, Progress], Report], request: Request, *, as_json: bool) -> int:
    """Run a job in this process; returns the exit code its report asks for."""
    with ConsoleProgress() as progress:
        report = job(request, progress)
    show_report(report, as_json)
    return report.exit_code
