"""Who may work on a store."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tcae_cli.errors import DiskError, StoreError
from tcae_cli.runtime.local_file import LocalFile
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.runtime.processes import process_space
from tcae_cli.store import lease as lease_module
from tcae_cli.store.lease import Place, join_store

MINUTES_AGO = 1_000_000_000.0


def join(path: Path, launch: str, rank: int = 0, world_size: int = 1):
    return join_store(LocalFolder(path), Place(launch, str(rank), "0", world_size > 1))


def lease_of(path, pid: int, host: str, state: str = "ready", processes: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lease = {"state": state, "host": host, "pid": pid, "processes": processes or process_space(), "owner": "other"}
    path.write_text(json.dumps(lease))


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_launch_is_refused_while_the_first_is_alive(tmp_path):
    with join(tmp_path, "first", 0, 1):
        lease_of(tmp_path / ".tcae/leases/first.0.json", os.getppid(), socket.gethostname())
        with (
            pytest.raises(StoreError, match=rf"being written by process {os.getppid()} on .*wait for it to end"),
            join(tmp_path, "second", 0, 1),
        ):
            pass


def test_a_launch_that_has_ended_is_no_hindrance(tmp_path):
    with join(tmp_path, "first", 0, 1):
        pass
    with join(tmp_path, "second", 0, 1):
        assert [path.name for path in (tmp_path / ".tcae/leases").iterdir()] == ["second.0.json"]
    assert not list((tmp_path / ".tcae/leases").glob("*"))


def test_a_killed_process_of_this_machine_is_no_hindrance(tmp_path):
    lease_of(tmp_path / ".tcae/leases/killed.0.json", dead_process(), socket.gethostname())
    with join(tmp_path, "next", 0, 1):
        assert not (tmp_path / ".tcae/leases/killed.0.json").exists()


def test_another_machine_counts_until_it_has_been_silent_for_a_minute(tmp_path):
    lease = tmp_path / ".tcae/leases/there.0.json"
    lease_of(lease, 1, "another-machine")
    with pytest.raises(StoreError, match="on another-machine"), join(tmp_path, "here", 0, 1):
        pass
    os.utime(lease, (MINUTES_AGO, MINUTES_AGO))
    with join(tmp_path, "here", 0, 1):
        assert not lease.exists()


@pytest.mark.parametrize("boot", [" another-boot", ""])
def test_a_machine_of_the_same_name_is_another_one_unless_its_boot_is_the_same(tmp_path, boot):
    lease = tmp_path / ".tcae/leases/there.0.json"
    processes = os.readlink("/proc/self/ns/pid") + boot  # without one, as earlier versions wrote it
    lease_of(lease, dead_process(), socket.gethostname(), processes=processes)
    with pytest.raises(StoreError, match=rf"on {socket.gethostname()}"), join(tmp_path, "here"):
        pass
    os.utime(lease, (MINUTES_AGO, MINUTES_AGO))
    with join(tmp_path, "here"):
        assert not lease.exists()


def test_the_same_rank_twice_is_refused(tmp_path):
    lease_of(tmp_path / ".tcae/leases/launch.1.json", os.getppid(), socket.gethostname())
    with pytest.raises(StoreError, match="is being written by"), join(tmp_path, "launch", 1, 2):
        pass


def test_nothing_is_left_where_there_was_nothing(tmp_path):
    with pytest.raises(RuntimeError), join(tmp_path / "new" / "store.zarr", "launch", 0, 1):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_wait_until_rank_zero_is_ready(tmp_path):
    seen = []

    def other_rank() -> None:
        with join(tmp_path, "launch", 1, 2) as lease:
            lease.wait_for_leader()
            seen.append("went on")

    with join(tmp_path, "launch", 0, 2) as lease:
        thread = threading.Thread(target=other_rank)
        thread.start()
        thread.join(0.3)
        assert seen == []
        lease.announce_ready()
        thread.join(5)
        assert seen == ["went on"]


def test_a_rank_that_comes_after_rank_zero_has_done_all_still_goes_on(tmp_path):
    with join(tmp_path, "launch", 0, 2) as lease:
        lease.announce_ready()
    with join(tmp_path, "launch", 1, 2) as lease:
        lease.wait_for_leader()


def test_other_ranks_stop_when_rank_zero_stops(tmp_path):
    errors = []

    def other_rank() -> None:
        with join(tmp_path, "launch", 1, 2) as lease:
            try:
                lease.wait_for_leader()
            except StoreError as error:
                errors.append(str(error))

    thread = threading.Thread(target=other_rank)
    with pytest.raises(RuntimeError), join(tmp_path, "launch", 0, 2):
        thread.start()
        thread.join(0.3)
        raise RuntimeError
    thread.join(5)
    assert errors == ["rank 0 has stopped; its own message says why"]


def test_other_ranks_stop_when_rank_zero_is_killed(tmp_path):
    rank_zero = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease_of(tmp_path / ".tcae/leases/launch.0.json", rank_zero.pid, socket.gethostname(), state="settled")
    killing = threading.Timer(0.2, rank_zero.kill)  # nobody waits for it, so its number stays taken
    killing.start()
    with pytest.raises(StoreError, match="rank 0 has stopped"), join(tmp_path, "launch", 1, 2) as lease:
        lease.wait_for_leader()
    killing.join()
    rank_zero.communicate()


def test_a_lease_that_a_leader_took_for_a_leftover_is_written_again(tmp_path, monkeypatch):
    cleared = []

    def clearing_once(give_name: Callable[[LocalFile], bool | None]) -> Callable[[LocalFile], bool | None]:
        def clear_and_give_name(file: LocalFile) -> bool | None:
            if give_name not in cleared:
                cleared.append(give_name)
                assert file.final.name == "launch.0.json"
                file.discard()
            return give_name(file)

        return clear_and_give_name

    for name in ("link", "rename"):  # as it is created, and as it is written again
        monkeypatch.setattr(LocalFile, name, clearing_once(getattr(LocalFile, name)))
    with join(tmp_path, "launch"):
        assert len(cleared) == 2
        assert (tmp_path / ".tcae/leases/launch.0.json").exists()


def test_of_launches_that_come_together_at_most_one_works(tmp_path):
    working, most, refused = [], [], []

    def launch(number: int) -> None:
        try:
            with join(tmp_path, f"launch-{number}", 0, 1):
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


def test_parts_work_on_one_store_together_and_no_other_launch_beside_them(tmp_path):
    with (
        join_store(LocalFolder(tmp_path), Place("parts-2", "0-0", "0-0")),
        join_store(LocalFolder(tmp_path), Place("parts-2", "1-0", "1-0")) as lease,
    ):
        assert len(list((tmp_path / ".tcae/leases").iterdir())) == 2
        other = tmp_path / ".tcae/leases/parts-2.0-0.json"
        lease_of(other, os.getppid(), socket.gethostname())
        with pytest.raises(StoreError, match="is being written by process"), join(tmp_path, "other"):
            pass
        with (
            pytest.raises(StoreError, match="is being written by process"),
            join_store(LocalFolder(tmp_path), Place("parts-2", "0-0", "0-0")),
        ):
            pass
        assert len(lease.live_owners()) == 2


def test_a_process_whose_lease_was_taken_away_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.05)
    with join(tmp_path, "slow") as lease:
        lease.check()
        (tmp_path / ".tcae/leases/slow.0.json").unlink()
        patience_ends_at = time.monotonic() + 5
        with pytest.raises(StoreError, match=r"lease on the store is gone .*; repeat the command"):
            while time.monotonic() < patience_ends_at:
                lease.check()
                time.sleep(0.01)


def test_a_live_lease_is_kept_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.05)
    with join(tmp_path, "alive"):
        lease = tmp_path / ".tcae/leases/alive.0.json"
        os.utime(lease, (MINUTES_AGO, MINUTES_AGO))
        patience_ends_at = time.monotonic() + 5
        while lease.stat().st_mtime == MINUTES_AGO and time.monotonic() < patience_ends_at:
            time.sleep(0.01)
        assert lease.stat().st_mtime > MINUTES_AGO


@pytest.fixture
def a_silence(monkeypatch) -> Callable[[], None]:
    """Lets 50 s pass, of which no heartbeat knows."""
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 1000.0)
    tell = time.clock_gettime

    def pass_time() -> None:
        monkeypatch.setattr(time, "clock_gettime", lambda clock: tell(clock) + 50)

    return pass_time


def test_a_process_that_was_silent_for_long_shows_that_it_is_alive_before_it_goes_on(tmp_path, a_silence):
    with join(tmp_path, "slow") as lease:
        file = tmp_path / lease.name
        os.utime(file, (MINUTES_AGO, MINUTES_AGO))
        lease.check()
        assert file.stat().st_mtime == MINUTES_AGO
        a_silence()
        lease.check()
        assert file.stat().st_mtime > MINUTES_AGO


def test_a_process_that_was_silent_for_long_stops_at_once_if_another_launch_came_meanwhile(tmp_path, a_silence):
    with join(tmp_path, "slow") as lease:
        (tmp_path / lease.name).unlink()
        lease_of(tmp_path / ".tcae/leases/other.0.json", os.getppid(), socket.gethostname())
        a_silence()
        with pytest.raises(StoreError, match=r"lease on the store is gone .*; repeat the command"):
            lease.check()
    assert [path.name for path in (tmp_path / ".tcae/leases").iterdir()] == ["other.0.json"]


class Network(LocalFolder):
    """A folder of which tests say what happens when it is written."""

    before_writing = staticmethod(lambda: None)

    def create(self, name: str, data: bytes) -> bool:
        self.before_writing()
        return super().create(name, data)

    def write(self, *steps, check=lambda: None) -> None:
        self.before_writing()
        super().write(*steps, check=check)


def test_a_process_that_cannot_show_that_it_is_alive_stops(tmp_path, a_silence):
    def be_away() -> None:
        raise DiskError("the network is down")

    folder = Network(tmp_path)
    with join_store(folder, Place("cut-off")) as lease:
        folder.before_writing = be_away
        lease.check()
        a_silence()
        with pytest.raises(DiskError, match="the network is down"):
            lease.check()


def test_a_process_whose_lease_is_taken_away_while_it_writes_it_again_stops(tmp_path, a_silence):
    def be_taken_over() -> None:
        (tmp_path / lease.name).unlink()
        lease_of(other, os.getppid(), socket.gethostname())
        folder.before_writing = lambda: None

    folder, other = Network(tmp_path), tmp_path / ".tcae/leases/other.0.json"
    with join_store(folder, Place("slow")) as lease:
        a_silence()
        folder.before_writing = be_taken_over
        with pytest.raises(StoreError, match=rf"being written by process {os.getppid()} on"):
            lease.check()
        other.unlink()  # it was quick
        with pytest.raises(StoreError, match="lease on the store is gone"):
            lease.check()
    assert not list((tmp_path / ".tcae/leases").iterdir())


def test_a_damaged_lease_stops_its_process_in_a_sentence(tmp_path, a_silence, monkeypatch):
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.01)
    with join(tmp_path, "damaged") as lease:
        (tmp_path / lease.name).write_bytes(b"{")
        a_silence()
        with pytest.raises(StoreError, match=r"damaged.0.json is damaged .*remove it"):
            lease.check()


@pytest.mark.parametrize("former", ["none", "killed", "done"])
def test_of_two_that_take_one_place_together_the_second_is_refused(tmp_path, former):
    place, file = Place("parts-2", "0-0", "0-0"), tmp_path / ".tcae/leases/parts-2.0-0.json"
    if former != "none":
        lease_of(file, dead_process(), socket.gethostname(), state="done" if former == "done" else "ready")

    def let_the_other_take_it() -> None:
        if not file.exists():  # it looks free to both
            lease_of(file, os.getppid(), socket.gethostname(), state="settled")

    folder = Network(tmp_path)
    folder.before_writing = let_the_other_take_it
    with pytest.raises(StoreError, match=rf"being written by process {os.getppid()} on"), join_store(folder, place):
        pass
    assert json.loads(file.read_text())["owner"] == "other"


def test_of_processes_that_take_one_place_together_at_most_one_works(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tcae_cli.runtime.local_folder import LocalFolder\n"
        "from tcae_cli.errors import StoreError; from tcae_cli.store.lease import Place, join_store\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n"
        "    with join_store(LocalFolder(Path(sys.argv[1])), Place('parts-2', '0-0', '0-0')):\n"
        "        print('works', flush=True); sys.stdin.readline()\n"
        "except StoreError: print('refused', flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("leave\n")
    assert sorted(said) == ["refused", "refused", "works"]


def test_a_process_that_lost_its_place_leaves_the_lease_of_the_next_one(tmp_path):
    with join_store(LocalFolder(tmp_path), Place("launch", has_followers=True)) as lease:
        lease_of(tmp_path / lease.name, os.getppid(), socket.gethostname())
    assert json.loads((tmp_path / lease.name).read_text())["owner"] == "other"
