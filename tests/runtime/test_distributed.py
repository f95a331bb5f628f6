"""Which rank a process is, by the environment of the launchers."""

import os

import pytest
import torch

from tcae_cli.errors import UsageError
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device

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
KUBEFLOW = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}  # Vertex AI too
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-head-7@1",
}


@pytest.fixture
def environment(monkeypatch):
    """Puts variables in place of what launchers set here."""

    def put(variables: dict[str, str]) -> None:
        distributed.launch_id.cache_clear()
        launchers = ("SLURM_", "TORCHELASTIC_", "OMPI_", "PMIX_")
        for name in [name for name in os.environ if name.startswith(launchers) or name in TORCHRUN]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    yield put
    distributed.launch_id.cache_clear()


def place() -> tuple[int, int, int | None, int]:
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
        (KUBEFLOW, (3, 4, None, 1)),
        (KUBEFLOW | {"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0, 1)),
        (KUBEFLOW | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, (3, 4, 1, 2)),
        (KUBEFLOW | {"LOCAL_RANK": ""}, (3, 4, None, 1)),  # as templates leave it
        (SRUN | {"RANK": "3", "WORLD_SIZE": "5"}, (3, 5, 1, 2)),  # set by a script that srun starts
        (BATCH_SCRIPT | KUBEFLOW, (3, 4, None, 1)),  # set by a loop in a batch script
        (MPIRUN, (3, 4, 1, 2)),
        (MPIRUN | {"RANK": "3", "WORLD_SIZE": "4"}, (3, 4, 1, 2)),
        ({"WORLD_SIZE": "4"}, (0, 1, 0, 1)),  # a name that scripts use for themselves
    ],
)
def test_the_launcher_says_which_rank_this_is(environment, variables, expected):
    environment(variables)
    assert place() == expected
    assert distributed.in_a_launch() == (expected[1] > 1)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "1"}, "RANK is set and WORLD_SIZE is not; set WORLD_SIZE to the number of processes, or unset RANK"),
        (KUBEFLOW | {"RANK": "4"}, "RANK is 4 of 4 processes: ranks are numbered from 0 to 3; correct what starts"),
        (KUBEFLOW | {"RANK": "one"}, "RANK is 'one', which is not a number; correct what starts the processes"),
        (KUBEFLOW | {"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', which is not a number"),
        (KUBEFLOW | {"LOCAL_RANK": "a"}, "LOCAL_RANK is 'a', which is not a number"),
    ],
)
def test_a_place_that_cannot_be_is_wrong_use(environment, variables, words):
    environment(variables)
    with pytest.raises(UsageError, match=words):
        place()


@pytest.mark.parametrize(
    ("variables", "num_visible", "gpu"),
    [
        ({}, 8, "cuda:0"),
        (TORCHRUN, 8, "cuda:1"),
        (SRUN, 4, "cuda:1"),
        (SRUN, 1, "cuda:0"),  # each task sees its own alone
        (SRUN | TORCHRUN, 1, "cuda:0"),
        (TORCHRUN, 1, "cuda:0"),  # a script that it starts sets CUDA_VISIBLE_DEVICES
        (MPIRUN, 1, "cuda:0"),
        (KUBEFLOW, 1, "cuda:0"),
        (KUBEFLOW | {"RANK": "0", "WORLD_SIZE": "1"}, 8, "cuda:0"),
    ],
)
def test_a_rank_uses_the_gpu_that_is_its_own(environment, monkeypatch, variables, num_visible, gpu):
    environment(variables)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_visible)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert str(choose_device(None)) == str(choose_device("cuda")) == gpu


def test_a_rank_that_does_not_know_its_gpu_says_how_to_start_it(environment, monkeypatch):
    environment(KUBEFLOW)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    words = (
        "which of the 8 GPUs here is this rank's is unknown; set LOCAL_RANK, .* --node-rank .RANK --nproc-per-node 8"
    )
    with pytest.raises(UsageError, match=words):
        choose_device(None)
    assert choose_device("cpu").type == "cpu"


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
        (KUBEFLOW, {"RANK": "0"}),
        (MPIRUN, {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}),
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
        (KUBEFLOW, {"MASTER_ADDR": "another-master-0"}),
        (MPIRUN, {"PMIX_NAMESPACE": "prterun-head-8@1"}),
        ({}, {}),
    ],
)
def test_the_next_launch_has_another_name(environment, launch, next_launch):
    assert launch_id(environment, launch) != launch_id(environment, launch, next_launch)


def test_the_name_of_a_launch_is_fit_for_a_file(environment):
    assert launch_id(environment, TORCHRUN, {"TORCHELASTIC_RUN_ID": "me/run:1"}) == "me_run_1-10.0.0.1-29500"
    assert launch_id(environment, {"RANK": "0", "WORLD_SIZE": "2"}) == "launch"
