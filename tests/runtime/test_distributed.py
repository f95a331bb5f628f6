"""Which rank a process is, by the environment of the launchers."""

import os

import pytest

from tcae_cli.runtime import distributed

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "run",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "42",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "2(x2),1",
}
SRUN = BATCH_SCRIPT | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.fixture
def environment(monkeypatch):
    """Puts variables in place of what launchers set here."""

    def put(variables: dict[str, str]) -> None:
        distributed.launch_id.cache_clear()
        for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in TORCHRUN]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    yield put
    distributed.launch_id.cache_clear()


def place() -> tuple[int, int, int, int]:
    return (
        distributed.rank(),
        distributed.world_size(),
        distributed.local_rank(),
        distributed.local_world_size(),
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 0, 1)),
        (TORCHRUN, (3, 4, 1, 2)),
        (SRUN, (3, 5, 1, 2)),
        (SRUN | {"SLURM_PROCID": "4", "SLURM_NODEID": "2", "SLURM_LOCALID": "0"}, (4, 5, 0, 1)),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, (0, 1, 0, 1)),  # `srun --ntasks 1` in a job of five
        (BATCH_SCRIPT, (0, 1, 0, 1)),  # without srun there is one process, whatever the job may start
        (BATCH_SCRIPT | TORCHRUN, (3, 4, 1, 2)),
        (SRUN | TORCHRUN, (3, 4, 1, 2)),  # `srun torchrun`
    ],
)
def test_the_launcher_says_which_rank_this_is(environment, variables, expected):
    environment(variables)
    assert place() == expected
    assert distributed.in_a_launch() == (expected[1] > 1)


def test_what_slurm_says_per_node_stands_in_for_what_it_says_of_the_step(environment):
    variables = {name: SRUN[name] for name in ("SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")}
    environment(variables | {"SLURM_NTASKS_PER_NODE": "4"})
    assert place() == (3, 5, 1, 4)
    environment(variables)
    assert place() == (3, 5, 1, 5)


def launch_id(environment, *variables: dict[str, str]) -> str:
    environment({name: value for each in variables for name, value in each.items()})
    return distributed.launch_id()


@pytest.mark.parametrize(
    ("launch", "other_rank"),
    [
        (TORCHRUN, {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "1"}),
        (SRUN, {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}),
        (SRUN | TORCHRUN, {"RANK": "0", "SLURM_PROCID": "0", "SLURM_STEP_ID": "1"}),  # a step on each machine
    ],
)
def test_ranks_of_a_launch_share_its_name(environment, launch, other_rank):
    assert launch_id(environment, launch) == launch_id(environment, launch, other_rank)


@pytest.mark.parametrize(
    ("launch", "next_launch"),
    [
        (TORCHRUN, {"TORCHELASTIC_RUN_ID": "another"}),
        (TORCHRUN, {"MASTER_PORT": "29501"}),
        (SRUN, {"SLURM_JOB_ID": "43"}),
        (SRUN, {"SLURM_STEP_ID": "1"}),
        (SRUN, {"SLURM_RESTART_COUNT": "1"}),  # of the same job
        (SRUN | TORCHRUN, {"SLURM_JOB_ID": "43"}),
        ({}, {}),
    ],
)
def test_the_next_launch_has_another_name(environment, launch, next_launch):
    assert launch_id(environment, launch) != launch_id(environment, launch, next_launch)


def test_the_name_of_a_launch_is_fit_for_a_file(environment):
    assert launch_id(environment, TORCHRUN, {"TORCHELASTIC_RUN_ID": "me/run:1"}) == "me_run_1-10.0.0.1-29500"
    assert launch_id(environment, {"RANK": "0", "WORLD_SIZE": "2"}) == "launch"
