"""Reads the rank of this process and the size of its launch from the environment that torchrun or Slurm sets."""

import os
import re
from functools import cache
from uuid import uuid4


def rank() -> int:
    """Return the number of this process, from 0."""
    return _first_number("RANK", "SLURM_PROCID") if in_a_launch() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return _first_number("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if in_a_launch() else 1


def local_rank() -> int:
    """Return the number of this process on its machine, from 0: the GPU it uses."""
    return _first_number("LOCAL_RANK", "SLURM_LOCALID") if in_a_launch() else 0


def local_world_size() -> int:
    """Return how many of the processes share this machine."""
    if not in_a_launch():
        return 1
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    tasks: list[int] = []  # of each node: SLURM_STEP_TASKS_PER_NODE "2(x3),1" stands for 2, 2, 2 and 1
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        tasks += [int(number)] * int(times or 1)
    node = int(os.environ.get("SLURM_NODEID", "0"))
    tasks_of_this_node = tasks[node] if node < len(tasks) else None
    return tasks_of_this_node or int(os.environ.get("SLURM_NTASKS_PER_NODE") or world_size())


def in_a_launch() -> bool:
    """Return whether torchrun, or srun with several tasks, started this process."""
    if _by_torchrun():
        return True
    # A batch script has a rank and a number of tasks too, but is not a step: it is a single process.
    is_step = "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ
    return is_step and int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", "1")) > 1


@cache
def launch_id() -> str:
    """Return a name that the ranks of one launch share, fit for a file name; a single process makes up its own.

    A launch by torchrun with --master-addr and neither --rdzv-id nor Slurm has the same name each time.
    """
    if not in_a_launch():
        return uuid4().hex
    names = ["SLURM_JOB_ID", "SLURM_RESTART_COUNT"]  # a job that Slurm restarts keeps its number
    # torchrun may be a step of its own on each machine.
    names += ["TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"] if _by_torchrun() else ["SLURM_STEP_ID"]
    words = "-".join(os.environ[name] for name in names if name in os.environ)
    return re.sub(r"[^\w.-]", "_", words) or "launch"


def _by_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _first_number(*names: str) -> int:
    return next(int(os.environ[name]) for name in names if name in os.environ)
