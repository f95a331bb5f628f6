"""Commands of tcae as forks of one process that has everything imported: real processes, quick to start.

Reads from its input, and answers by connections to the address that it was given: a process for each run stands
between the two, so that a run that is killed has a parent that says so.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NoReturn

COMMAND = "from tcae_cli.cli import main; main()"


class Run:
    """A command that runs in a process of its own, with what tests use of subprocess.Popen."""

    def __init__(self, task: dict[str, Any], answers: Connection) -> None:
        self.args: list[str] = task["arguments"]
        self.returncode: int | None = None
        self._files = [Path(task[stream]) for stream in ("stdout", "stderr")]
        self._answers = answers
        self.pid: int = answers.recv()

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._wait(0)

    def send_signal(self, how: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, how)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has printed and said, when it has ended."""
        if self._wait(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        printed, said = (file.read_text() for file in self._files)
        return printed, said

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and self._answers.poll(timeout):
            self.returncode = self._answers.recv()
            self._answers.close()
        return self.returncode


class Forks:
    """The process whose forks the commands are; it starts with the first."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process: subprocess.Popen[str] | None = None
        self._listener = Listener()
        self._count = 0

    def start(self, arguments: list[str], environment: Mapping[str, str], program: str = COMMAND) -> Run:
        """Run `tcae` with these arguments, or Python code in its place, in this environment."""
        if self._process is None:
            command = [sys.executable, __file__, str(self._listener.address)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self._count += 1
        files = {stream: str(self._scratch / f"{self._count}.{stream}") for stream in ("stdout", "stderr")}
        task = {
            "program": program,
            "arguments": arguments,
            "environment": dict(environment),
            "folder": os.getcwd(),
            **files,
        }
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return Run(task, self._listener.accept())

    def close(self) -> None:
        """End it."""
        self._listener.close()
        if self._process is not None:
            self._process.communicate(timeout=60)


def free_port() -> int:
    """A port on which ranks can meet."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _serve(address: str) -> None:
    for name in ("encode", "train", "evaluate"):  # once, for all the runs
        import_module(f"tcae_cli.jobs.{name}")

    gc.freeze()
    for line in sys.stdin:
        with suppress(ChildProcessError):  # none of those between is left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            task = json.loads(line)
            if (pid := os.fork()) == 0:
                _be_the_command(task)
            _tell_how_it_ends(pid, address)


def _be_the_command(task: dict[str, Any]) -> None:
    """Become the process of a command, which leaves as a command does."""
    for number, name in enumerate((os.devnull, task["stdout"], task["stderr"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    os.chdir(task["folder"])
    os.environ.clear()
    os.environ.update(task["environment"])
    sys.argv = ["tcae", *task["arguments"]]
    exec(task["program"], {"__name__": "__main__"})
    sys.exit()


def _tell_how_it_ends(pid: int, address: str) -> NoReturn:
    with Client(address) as answers:
        answers.send(pid)
        _, status = os.waitpid(pid, 0)
        answers.send(os.waitstatus_to_exitcode(status))
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
