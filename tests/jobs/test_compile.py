"""Compiled encoding: when a store's encoder is compiled, and what the store says about it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.families import ModelCard
from tcae_cli.errors import DeviceError, StoreError, UsageError
from tcae_cli.jobs import encode_settings
from tcae_cli.jobs.encode_settings import settings_of
from tcae_cli.jobs.info import describe_store
from tcae_cli.model.layers import Block
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import InfoRequest
from tcae_cli.store.reader import LatentStore
from tcae_cli.terminal.store_tables import show_info

from ..conftest import save_small_model
from ..heard import Heard

H100 = ("NVIDIA H100 80GB HBM3", {"torch": "2.11.0", "cuda": "12.8"})
CPU = f"CPU with {torch.backends.cpu.get_cpu_capability()} (torch {torch.__version__})"


@pytest.fixture
def graphs(monkeypatch) -> Iterator[list[torch.Size]]:
    """The shapes of tokens that graphs are compiled for; they are run without Inductor, which would take long."""
    shapes: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        shapes.append(next(each.shape for each in inputs if each.ndim == 3))
        return graph

    honest = torch.nn.Module.compile
    monkeypatch.setattr(
        Block, "compile", lambda self, options, **settings: honest(self, backend=backend, **settings), raising=False
    )
    torch._dynamo.reset()
    yield shapes
    torch._dynamo.reset()


def compute_of(store: Path) -> dict:
    return json.loads((store / "zarr.json").read_bytes())["attributes"]["compute"]


def grow(photos: Path, source: Path) -> None:
    """Add an image to a copy of the photographs."""
    shutil.copy(photos / "thing" / "7.jpg", source / "thing" / "8.jpg")


@pytest.fixture
def source(photos, tmp_path) -> Path:
    return shutil.copytree(photos, tmp_path / "photos")


def test_the_cpu_compiles_when_asked_and_the_latents_are_those_of_the_eager_encoder(photos, tmp_path, encode):
    # Of one number of tokens: Inductor takes ten seconds for each.
    model = str(save_small_model(tmp_path / "unstaged.safetensors", seed=0, staged=False))
    for compiled in (False, True):
        encode(photos, tmp_path / f"{compiled}.zarr", compile=compiled, dtype="float32", model=model)

    eager, compiled = (LatentStore(tmp_path / f"{each}.zarr").latents(range(24)) for each in (False, True))
    np.testing.assert_allclose(compiled, eager, rtol=1e-3, atol=1e-4)
    assert "compiled" not in compute_of(tmp_path / "False.zarr")
    machine = compute_of(tmp_path / "True.zarr")["compiled"]
    assert machine["device"].startswith("CPU with") and machine["versions"] == {"torch": torch.__version__}


def test_each_number_of_tokens_is_one_static_graph_whatever_the_number_of_blocks_and_views(
    photos, tmp_path, encode, graphs
):
    sizes = (32, 64, 96, 128, 160, 192)
    encode(photos, tmp_path / "store.zarr", compile=True, sizes=sizes, flip=True, batch_size=8)

    sides = dict.fromkeys(size // patch for size in sizes for patch in (8, 16))
    assert graphs == [torch.Size([8, 1 + side * side, 32]) for side in sides]
    assert len(graphs) == 9  # torch gives up after 8 by default


def test_a_store_continues_as_it_was_begun(photos, source, tmp_path, encode, graphs):
    encode(source, tmp_path / "compiled.zarr", compile=True)
    encode(source, tmp_path / "eager.zarr")
    num_graphs = len(graphs)
    assert num_graphs == 2
    grow(photos, source)

    for name in ("eager", "compiled"):
        assert len(graphs) == num_graphs
        torch._dynamo.reset()
        heard = Heard()
        encode(source, tmp_path / f"{name}.zarr", heard, append=True)
        assert not [sentence for sentence in heard.said if "low-order bits" in sentence]
    assert len(graphs) == 2 * num_graphs
    for name, given in (("compiled", False), ("eager", True)):
        was, now = ("on", "off") if name == "compiled" else ("off", "on")
        with pytest.raises(StoreError, match=f"cannot be continued: it was made with --compile {was}, not {now}; "):
            encode(source, tmp_path / f"{name}.zarr", compile=given)


def test_resuming_on_another_machine_is_pointed_out_and_refused_if_strict(
    photos, source, tmp_path, encode, graphs, monkeypatch
):
    store = tmp_path / "store.zarr"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(encode_settings, "compiling_device", lambda device: H100)
        encode(source, store, compile=True)
    assert compute_of(store)["compiled"] == {"device": H100[0], "versions": H100[1]}
    console = Console(record=True, width=200)
    show_info(console, describe_store(InfoRequest(store=str(store)), Silent()))
    assert f"fp32, batches of 16, compiled on {H100[0]}" in console.export_text()
    quiet = Heard()
    encode(source, store, quiet, strict=True)  # there is nothing to do
    assert not [sentence for sentence in quiet.said if "low-order bits" in sentence]

    grow(photos, source)
    difference = (
        f"the encoder of {store} was compiled on {H100[0]} (torch 2.11.0, cuda 12.8), and this machine is {CPU}"
    )
    with pytest.raises(StoreError) as refusal:
        encode(source, store, append=True, strict=True)
    assert str(refusal.value) == f"{difference}; resume where it was begun, or omit --strict"
    heard = Heard()
    assert encode(source, store, heard, append=True).num_ok == 25
    assert f"{difference}, so the latents encoded here differ in low-order bits; --strict refuses this" in heard.said
    assert compute_of(store)["compiled"]["device"] == H100[0]  # where it was begun


def test_where_nothing_can_be_compiled_the_way_out_is_named_and_works(photos, tmp_path, encode, monkeypatch):
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        raise RuntimeError("there is no compiler")

    honest = torch.nn.Module.compile
    monkeypatch.setattr(Block, "compile", lambda self, **_: honest(self, backend=broken), raising=False)
    with pytest.raises(DeviceError, match=r"could not be compiled \(.*no compiler.*\); install gcc, or pass --no-comp"):
        encode(photos, tmp_path / "store.zarr", compile=True)
    torch._dynamo.reset()

    assert "compiled" in compute_of(tmp_path / "store.zarr")
    assert encode(photos, tmp_path / "store.zarr", compile=False).num_ok == 24
    assert "compiled" not in compute_of(tmp_path / "store.zarr")


def test_a_gpu_compiles_in_a_new_store_unless_told_not_to(small_checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: H100[0])
    card, gpu = read_card(str(small_checkpoint)), torch.device("cuda", 0)

    def compiled(choice: bool | None, device: torch.device, card: ModelCard = card):
        request = EncodeRequest(source="photos", store="store.zarr", compile=choice)
        return settings_of(request, card, device).compute.compiled

    assert compiled(None, gpu).device == compiled(True, gpu).device == H100[0]
    assert compiled(False, gpu) is compiled(None, torch.device("cpu")) is None
    other = ModelCard("diffusers:sd", "ab" * 32, 64, 4, 8, {}, {})
    assert compiled(None, gpu, other) is None
    with pytest.raises(
        UsageError, match="--compile works on models of tcae, and diffusers:sd is not one; omit --compile"
    ):
        compiled(True, gpu, other)
