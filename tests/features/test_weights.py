"""Files of pretrained weights, good and bad, for a network of two tensors."""

import pytest
import safetensors.torch
import torch
from torch import nn

from tcae_cli.errors import WeightsError
from tcae_cli.features.published import FILES, PublishedFile
from tcae_cli.features.weights import hub_cache, load_pretrained

URL = "https://example.invalid/line.pth"


@pytest.fixture(autouse=True)
def line(monkeypatch):
    """A network of two tensors that is published."""
    file = PublishedFile(name="line", file="line.pth", url=URL, used_for="tests", licence="none")
    monkeypatch.setitem(FILES, "line", file)


def load(path):
    return load_pretrained(lambda: nn.Linear(2, 3), "line", path, "set loss.line to none in the recipe")


@pytest.mark.parametrize(("name", "save"), [("a.pth", torch.save), ("a.safetensors", safetensors.torch.save_file)])
def test_a_network_gets_the_tensors_of_its_file(tmp_path, name, save):
    tensors = nn.Linear(2, 3).state_dict()
    save(tensors, tmp_path / name)
    loaded = load(tmp_path / name).state_dict()

    assert torch.equal(loaded["weight"], tensors["weight"]) and torch.equal(loaded["bias"], tensors["bias"])


def test_a_path_that_leads_nowhere_is_named_with_what_to_do(tmp_path):
    with pytest.raises(WeightsError) as refused:
        load(tmp_path / "line.pth")

    assert str(refused.value) == (
        f"line needs line.pth ({URL}), and {tmp_path}/line.pth does not exist; "
        "correct the path in --weights line=PATH, or set loss.line to none in the recipe"
    )


def test_a_file_that_is_in_no_cache_is_named_with_the_ways_to_give_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as refused:
        load(None)

    assert str(refused.value) == (
        f"line needs line.pth, which is not in {tmp_path}/hub/checkpoints and could not be fetched from {URL}: "
        "TCAE_OFFLINE is set; copy it there from a machine with a network (tcae weights --fetch line), "
        "pass --weights line=PATH, or set loss.line to none in the recipe"
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>Not Found</html>"])
def test_files_that_hold_no_tensors_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)

    with pytest.raises(WeightsError) as refused:
        load(path)
    assert str(refused.value) == f"{path} does not hold the weights of line; what fits is line.pth ({URL})"


@pytest.mark.parametrize(
    "content", [[1, 2], nn.Linear(2, 4).state_dict(), {"weight": torch.zeros(3, 2)}, nn.Linear(2, 3)]
)
def test_a_file_with_something_else_than_the_networks_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")

    with pytest.raises(WeightsError, match=r"other\.pth does not hold the weights of line; what fits is line\.pth"):
        load(tmp_path / "other.pth")


def test_torchs_cache_is_where_its_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    assert hub_cache("line.pth") == tmp_path / "hub" / "checkpoints" / "line.pth"
