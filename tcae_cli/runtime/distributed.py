"""Which rank of how many this process is, read from what torchrun or Slurm put into the environment."""

import os
from functools import cache
from uuid import uuid4


def rank() -> int:
    """Number of this process, from 0."""
    return _first_number("RANK", "SLURM_PROCID") if in_a_launch() else 0


def world_size() -> int:
    """How many processes work together."""
    return _first_number("WORLD_SIZE", "SLURM_NTASKS") if in_a_launch() else 1


def local_rank() -> int:
    """Number of this process on its machine, from 0: which GPU is its own."""
    return _first_number("LOCAL_RANK", "SLURM_LOCALID") if in_a_launch() else 0


def local_world_size() -> int:
    """How many of the processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or world_size())


def in_a_launch() -> bool:
    """Whether torchrun, or srun with several tasks, started this process."""
    slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return ("RANK" in os.environ and "WORLD_SIZE" in os.environ) or slurm


@cache
def launch_id() -> str:
    """A name the ranks of one launch share; a process that stands alone makes up its own."""
    if not in_a_launch():
        return uuid4().hex
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    return "-".join(os.environ[name] for name in names if name in os.environ) or "launch"


def _first_number(*names: str) -> int:
    return next(int(os.environ[name]) for name in names if name in os.environ)
