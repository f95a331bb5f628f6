"""Weights fetched from a server on this machine: once, whole, checked; and the sentences where that fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from tcae_cli.errors import WeightsError
from tcae_cli.features import fetch
from tcae_cli.features.backbone import load_feature_network
from tcae_cli.features.published import FILES
from tcae_cli.features.weights import load_pretrained, weights_path
from tcae_cli.runtime import silence

from .. import weights_server as program
from ..weights_server import Cut, WeightsServer

CONTENT = bytes(range(256)) * 400
VGG, ALEX = "vgg16-397923af.pth", "alexnet-owt-7be5be79.pth"


@pytest.fixture
def folder(tmp_path) -> Path:
    """What weights are fetched to, which no test makes."""
    return tmp_path / "torch" / "hub" / "checkpoints"


def found(name: str = "lpips-vgg") -> Path:
    return weights_path(name, None, instead="do without")


def refusal(name: str = "lpips-vgg") -> str:
    """The reason in the sentence that refuses a network, once the rest of it was checked."""
    with pytest.raises(WeightsError) as refused:
        found(name)
    file, folder = FILES[name], Path(torch.hub.get_dir()) / "checkpoints"
    before = f"{name} needs {file.file}, which is not in {folder} and could not be fetched from {file.url}: "
    after = (
        f"; copy it there from a machine with a network (tcae weights --fetch {name}), pass --weights {name}=PATH, "
        "or do without"
    )
    sentence = str(refused.value)
    assert sentence.startswith(before) and sentence.endswith(after)
    return sentence[len(before) : -len(after)]


# Fetched


def test_a_file_is_fetched_to_torchs_cache_once(weights_server: WeightsServer, folder, aside):
    weights_server.publish("lpips-vgg", CONTENT)

    assert found() == folder / VGG == found()
    assert (folder / VGG).read_bytes() == CONTENT
    assert weights_server.requests == [VGG]
    assert aside == [
        f"fetching lpips-vgg from {weights_server.url}/{VGG}: 0.0 MiB of 0.1 MiB",
        f"fetched lpips-vgg to {folder / VGG}",
    ]
    assert sorted(path.name for path in folder.iterdir()) == [VGG, f"{VGG}.lock"]


@pytest.mark.parametrize("file", ["pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"])
def test_what_another_tool_has_put_into_torchs_cache_is_used(weights_server: WeightsServer, folder, file):
    weights_server.publish("inception", CONTENT)
    folder.mkdir(parents=True)
    (folder / file).write_bytes(CONTENT)

    assert found("inception") == folder / file
    assert weights_server.requests == []


def test_a_network_of_a_loss_is_loaded_from_what_was_fetched(weights_server: WeightsServer, tmp_path):
    network = torchvision.models.squeezenet1_1(weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    weights_server.publish("squeezenet1_1", (tmp_path / "weights.pth").read_bytes())

    assert torch.equal(load_feature_network("squeezenet1_1").layers[0].weight, network.features[0].weight)
    assert weights_server.requests == ["squeezenet1_1-b8a52dc0.pth"]


def test_a_path_that_is_given_wins(weights_server: WeightsServer, folder, tmp_path):
    weights_server.publish("lpips-vgg", CONTENT)
    (tmp_path / "mine.pth").write_bytes(b"mine")

    assert weights_path("lpips-vgg", tmp_path / "mine.pth", instead="do without") == tmp_path / "mine.pth"
    assert weights_server.requests == [] and not folder.exists()


def test_how_much_has_arrived_is_said_now_and_then(weights_server: WeightsServer, aside, monkeypatch):
    monkeypatch.setattr(fetch, "_SAY_EVERY_S", 0.0)
    monkeypatch.setattr(fetch, "_CHUNK_BYTES", 2**20)
    weights_server.publish("lpips-vgg", bytes(3 * 2**20))
    found()

    assert aside[-2] == "lpips-vgg: 3.0 MiB of 3.0 MiB"


# Resumed


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_file_is_resumed_where_its_connection_broke_off(weights_server: WeightsServer, abruptly):
    weights_server.publish("lpips-vgg", CONTENT)
    weights_server.cuts[VGG] = Cut(after_bytes=40_000, times=2, abruptly=abruptly)

    assert found().read_bytes() == CONTENT
    first, *others = weights_server.requests
    assert first == VGG
    if not abruptly:  # a reset may lose bytes on their way
        assert others == [f"{VGG} bytes=40000-", f"{VGG} bytes=80000-"]


def test_a_silent_connection_is_given_up_and_resumed(weights_server: WeightsServer, monkeypatch):
    monkeypatch.setattr(silence, "PATIENCE_S", 0.3)
    weights_server.publish("lpips-vgg", CONTENT)
    weights_server.cuts[VGG] = Cut(after_bytes=40_000, stalls=True)

    assert found().read_bytes() == CONTENT
    assert weights_server.requests == [VGG, f"{VGG} bytes=40000-"]


def test_a_run_resumes_what_an_earlier_one_has_left(weights_server: WeightsServer):
    content = CONTENT * 30
    weights_server.publish("lpips-vgg", content)
    weights_server.cuts[VGG] = Cut(after_bytes=2 * 2**20)
    weights_server.statuses[VGG] = [200, 503, 503, 503]
    host = weights_server.url.removeprefix("http://")

    reason = f"{host} answered 503 Service Unavailable; 2.0 MiB have arrived and are kept, to resume from"
    assert refusal() == reason
    weights_server.requests.clear()
    weights_server.statuses.clear()
    assert found().read_bytes() == content
    assert weights_server.requests == [f"{VGG} bytes={2 * 2**20}-"]


def test_a_server_that_sends_no_ranges_sends_all_again(weights_server: WeightsServer, folder):
    weights_server.publish("lpips-vgg", CONTENT)
    weights_server.ignores_ranges = True
    folder.mkdir(parents=True)
    (folder / f"{VGG}.part").write_bytes(CONTENT[:1000])

    assert found().read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_begun_again(weights_server: WeightsServer, folder):
    weights_server.publish("lpips-vgg", CONTENT)
    folder.mkdir(parents=True)
    (folder / f"{VGG}.part").write_bytes(CONTENT + b"more")

    assert found().read_bytes() == CONTENT
    assert weights_server.requests == [f"{VGG} bytes={len(CONTENT) + 4}-", VGG]


# Checked


def test_a_file_with_another_hash_is_refused_and_removed(weights_server: WeightsServer, folder):
    other = CONTENT[::-1]
    weights_server.publish("lpips-vgg", other, sha256=sha256(CONTENT).hexdigest())

    assert refusal() == (
        f"what arrived has the SHA-256 {sha256(other).hexdigest()[:8]}..., and {sha256(CONTENT).hexdigest()[:8]}... "
        "was published, so it was removed"
    )
    assert [path.name for path in folder.iterdir()] == [f"{VGG}.lock"]


def test_the_first_digits_of_a_hash_are_enough(weights_server: WeightsServer):
    weights_server.publish("lpips-vgg", CONTENT, sha256=sha256(CONTENT).hexdigest()[:8])

    assert found().read_bytes() == CONTENT


def test_a_file_of_another_size_is_refused_before_it_is_fetched(weights_server: WeightsServer, folder):
    weights_server.publish("lpips-vgg", CONTENT, size_bytes=1_000)
    folder.mkdir(parents=True)
    (folder / f"{VGG}.part").write_bytes(CONTENT[:100])

    assert refusal() == "the file there has 102,400 bytes, and 1,000 were published"
    assert [path.name for path in folder.iterdir()] == [f"{VGG}.lock"]


def load_line(name: str) -> nn.Linear:
    return load_pretrained(lambda: nn.Linear(2, 3), name, None, "do without")


def test_where_no_hash_is_published_the_tensors_are_checked(weights_server: WeightsServer, folder, tmp_path):
    for tensors in (nn.Linear(2, 4), nn.Linear(2, 3)):
        torch.save(tensors.state_dict(), tmp_path / "line.pth")
        weights_server.publish("dino-s8", (tmp_path / "line.pth").read_bytes(), sha256=None, size_bytes=None)
        if tensors.out_features == 4:
            with pytest.raises(WeightsError, match="what arrived does not hold its tensors, so it was removed"):
                load_line("dino-s8")
            assert [path.name for path in folder.iterdir()] == ["dino_deitsmall8_pretrain.pth.lock"]
        else:
            assert torch.equal(load_line("dino-s8").weight, tensors.weight)
    assert len(weights_server.requests) == 2


# Not fetched


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_nothing_is_fetched_where_tcae_offline_is_set(weights_server: WeightsServer, folder, monkeypatch, value):
    weights_server.publish("lpips-vgg", CONTENT)
    monkeypatch.setenv("TCAE_OFFLINE", value)

    assert refusal() == "TCAE_OFFLINE is set"
    assert weights_server.requests == [] and not folder.exists()


def test_nothing_is_fetched_where_hf_hub_offline_is_set(weights_server: WeightsServer, monkeypatch):
    weights_server.publish("lpips-vgg", CONTENT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert refusal() == "HF_HUB_OFFLINE is set"
    assert weights_server.requests == []


def test_a_variable_set_to_0_forbids_nothing(weights_server: WeightsServer, monkeypatch):
    weights_server.publish("lpips-vgg", CONTENT)
    monkeypatch.setenv("TCAE_OFFLINE", "0")

    assert found().read_bytes() == CONTENT


def test_a_file_that_is_gone_is_asked_for_once(weights_server: WeightsServer):
    weights_server.publish("lpips-vgg", CONTENT)
    del weights_server.files[VGG]

    assert refusal() == f"{weights_server.url.removeprefix('http://')} answered 404 Not Found"
    assert weights_server.requests == [VGG]


def test_a_host_that_refuses_connections_is_named(weights_server: WeightsServer):
    weights_server.publish("lpips-vgg", CONTENT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    weights_server.url = f"http://{host}"
    weights_server.publish("lpips-vgg", CONTENT)

    assert refusal() == f"{host} could not be reached (Connection refused)"


def test_a_host_that_does_not_answer_is_waited_for_once_by_all_networks(weights_server: WeightsServer, monkeypatch):
    assert silence.PATIENCE_S < 10
    monkeypatch.setattr(silence, "PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        weights_server.url = f"http://{host}"
        weights_server.publish("lpips-vgg", CONTENT)
        weights_server.publish("lpips-alex", CONTENT)

        assert refusal() == f"{host} could not be reached (no answer within 0.5 s)"
        begun_at = time.monotonic()
        assert refusal("lpips-alex") == f"{host} could not be reached (another host did not answer a moment ago)"
        assert time.monotonic() - begun_at < 0.4


def test_a_cache_that_cannot_be_written_is_named(weights_server: WeightsServer, folder):
    weights_server.publish("lpips-vgg", CONTENT)
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")

    assert refusal() == f"{folder} cannot be written (File exists)"


# Many processes


class Processes:
    """Starts processes that want weights; they are forked from one, which has imported what they need."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.parent = subprocess.Popen([sys.executable, program.__file__], stdin=pipe, stdout=pipe, text=True)
        assert self.line() == "ready"

    def want(self, name: str, count: int) -> None:
        request = {"name": name, "count": count, "file": asdict(FILES[name]), "torch_home": os.environ["TORCH_HOME"]}
        self.parent.stdin.write(f"{json.dumps(request)}\n")
        self.parent.stdin.flush()

    def line(self) -> str:
        return self.parent.stdout.readline().strip()

    def answers(self, count: int) -> list[str]:
        """What so many processes print besides their ids."""
        lines = [self.line() for _ in range(2 * count)]
        return [line for line in lines if not line.isdigit()]


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.parent.communicate()


