"""Several ranks of one job, as `--gpus` starts them; here on the CPU."""

import os

import pytest

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.reports.encode import EncodeReport
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime import distributed
from tcae_cli.runtime.launch import on_gpus, run_ranks


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
    return request + distributed.rank()


def fail_on_rank_one(request, progress):
    if distributed.rank() == 1:
        raise SourceError("rank 1 found nothing")
    while True:  # until the launcher ends it
        os.sched_yield()


def vanish(request, progress):
    os._exit(7)


def test_each_rank_runs_once_and_its_progress_is_added_up():
    progress = Recording()

    assert run_ranks(count_up, 100, progress, 2) == [100, 101]
    assert progress.advanced == 16
    assert progress.started[-1][:2] == ("count, 2 ranks", 20)
    assert {sentence[:11] for sentence in progress.said} == {"rank 0 of 2", "rank 1 of 2"}
    assert len({sentence.rpartition(" ")[2] for sentence in progress.said}) == 1  # one launch


def test_the_error_of_one_rank_ends_all_and_is_raised_here(capfd):
    with pytest.raises(SourceError, match="rank 1 found nothing"):
        run_ranks(fail_on_rank_one, 0, Silent(), 2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_rank_that_vanishes_is_named():
    with pytest.raises(Exception, match="ended unexpectedly: rank 0 with exit code 7"):
        run_ranks(vanish, 0, Silent(), 1)


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
