"""Who may work on a store."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from tcae_cli.errors import StoreError
from tcae_cli.store.lease import join_store

MINUTES_AGO = 1_000_000_000.0


def claim_of(path, pid: int, host: str, state: str = "ready") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    processes = os.readlink("/proc/self/ns/pid")
    path.write_text(json.dumps({"state": state, "host": host, "pid": pid, "processes": processes}))


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_launch_is_refused_while_the_first_is_alive(tmp_path):
    with join_store(tmp_path, "first", 0, 1):
        claim_of(tmp_path / ".tcae/leases/first.0.json", os.getppid(), socket.gethostname())
        with (
            pytest.raises(StoreError, match=rf"being written by process {os.getppid()} on .*wait for it to end"),
            join_store(tmp_path, "second", 0, 1),
        ):
            pass


def test_a_launch_that_has_ended_is_no_hindrance(tmp_path):
    with join_store(tmp_path, "first", 0, 1):
        pass
    with join_store(tmp_path, "second", 0, 1):
        assert [path.name for path in (tmp_path / ".tcae/leases").iterdir()] == ["second.0.json"]


def test_a_killed_process_of_this_machine_is_no_hindrance(tmp_path):
    claim_of(tmp_path / ".tcae/leases/killed.0.json", dead_process(), socket.gethostname())
    with join_store(tmp_path, "next", 0, 1):
        assert not (tmp_path / ".tcae/leases/killed.0.json").exists()


def test_another_machine_counts_until_it_has_been_silent_for_a_minute(tmp_path):
    claim = tmp_path / ".tcae/leases/there.0.json"
    claim_of(claim, 1, "another-machine")
    with pytest.raises(StoreError, match="on another-machine"), join_store(tmp_path, "here", 0, 1):
        pass
    os.utime(claim, (MINUTES_AGO, MINUTES_AGO))
    with join_store(tmp_path, "here", 0, 1):
        assert not claim.exists()


def test_the_same_rank_twice_is_refused(tmp_path):
    claim_of(tmp_path / ".tcae/leases/launch.1.json", os.getppid(), socket.gethostname())
    with pytest.raises(StoreError, match="is being written by"), join_store(tmp_path, "launch", 1, 2):
        pass


def test_nothing_is_left_where_there_was_nothing(tmp_path):
    with pytest.raises(RuntimeError), join_store(tmp_path / "new" / "store.zarr", "launch", 0, 1):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_wait_until_rank_zero_is_ready(tmp_path):
    seen = []

    def other_rank() -> None:
        with join_store(tmp_path, "launch", 1, 2) as lease:
            lease.wait_for_rank_zero()
            seen.append("went on")

    with join_store(tmp_path, "launch", 0, 2) as lease:
        thread = threading.Thread(target=other_rank)
        thread.start()
        thread.join(0.3)
        assert seen == []
        lease.announce_ready()
        thread.join(5)
        assert seen == ["went on"]


def test_a_rank_that_comes_after_rank_zero_has_done_all_still_goes_on(tmp_path):
    with join_store(tmp_path, "launch", 0, 2) as lease:
        lease.announce_ready()
    with join_store(tmp_path, "launch", 1, 2) as lease:
        lease.wait_for_rank_zero()


def test_other_ranks_stop_when_rank_zero_stops(tmp_path):
    errors = []

    def other_rank() -> None:
        with join_store(tmp_path, "launch", 1, 2) as lease:
            try:
                lease.wait_for_rank_zero()
            except StoreError as error:
                errors.append(str(error))

    thread = threading.Thread(target=other_rank)
    with pytest.raises(RuntimeError), join_store(tmp_path, "launch", 0, 2):
        thread.start()
        thread.join(0.3)
        raise RuntimeError
    thread.join(5)
    assert errors == ["rank 0 has stopped; its own message says why"]


def test_of_launches_that_come_together_at_most_one_works(tmp_path):
    working, most, refused = [], [], []

    def launch(number: int) -> None:
        try:
            with join_store(tmp_path, f"launch-{number}", 0, 1):
                working.append(number)
                most.append(len(working))
                threading.Event().wait(0.2)
                working.remove(number)
        except StoreError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert set(most) == {1}
    assert len(most) + len(refused) == 6
