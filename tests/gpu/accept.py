"""Accepts a GPU: runs sections that measure and check tcae on it, and prints beside each figure what was expected.

    python -m tests.gpu.accept [--cpu] [--small] [--minutes M] [--out FOLDER] [SECTION ...]

Every section runs in a process of its own and under its own time limit, so that one that fails or hangs costs itself
alone. When it ends, its line is appended to OUT/acceptance.jsonl, which gpu-acceptance.json beside it holds as a list;
OUT/SECTION.log holds whatever a section printed. The exit code is 1 if any section failed.

Nothing is downloaded: images are cut from photographs that come with scikit-image, and weights are random.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.gpu.findings import Findings, Setting

SECTIONS = {  # seconds that each may take, several times what it should take on an H100
    "inputs": 45,
    "machine": 45,
    "encode": 150,
    "precision": 60,
    "model": 90,
    "dc_ae": 60,
    "train": 120,
    "finetune": 60,
    "evaluate": 45,
    "downstream": 60,
    "train_compiled": 150,  # compiling takes longest, and comes last, in case that the time does not suffice
    "ranks": 120,
}
_SMALL_LIMIT_S = 300  # of each at toy size, on machines that do other things too
_MINUTES = 8.0  # all sections together
_IMPORTED_LATE = (
    "tcae_cli.jobs.quantisation",
    "torchmetrics.functional.image",
)  # by the commands, which start faster so

Line = dict[str, Any]
Section = Callable[[Setting, Findings], None]


def main() -> int:
    """Run the sections that the command line asks for; return the exit code."""
    started_at = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.accept")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"one of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU")
    parser.add_argument("--small", action="store_true", help="toy sizes, to try the sections themselves")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="time for all sections; default: %(default)g")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for the results")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section is named {min(unknown)}; there are {', '.join(SECTIONS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    ends_at = started_at + 60 * options.minutes

    for module in (*map(_module, SECTIONS), *_IMPORTED_LATE):
        with suppress(ImportError):  # imported once for all; a section that cannot be imported fails by itself
            importlib.import_module(module)
    with TemporaryDirectory(prefix="tcae-accept-") as folder:
        setting = Setting(device="cpu" if options.cpu else "cuda", small=options.small, folder=Path(folder))
        lines = run_sections(options.sections or list(SECTIONS), setting, options.out, ends_at)
    (options.out / "gpu-acceptance.json").write_text(json.dumps(lines, indent=1) + "\n")
    failed = [line["section"] for line in lines if not line["ok"]]
    print(
        f"{len(lines) - len(failed)} of {len(lines)} sections passed{'; failed: ' if failed else ''}{', '.join(failed)}"
    )
    return 1 if failed else 0


def run_sections(names: Sequence[str], setting: Setting, out: Path, ends_at: float) -> list[Line]:
    """Run sections one after the other until the clock of time.monotonic shows ends_at; return their lines."""
    machine = _ask(setting.machine)
    lines = []
    for name in names:
        limit_s = min(setting.choose(SECTIONS[name], _SMALL_LIMIT_S), ends_at - time.monotonic())
        line = {"section": name, "machine": machine, "small": setting.small}
        line |= run_section(name, _section, setting, limit_s, out / f"{name}.log")
        with (out / "acceptance.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print("\n".join(describe(line)), flush=True)
        lines.append(line)
    return lines


def _ask(question: Callable[[], str]) -> str:
    """Return the answer of a process of its own: this one must not touch the GPU, or its sections could not."""
    answer, asked = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=lambda: asked.send(question()))
    process.start()
    asked.close()
    try:
        return str(answer.recv())
    except EOFError:
        sys.exit("no GPU answers here; use --cpu")
    finally:
        process.join()


def _section(name: str) -> Section:
    section: Section = importlib.import_module(_module(name)).run
    return section


def _module(name: str) -> str:
    return f"tests.gpu.sections.{name}"


def run_section(name: str, find: Callable[[str], Section], setting: Setting, limit_s: float, log: Path) -> Line:
    """Run a section in a process of its own, for limit_s seconds at most; return what became of it."""
    findings = Findings(setting.folder / f"{name}.findings")
    if limit_s <= 0:
        return {"ok": False, "error": "not run: the time for all sections is over", "seconds": 0.0, "findings": []}
    started_at = time.monotonic()
    process = get_context("fork").Process(target=_run, args=(name, find, setting, findings, log))
    process.start()
    process.join(limit_s)
    elapsed_s = time.monotonic() - started_at
    is_late = process.is_alive()
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)  # also the processes that it started
    process.join()

    error = None
    if is_late:
        error = f"took longer than its limit of {limit_s:.3g} s"
    elif process.exitcode:
        error = (log.read_text().splitlines() or [f"ended with exit code {process.exitcode}"])[-1]
    found = findings.read()
    ok = error is None and all(finding["ok"] is not False for finding in found)
    return {"ok": ok, "error": error, "seconds": round(elapsed_s, 1), "findings": found}


def _run(name: str, find: Callable[[str], Section], setting: Setting, findings: Findings, log: Path) -> None:
    """Run a section in this process, which becomes the first of a session, and whose output goes to the log."""
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    setting.prepare()
    find(name)(setting, findings)


def describe(line: Line) -> Sequence[str]:
    """Return a section's line as text: its outcome, and below it each finding beside what was expected."""
    outcome = "ok" if line["ok"] else "FAILED"
    texts = [f"{line['section']}: {outcome} in {line['seconds']:g} s on {line['machine']}"]
    for finding in line["findings"]:
        value = f"{finding['value']:,}" if isinstance(finding["value"], int | float) else finding["value"]
        expected = f" (expected: {finding['expected']})" if finding["expected"] else ""
        mark = " <- not met" if finding["ok"] is False else ""
        texts.append(f"    {finding['name']}: {value}{expected}{mark}")
    return [*texts, f"    {line['error']}"] if line["error"] else texts


if __name__ == "__main__":
    sys.exit(main())