def test_of_four_ranks_one_fetches_and_what_fails_for_it_fails_for_all(
    weights_server: WeightsServer, folder, processes
):
    weights_server.publish("lpips-vgg", CONTENT)
    weights_server.publish("lpips-alex", CONTENT, sha256="0" * 64)
    weights_server.pause_s = 0.5  # in which all have asked
    processes.want("lpips-vgg", 4)
    assert processes.answers(4) == [str(folder / VGG)] * 4
    assert weights_server.requests == [VGG] and (folder / VGG).read_bytes() == CONTENT

    processes.want("lpips-alex", 4)
    sentences = set(processes.answers(4))
    assert len(sentences) == 1 and "and 00000000... was published, so it was removed; copy it" in sentences.pop()
    assert weights_server.requests == [VGG, ALEX]


def test_a_killed_process_holds_no_lock_and_another_resumes(weights_server: WeightsServer, folder, processes):
    weights_server.publish("lpips-vgg", CONTENT)
    weights_server.cuts[VGG] = Cut(after_bytes=40_000, stalls=True)
    processes.want("lpips-vgg", 1)
    killed = int(processes.line())
    part = folder / f"{VGG}.part"
    patience_ends_at = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < patience_ends_at
        time.sleep(0.01)
    processes.want("lpips-vgg", 1)
    processes.line()
    os.kill(killed, signal.SIGKILL)

    assert processes.line() == str(folder / VGG)
    assert (folder / VGG).read_bytes() == CONTENT
    assert len(weights_server.requests) == 2 and weights_server.requests[1].startswith(f"{VGG} bytes=")
