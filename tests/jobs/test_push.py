"""`tcae push`: a store or a model goes to the Hugging Face Hub, with a card, and what was cut is resumed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import s3fs
import torch
import yaml

from tcae_cli.autoencoders.by_name import load_autoencoder, read_card
from tcae_cli.errors import DiskError, NotFoundError, StoreError, UsageError
from tcae_cli.jobs import push as push_module
from tcae_cli.jobs.push import push_to_hub
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.push import PushReport, PushRequest
from tcae_cli.runtime.hub import fetch
from tcae_cli.runtime.hub_upload import commit
from tcae_cli.store.dataset import LatentDataset
from tcae_cli.store.reader import LatentStore

from ..hub_server import TOKEN, HubServer
from ..small_diffusers import save_kl
from ..store_contents import assert_same_arrays, change_metadata, files_of

TARGET = "hf://datasets/org/latents"
RUN = Path(__file__).parents[1] / "fixtures" / "run"


@pytest.fixture(autouse=True)
def logged_in(hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def encoded(photos, encode, tmp_path_factory) -> Path:
    """The photographs in a store of two shards."""
    path = tmp_path_factory.mktemp("push") / "out.zarr"
    encode(photos, path)
    return path


@pytest.fixture
def store(encoded, tmp_path, hub) -> Path:
    """The same, to be changed, and a Hub without a repository."""
    return shutil.copytree(encoded, tmp_path / "out.zarr")


def push(what: Path | str, target: str = TARGET) -> PushReport:
    return push_to_hub(PushRequest(what=str(what), target=target), Silent())


def pushed(hub: HubServer, repository: str = "org/latents") -> dict[str, bytes]:
    """The files of the pushed store."""
    found = hub.files(repository)
    return {name.removeprefix("out.zarr/"): data for name, data in found.items() if name.startswith("out.zarr/")}


def uploads(hub: HubServer) -> list[str]:
    return [request for request in hub.requests if request.startswith("PUT ")]


def fetched_store(folder: Path) -> Path:
    """All of a pushed store, as it is read through the Hub, in a local folder."""
    there = LatentStore(f"{TARGET}/out.zarr").folder
    for name in there.sizes():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(there.read(name))
    return folder


def test_a_pushed_store_equals_the_original_in_every_array(store, hub, tmp_path):
    report = push(store)
    assert report.address == f"{TARGET}/out.zarr" and report.num_uploaded == report.num_files == len(files_of(store))
    assert pushed(hub) == files_of(store)
    assert_same_arrays(fetched_store(tmp_path / "fetched.zarr"), store)
    there, here = LatentStore(report.address), LatentStore(store)
    assert np.array_equal(there.latents(range(24)), here.latents(range(24)))


def test_a_pushed_posterior_is_drawn_from_at_its_address(photos, hub, encode, tmp_path):
    save_kl(tmp_path / "model")
    encode(photos, tmp_path / "out.zarr", model=f"diffusers:{tmp_path / 'model'}", sizes=(32,), posterior=True)
    push(tmp_path / "out.zarr")
    assert_same_arrays(fetched_store(tmp_path / "again.zarr"), tmp_path / "out.zarr")
    drawn = []
    for path in (tmp_path / "out.zarr", f"{TARGET}/out.zarr"):
        torch.manual_seed(0)
        drawn.append(LatentDataset(path, sample_posterior=True)[[0, 5]]["latents"])
    assert torch.equal(*drawn)


def test_a_store_in_a_bucket_is_pushed_and_one_on_a_web_server_is_not(store, hub, bucket):
    s3fs.S3FileSystem().put(f"{store}/", f"{bucket}/out.zarr/", recursive=True)
    push(f"{bucket}/out.zarr")
    assert pushed(hub) == files_of(store)
    with pytest.raises(UsageError, match=r"is on a web server, which lists no files; copy it here, and push the copy$"):
        push("https://host/out.zarr")


def test_pushing_again_uploads_nothing(store, hub):
    first = push(store)
    num_uploads = len(uploads(hub))
    again = push(store)
    assert again.num_uploaded == 0 and again.commit == first.commit and len(uploads(hub)) == num_uploads


def test_a_push_that_is_cut_continues(store, hub, monkeypatch):
    monkeypatch.setattr(push_module, "_COMMIT_FILES", 5)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # of the client, between attempts
    hub.uploads_left = 9
    with pytest.raises(DiskError, match=rf"^{TARGET} cannot be written \(.*\); what was uploaded stays, so repeat"):
        push(store)
    assert 0 < len(pushed(hub)) < len(files_of(store)) and "zarr.json" not in pushed(hub)
    with pytest.raises(StoreError, match="is not a store of latents"):  # until all of it is there
        LatentStore(f"{TARGET}/out.zarr")
    received = set(hub.received)
    hub.uploads_left = 1000
    hub.requests.clear()
    report = push(store)
    assert pushed(hub) == files_of(store) and 0 < report.num_uploaded < report.num_files
    assert not received & {request.split()[1].removeprefix("/upload/") for request in uploads(hub)}


@pytest.mark.alone
def test_a_push_that_is_killed_continues(store, hub):
    hub.uploads_stall = 5
    command = [sys.executable, "-m", "tcae_cli", "push", str(store), TARGET]
    with subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        patience_ends_at = time.monotonic() + 60
        while len(hub.received) < 5 and time.monotonic() < patience_ends_at and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.communicate()
    hub.uploads_stall = 0
    assert pushed(hub) == {}
    received = set(hub.received)
    hub.requests.clear()
    push(store)
    assert pushed(hub) == files_of(store)
    assert not received & {request.split()[1].removeprefix("/upload/") for request in uploads(hub)}


def test_a_store_that_has_grown_takes_the_place_of_the_earlier_one(store, photos, hub, encode, tmp_path):
    more = shutil.copytree(photos, tmp_path / "photos")
    encode(more, tmp_path / "grown" / "out.zarr")
    push(tmp_path / "grown" / "out.zarr")
    shutil.copy(more / "thing" / "0.jpg", more / "thing" / "new.jpg")
    encode(more, tmp_path / "grown" / "out.zarr", append=True)
    report = push(tmp_path / "grown" / "out.zarr")
    assert 0 < report.num_uploaded < report.num_files
    assert pushed(hub) == files_of(tmp_path / "grown" / "out.zarr")  # the index that was replaced is gone
    with pytest.raises(
        StoreError, match=rf"^{TARGET}/out.zarr holds another store, which stays as it is; push .* to an"
    ):
        push(store)


def test_files_of_processes_are_not_uploaded(store, hub):
    before = files_of(store)
    for name in (".tcae/leases/a.0.json", ".tcae/part/x", "buckets/64x96/.tcae/claims/0.0.json"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"{}")
    (store / "buckets" / "64x96" / "zarr.json").write_bytes(b"of a group below")
    push(store)
    assert pushed(hub) == {**before, "buckets/64x96/zarr.json": b"of a group below"}


def test_files_of_others_stay(store, hub):
    hub.put("org/latents", {"out.zarr/mine.txt": b"mine", "data.parquet": b"x"})
    push(store)
    assert hub.files("org/latents")["out.zarr/mine.txt"] == b"mine" and "data.parquet" in hub.files("org/latents")


def test_a_store_that_changes_while_it_is_pushed_is_not_completed(store, hub, monkeypatch):
    def change_and_commit(*arguments) -> str:
        change_metadata(store / "zarr.json", lambda root: root["attributes"].update(complete=False))
        return commit(*arguments)

    monkeypatch.setattr(push_module, "commit", change_and_commit)
    with pytest.raises(
        StoreError, match=r"out\.zarr was changed while it was pushed; repeat once it is complete again$"
    ):
        push(store)
    assert "zarr.json" not in pushed(hub)


def test_an_incomplete_store_is_refused(store, hub):
    change_metadata(store / "zarr.json", lambda root: root["attributes"].update(complete=False))
    with pytest.raises(StoreError, match=r"out\.zarr is incomplete; finish it by repeating tcae encode-dataset, then"):
        push(store)
    assert not hub.commits


def test_the_card_says_what_the_store_holds_and_how_to_read_it(store, hub, small_checkpoint, photos, capsys):
    push(store)
    card = hub.files("org/latents")["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "unknown" and front["size_categories"] == ["n<1K"] and "zarr" in front["tags"]
    spec = LatentStore(store).spec
    for words in (str(photos), str(small_checkpoint), spec.encoder.hash, "short side resized (torch)", "## Licence"):
        assert words in card
    figures = LatentStore(store).summaries["latents"]
    assert f"| `latents` | {figures['mean']:.4g} | {figures['std']:.4g} |" in card
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert capsys.readouterr().out.startswith("24 torch.Size([8, 2, 2])")


def test_a_store_of_buckets_is_pushed_with_all_of_them(photos, hub, encode, tmp_path, capsys):
    path = tmp_path / "out.zarr"
    encode(photos, path, buckets=True, sizes=(64,), bucket_step=32)
    report = push(path)
    assert pushed(hub) == files_of(path)
    (bucket,) = (folder.name for folder in (path / "buckets").iterdir() if folder.is_dir())
    there, here = (LatentStore(f"{each}/buckets/{bucket}") for each in (report.address, path))
    assert np.array_equal(there.latents(range(24)), here.latents(range(24)))
    card = hub.files("org/latents")["README.md"].decode()
    assert f"`buckets/{bucket}`" in card
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert capsys.readouterr().out.startswith("24 torch.Size([8, ")


def test_a_card_of_ones_own_is_kept(store, hub):
    push(store)
    files = hub.files("org/latents")
    own = b"\n".join(line for line in files["README.md"].splitlines() if b"<!--" not in line) + b"\nMine."
    hub.put("org/latents", files | {"README.md": own})
    report = push(store)
    assert report.card_kept and hub.files("org/latents")["README.md"] == own


def test_a_place_in_the_repository_may_be_named(store, hub):
    report = push(store, f"{TARGET}/size/64.zarr")
    assert report.address == f"{TARGET}/size/64.zarr" and LatentStore(report.address).complete


def test_what_cannot_be_written_is_a_sentence(store, hub, monkeypatch):
    with pytest.raises(
        UsageError, match=r"^s3://b/x is not a repository on the Hub; push a store to hf://datasets/ORG"
    ):
        push(store, "s3://b/x")
    with pytest.raises(UsageError, match=r"^hf://datasets/org/a--b is not a name on the Hub: "):
        push(store, "hf://datasets/org/a--b")
    with pytest.raises(
        DiskError, match=r"^hf://datasets/other/x may not be written with your token; log in .* may write to other$"
    ):
        push(store, "hf://datasets/other/x")
    with pytest.raises(DiskError, match=r"has no revision v9; its revisions are listed"):
        hub.put("org/latents", {})
        push(store, f"{TARGET}@v9")
    hub.refuse_all = 401
    with pytest.raises(DiskError, match=rf"^{TARGET} cannot be written, since the Hub refuses your token; log in"):
        push(store)
    hub.refuse_all = 0
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(DiskError, match=rf"^{TARGET} cannot be written without a token; log in with `hf auth login`"):
        push(store)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DiskError, match=rf"^{TARGET} cannot be written \(.*\); what was uploaded stays, so repeat"):
        push(store)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DiskError, match=rf"^{TARGET} cannot be written, since HF_HUB_OFFLINE is set; unset it$"):
        push(store)


def test_a_pushed_model_is_read_by_its_name(hub, photos, tmp_path, encode):
    report = push(RUN, "hf://org/small")
    assert report.address == "hf://org/small" and report.num_uploaded == 1
    assert hub.files("models/org/small")["model.safetensors"] == (RUN / "model.safetensors").read_bytes()
    assert read_card("hf://org/small").encoder_hash == read_card(str(RUN)).encoder_hash
    encode(photos, tmp_path / "out.zarr", model="hf://org/small")
    assert LatentStore(tmp_path / "out.zarr").spec.encoder.name == "hf://org/small"
    assert push(RUN, "hf://org/small").num_uploaded == 0


def test_the_card_of_a_model_has_its_recipe_data_and_figures(hub):
    push(RUN, "hf://org/small")
    card = hub.files("models/org/small")["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "tcae"
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert recipe["train"]["steps"] == 6 and recipe["model"]["latent_channels"] == 4
    assert "| Steps | 3 of 6 |" in card and "| Data | `" in card and "| `l1` | 0.2297 |" in card
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    assert names["model"].spec == load_autoencoder(str(RUN)).spec


def test_a_store_is_no_model_and_a_model_no_store(store, hub):
    with pytest.raises(UsageError, match=r"out\.zarr is a store; push it to hf://datasets/ORG/NAME$"):
        push(store, "hf://org/small")
    with pytest.raises(StoreError, match=r"is not a store of latents"):
        push(RUN)
    with pytest.raises(NotFoundError, match="no model at nowhere"):
        push("nowhere", "hf://org/small")


def test_the_command_says_where_the_store_is(store, hub, tcae):
    code, said, _ = tcae("push", store, TARGET)
    assert code == 0 and f"{store} is at {TARGET}/out.zarr: {len(files_of(store))} files" in said
    assert f"state the licence in the README.md at {hub.url}/datasets/org/latents" in said
    assert "nothing to do" in tcae("push", store, TARGET)[1]


def test_what_is_in_the_clients_cache_is_read_there(store, hub):
    report = push(store)
    for name in pushed(hub):
        fetch(f"{TARGET}@{report.commit}/out.zarr/{name}")
    asked = len(hub.fetched("out.zarr/latents/c.0.0.0.0"))
    assert len(LatentStore(report.address).latents(range(24))) == 24
    assert len(hub.fetched("out.zarr/latents/c.0.0.0.0")) == asked
