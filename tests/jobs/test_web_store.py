"""A store on a plain web server, or on the Hugging Face Hub, is read as a local one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tcae_cli.errors import DiskError, NotFoundError, SourceError, StoreError, UsageError
from tcae_cli.jobs.decode import decode_store
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.export import export_store
from tcae_cli.jobs.info import describe_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.export import ExportRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import InfoRequest, VerifyRequest
from tcae_cli.runtime.hub import fetch
from tcae_cli.store.dataset import LatentDataset
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.stream import LatentStream

from ..hub_server import HubServer
from ..store_contents import files_of
from ..web_server import serve_files

DATASET = "org/latents"


@pytest.fixture(scope="module")
def local_store(photos, encode, tmp_path_factory) -> Path:
    """The photographs in a local store of two shards, mirrored too."""
    path = tmp_path_factory.mktemp("web") / "out.zarr"
    encode(photos, path, flip=True)
    return path


def put(hub: HubServer, store: Path, revision: str = "main") -> str:
    """Put a store on the Hub; return the commit."""
    files = {f"out.zarr/{name}": data for name, data in files_of(store).items()}
    return hub.put(DATASET, files, revision)


@pytest.fixture(params=["http", "hf"])
def url(request: pytest.FixtureRequest, local_store: Path) -> Iterator[str]:
    """Where the same store is on a server."""
    if request.param == "http":
        with serve_files(local_store.parent) as root:
            yield f"{root}/out.zarr"
    else:
        put(request.getfixturevalue("hub"), local_store)
        yield f"hf://datasets/{DATASET}/out.zarr"


def test_the_classes_read_it(url, local_store):
    there, here = LatentStore(url), LatentStore(local_store)
    assert np.array_equal(there.latents([23, 0, 8]), here.latents([23, 0, 8]))
    assert there.keys(range(24)) == here.keys(range(24)) and there.labels().tolist() == here.labels().tolist()
    assert there.summaries == here.summaries and there.failures() == []
    pairs = [
        (LatentDataset(each, random_flip=True)[5], LatentStream(each, batch_size=8)) for each in (url, local_store)
    ]
    assert pairs[0][0]["latents"].shape == (8, 2, 2)
    batches = [np.concatenate([batch["latents"] for batch in stream]) for _, stream in pairs]
    assert np.array_equal(*batches)


def test_workers_read_it_after_this_process_did(url, local_store):
    dataset = LatentDataset(url)
    first = dataset[0]["latents"]
    loader = DataLoader(dataset, batch_size=24, num_workers=1, multiprocessing_context="fork")
    (batch,) = loader
    assert np.array_equal(batch["latents"], LatentDataset(local_store)[range(24)]["latents"])
    assert np.array_equal(batch["latents"][0], first)


def test_the_commands_read_it(url, local_store, tmp_path):
    there, here = (describe_store(InfoRequest(store=str(each)), Silent()) for each in (url, local_store))
    assert there.complete and there.num_shards_committed == here.num_shards == 2 and there.writers == []
    assert there.share_of_raw_latents == here.share_of_raw_latents and there.statistics == here.statistics
    report = verify_store(
        VerifyRequest(store=url, num_rows=2, device="cpu", picture=tmp_path / "picture.png"), Silent()
    )
    assert report.problems == [] and report.not_checked == [] and len(report.sample) == 4  # of 2 rows, 2 views
    for each, name in ((url, "there"), (str(local_store), "here")):
        decode_store(DecodeRequest(store=each, out_dir=tmp_path / name, rows="0:2", grid=2, device="cpu"), Silent())
        export_store(ExportRequest(store=each, target=tmp_path / f"{name}-npy", format="npy"), Silent())
    for name in ("animal/0.jpg.png", "grid.png"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    exported = [np.load(tmp_path / f"{name}-npy" / "latents.npy") for name in ("there", "here")]
    assert np.array_equal(*exported)
    request = EvalRequest(metrics=("psnr",), store=url, num_workers=0, device="cpu")
    assert evaluate(request, Silent()).evaluations[0].values["psnr"] > 0


def test_nothing_is_written_there(url, photos, encode):
    with pytest.raises(UsageError, match=rf"^{url} can only be read; write the store to a local path, s3:// or gs://"):
        encode(photos, url)


def test_a_store_that_is_not_there_is_named(url):
    missing = url.replace("out.zarr", "none.zarr")
    with pytest.raises(StoreError, match=r"none\.zarr is not a store of latents: .*/zarr\.json: No such file"):
        LatentStore(missing)


def test_a_server_that_does_not_answer_and_a_gated_dataset_are_sentences(hub: HubServer, local_store):
    with pytest.raises(
        DiskError, match=r"^http://127.0.0.1:9/out.zarr/zarr.json cannot be read: .*; check your permis"
    ):
        LatentStore("http://127.0.0.1:9/out.zarr")
    put(hub, local_store)
    hub.gated.add(DATASET)
    with pytest.raises(SourceError, match=rf"^hf://datasets/{DATASET} is gated: accept its terms at {hub.url}/"):
        LatentStore(f"hf://datasets/{DATASET}/out.zarr")


def test_on_the_hub_it_is_read_at_the_commit_that_was_there_when_it_was_opened(hub: HubServer, local_store):
    first = put(hub, local_store)
    store = LatentStore(f"hf://datasets/{DATASET}/out.zarr")
    hub.put(DATASET, {"README.md": b"empty now"})
    assert store.folder.uri == f"hf://datasets/{DATASET}@{first}/out.zarr"
    assert np.array_equal(store.latents(range(24)), LatentStore(local_store).latents(range(24)))
    with pytest.raises(StoreError, match=r"is not a store of latents"):
        LatentStore(f"hf://datasets/{DATASET}/out.zarr")
    assert LatentStore(f"hf://datasets/{DATASET}@{first}/out.zarr").complete


def test_on_the_hub_what_is_missing_is_a_sentence(hub: HubServer, local_store):
    put(hub, local_store)
    with pytest.raises(NotFoundError, match=r"^hf://datasets/org/nothing does not exist, or is private"):
        LatentStore("hf://datasets/org/nothing/out.zarr")
    with pytest.raises(NotFoundError, match=rf"{DATASET} has no revision v9"):
        LatentStore(f"hf://datasets/{DATASET}@v9/out.zarr")
    with pytest.raises(UsageError, match=r"^hf://org/latents is not a store; on the Hub a store is hf://datasets/ORG/"):
        LatentStore("hf://org/latents")


def test_offline_a_store_is_read_in_the_cache(hub: HubServer, local_store, monkeypatch):
    commit = put(hub, local_store)
    for name in files_of(local_store):
        fetch(f"hf://datasets/{DATASET}@{commit}/out.zarr/{name}")
    LatentStore(f"hf://datasets/{DATASET}/out.zarr")  # so that the cache knows the commit
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    store = LatentStore(f"hf://datasets/{DATASET}/out.zarr")
    assert np.array_equal(store.latents(range(24)), LatentStore(local_store).latents(range(24)))
    assert len(hub.requests) == asked
    with pytest.raises(SourceError, match=r"org/other is not in the cache .*HF_HUB_OFFLINE is set"):
        LatentStore("hf://datasets/org/other/out.zarr")
