"""Several ranks of one job, as `--gpus` starts them; here on the CPU."""

import multiprocessing
import os
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from tcae_cli.errors import DeviceError, SourceError, UsageError
from tcae_cli.reports.encode import EncodeReport
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime import distributed
from tcae_cli.runtime.launch import on_gpus, run_ranks
from tcae_cli.runtime.process_group import naming_a_lost_rank, process_group, wait_for_all_ranks


class Recording(Silent):
    def __init__(self):
        self.said, self.started, self.advanced = [], [], 0

    def start(self, task, total, done=0, unit="images"):
        self.started.append((task, total, done))

    def advance(self, count=1, failed=0, note=""):
        self.advanced += count

    def say(self, sentence):
        self.said.append(sentence)


def count_up(request, progress):
    progress.start("count", 10, 2)
    for _ in range(8):
        progress.advance()
    progress.say(f"rank {distributed.rank()} of {distributed.world_size()} in {distributed.launch_id()}")
    return request + distributed.rank(), timeouts()


def fail_on_rank_one(request, progress):
    if distributed.rank() == 1:
        raise SourceError("rank 1 found nothing")
    while True:  # until the launcher ends it
        time.sleep(0.01)


def fail_while_others_wait(request, progress):
    """Raise the error on rank 1; destroying the group waits for ever, as NCCL does while others are in a collective."""
    dist.destroy_process_group = threading.Event().wait
    threading.Thread(target=threading.Event().wait).start()  # Python's own end would wait for it
    with process_group(torch.device("cpu")):
        wait_for_all_ranks()
        if distributed.rank() == 1:
            progress.say(str(time.time()))
            raise request
        dist.barrier()


def timeouts():
    """Return how long a collective may take before and after all ranks are ready, as the backend has it."""
    with process_group(torch.device("cpu")):
        options = dist.group.WORLD._get_backend(torch.device("cpu")).options
        before = options._timeout
        wait_for_all_ranks()
        return before, options._timeout


def vanish_while_others_wait(request, progress):
    with process_group(torch.device("cpu")):
        if distributed.rank() == 1:
            os._exit(7)
        wait_for_all_ranks()


def test_each_rank_runs_once_and_its_progress_is_added_up():
    progress = Recording()

    found = run_ranks(count_up, 100, progress, 2)
    assert [number for number, _ in found] == [100, 101]
    assert progress.advanced == 16
    assert progress.started[-1][:2] == ("count, 2 ranks", 20)
    assert {sentence[:11] for sentence in progress.said} == {"rank 0 of 2", "rank 1 of 2"}
    assert len({sentence.rpartition(" ")[2] for sentence in progress.said}) == 1  # one launch
    # Collectives may take hours only until all ranks are ready.
    assert [limits for _, limits in found] == [(timedelta(hours=6), timedelta(hours=1))] * 2


def test_the_error_of_one_rank_ends_all_and_is_raised_here(capfd):
    with pytest.raises(SourceError, match="rank 1 found nothing"):
        run_ranks(fail_on_rank_one, 0, Silent(), 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "shown", "words"),
    [
        (SourceError("rank 1 found nothing"), SourceError, "^rank 1 found nothing$"),
        (ZeroDivisionError("a bug"), DeviceError, "ended unexpectedly: rank 1 with exit code 1"),
    ],
)
def test_a_rank_that_fails_ends_those_in_a_collective_at_once(capfd, error, shown, words):
    progress = Recording()
    with pytest.raises(shown, match=words):
        run_ranks(fail_while_others_wait, error, progress, 2)
    assert not multiprocessing.active_children()
    assert time.time() - float(progress.said[-1]) < 30
    shown_by_ranks = capfd.readouterr().err
    assert ("ZeroDivisionError: a bug" in shown_by_ranks) == ("Traceback" in shown_by_ranks) == (shown is DeviceError)


def test_a_rank_that_vanishes_is_named_rather_than_those_that_lost_it():
    with pytest.raises(DeviceError, match="ended unexpectedly: rank 1 with exit code 7"):
        run_ranks(vanish_while_others_wait, 0, Silent(), 2)


def test_ranks_that_share_a_gpu_say_so():
    """NCCL refuses it in these words."""
    words = "rank 0 and another rank use the same GPU; start as many ranks on a machine as it has GPUs"
    with pytest.raises(DeviceError, match=words), naming_a_lost_rank():
        raise dist.DistBackendError("NCCL error: Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 41000")


def test_wrong_use_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="--gpus and --device cpu exclude each other"):
        on_gpus(count_up, list, 1, "cpu")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun, Slurm or another launcher has started them; omit --gpus"):
        on_gpus(count_up, list, 1, None)


def test_the_reports_of_all_ranks_become_one(tmp_path):
    def report(**changes) -> EncodeReport:
        fields = {
            "store": tmp_path,
            "num_rows": 10,
            "num_ok": 9,
            "num_failed": 1,
            "num_repaired": 0,
            "num_too_small": 0,
            "num_clipped": 0,
            "labels_from": {},
            "captions_from": {},
            "num_encoded_now": 5,
        }
        fields |= {
            "elapsed_s": 2.0,
            "startup_s": 0.5,
            "stage_seconds": {"read": 1.0, "encode": 2.0},
            "bytes_on_disk": 7,
            "failures": [],
        }
        return EncodeReport(**fields | {"complete": False, "decides": False, "too_many_failed": False} | changes)

    idle = report(num_encoded_now=0, elapsed_s=0.0, startup_s=0.0, stage_seconds={})
    deciding = report(complete=True, decides=True, too_many_failed=True, elapsed_s=3.0)
    merged = EncodeReport.of_ranks([idle, deciding, report()])

    assert (merged.exit_code, merged.num_encoded_now, merged.elapsed_s, merged.steady_s) == (3, 10, 3.0, 2.5)
    assert merged.stage_seconds == {"read": 2 / 3, "encode": 4 / 3}
