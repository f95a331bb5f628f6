"""`tcae weights`: the table, and fetching ahead."""

import json
import re

import pytest

from tcae_cli.features.published import FILES

from ..weights_server import WeightsServer


@pytest.fixture(autouse=True)
def two_networks(weights_server: WeightsServer) -> None:
    weights_server.publish("lpips-vgg", b"v" * 3 * 2**20)
    weights_server.publish("squeezenet1_1", b"s" * 2**20)


def rows(shown: str) -> dict[str, list[str]]:
    """The cells of the table by the network's name."""
    table = [re.split(" {2,}", line.strip()) for line in shown.splitlines()]
    return {row[0]: row[1:] for row in table if row[0] in FILES}


def test_each_network_is_listed_with_what_it_is_for_and_where_it_is_published(tcae, weights_server: WeightsServer):
    code, stdout, stderr = tcae("weights")
    listed = rows(stdout)

    assert (code, stderr) == (0, "") and list(listed) == list(FILES)
    published = f"not cached; {weights_server.url}/vgg16-397923af.pth"
    assert listed["lpips-vgg"] == ["the perceptual loss, and LPIPS", "BSD-3-Clause", "3.0 MiB", published]
    assert listed["dino-s8"][2] == "unknown"
    assert "lpips-vgg and lpips-alex: with LPIPS's linear weights (BSD-2-Clause), part of torchmetrics" in stdout
    assert weights_server.requests == []


def test_those_named_are_fetched_ahead_and_then_not_again(tcae, weights_server: WeightsServer, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    for sentences in (4, 0):
        code, stdout, stderr = tcae("weights", "--fetch", "lpips-vgg", "squeezenet1_1")

        assert code == 0 and len(stderr.splitlines()) == sentences
        assert {name: row[-1] for name, row in rows(stdout).items()} == {
            "lpips-vgg": str(folder / "vgg16-397923af.pth"),
            "squeezenet1_1": str(folder / "squeezenet1_1-b8a52dc0.pth"),
        }
    assert weights_server.requests == ["vgg16-397923af.pth", "squeezenet1_1-b8a52dc0.pth"]


def test_the_report_of_a_script_has_the_hash_and_the_path(tcae, weights_server: WeightsServer, tmp_path):
    report = json.loads(tcae("weights", "--fetch", "lpips-vgg", "--json")[1])

    assert report["folder"] == str(tmp_path / "torch" / "hub" / "checkpoints")
    (file,) = report["files"]
    assert file["path"] == f"{report['folder']}/vgg16-397923af.pth" and file["size_bytes"] == 3 * 2**20
    assert file["sha256"] == FILES["lpips-vgg"].sha256


def test_a_name_that_is_none_is_refused(tcae):
    assert tcae("weights", "lpips-vg")[0::2] == (
        2,
        "Error: lpips-vg is no pretrained network; did you mean lpips-vgg?\n",
    )
    code, _, stderr = tcae("weights", "--fetch", "resnet")
    assert code == 2 and "use some of inception, dinov2, lpips-vgg, lpips-alex, squeezenet1_1, dino-s8" in stderr


def test_what_cannot_be_fetched_is_one_sentence_and_exit_code_1(tcae, monkeypatch):
    monkeypatch.setenv("TCAE_OFFLINE", "1")
    code, stdout, stderr = tcae("weights", "--fetch", "lpips-vgg")

    assert (code, stdout) == (1, "") and stderr.count("\n") == 1
    assert stderr.endswith("pass --weights lpips-vgg=PATH, or repeat this command later\n")
