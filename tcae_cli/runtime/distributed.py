"""Reads the rank of this process and the size of its launch from the environment that a launcher sets.

A launcher is torchrun, Slurm, Open MPI, or anything that sets RANK and WORLD_SIZE, as Kubeflow and Vertex AI do.
"""

import os
import re
from functools import cache
from uuid import uuid4

from tcae_cli.errors import UsageError

_BY_TORCHRUN = ("RANK", "WORLD_SIZE")
_BY_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")


def rank() -> int:
    """Return the number of this process, from 0. Raises UsageError if there are not so many processes."""
    if not in_a_launch():
        return 0
    name, number = _number(*_names()[:1], "SLURM_PROCID")
    if number >= world_size():
        raise UsageError(
            f"{name} is {number} of {world_size()} processes: ranks are numbered from 0 to {world_size() - 1}; "
            f"correct what starts them"
        )
    return number


def world_size() -> int:
    """Return how many processes work together."""
    return _number(*_names()[1:], "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")[1] if in_a_launch() else 1


def local_rank() -> int | None:
    """Return the number of this process on its machine, from 0: the GPU it uses. None if no launcher says it."""
    if not in_a_launch():
        return 0
    names = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"]
    names += ["SLURM_LOCALID"] if _is_step() else []  # a batch script has one too, whatever it starts
    return _number(*names)[1] if any(map(os.environ.get, names)) else None


def local_world_size() -> int:
    """Return how many of the processes share this machine."""
    if not in_a_launch() or local_rank() is None:  # such launchers start one process on a machine, or in a container
        return 1
    names = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    if any(map(os.environ.get, names)):
        return _number(*names)[1]
    tasks: list[int] = []  # of each node: SLURM_STEP_TASKS_PER_NODE "2(x3),1" stands for 2, 2, 2 and 1
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        tasks += [int(number)] * int(times or 1)
    node = int(os.environ.get("SLURM_NODEID", "0"))
    tasks_of_this_node = tasks[node] if node < len(tasks) else None
    return tasks_of_this_node or int(os.environ.get("SLURM_NTASKS_PER_NODE") or world_size())


def in_a_launch() -> bool:
    """Return whether a launcher started this process with others.

    Raises UsageError if there is a RANK without a WORLD_SIZE: such processes would not know of each other.
    """
    if names := _names():
        return _number(names[1])[1] > 1
    if os.environ.get("RANK"):
        raise UsageError("RANK is set and WORLD_SIZE is not; set WORLD_SIZE to the number of processes, or unset RANK")
    return _is_step() and _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")[1] > 1


@cache
def launch_id() -> str:
    """Return a name that the ranks of one launch share, fit for a file name; a single process makes up its own.

    A launch by torchrun with --master-addr and neither --rdzv-id nor Slurm has the same name each time, as has one of
    the same job of Kubernetes that is started again.
    """
    if not in_a_launch():
        return uuid4().hex
    names = ["SLURM_JOB_ID", "SLURM_RESTART_COUNT"]  # a job that Slurm restarts keeps its number
    # torchrun may be a step of its own on each machine.
    names += ["TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE", "MASTER_ADDR", "MASTER_PORT"] if _names() else ["SLURM_STEP_ID"]
    words = "-".join(os.environ[name] for name in names if name in os.environ)
    return re.sub(r"[^\w.-]", "_", words) or "launch"


def _names() -> tuple[str, ...]:
    """Return the names of the rank and of the number of processes; none if Slurm alone may have started them."""
    return next((names for names in (_BY_TORCHRUN, _BY_MPI) if all(map(os.environ.get, names))), ())


def _is_step() -> bool:
    """Return whether srun started this process: a batch script has a rank and a number of tasks too, but no step."""
    return "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ


def _number(*names: str) -> tuple[str, int]:
    """Return the first of these variables that is set, with its value. Raises UsageError if that is not a number."""
    name = next(name for name in names if os.environ.get(name))
    if not os.environ[name].isdecimal():
        raise UsageError(f"{name} is {os.environ[name]!r}, which is not a number; correct what starts the processes")
    return name, int(os.environ[name])
