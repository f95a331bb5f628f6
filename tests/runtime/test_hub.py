"""Datasets on the Hugging Face Hub: files come through the client's cache, and what goes wrong is a sentence."""

import socket
import time
from collections import namedtuple
from pathlib import Path

import huggingface_hub
import pytest

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.runtime import hub as hub_module
from tcae_cli.runtime import silence
from tcae_cli.runtime.folder import open_to_read
from tcae_cli.runtime.hub import check_access, fetch, find_cached, pin, read_dataset
from tcae_cli.runtime.hub_name import HubName, parse_name

from ..hub_server import TOKEN, Cut, HubServer

pytestmark = pytest.mark.alone

DATASET = "org/photos"


@pytest.fixture
def offline(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Neither the client nor we wait between two attempts."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def located(commit: str, file: str = "data/a.parquet") -> str:
    return f"hf://datasets/{DATASET}@{commit}/{file}"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://datasets/org/photos", HubName("org/photos")),
        ("hf://datasets/org/photos/", HubName("org/photos")),
        ("hf://datasets/org/photos@v1.0", HubName("org/photos", "v1.0")),
        ("hf://datasets/org/photos@refs/convert/parquet", HubName("org/photos", "refs/convert/parquet")),
        ("hf://datasets/org/photos@refs/pr/3/a/b.parquet", HubName("org/photos", "refs/pr/3", "a/b.parquet")),
        ("hf://datasets/org/photos@a%2Fb/c.tar", HubName("org/photos", "a/b", "c.tar")),
        ("hf://org/model", None),
        ("hf://datasets/photos", None),
        ("s3://datasets/org/photos", None),
    ],
)
def test_names_of_datasets_are_parsed(uri, name):
    assert parse_name(uri) == name


def test_a_dataset_is_read_at_the_commit_of_its_revision(hub: HubServer):
    commit = hub.put(DATASET, {"a.parquet": b"1", "README.md": b"---\nlicense: mit\n---\n# Photos"})
    old = hub.put(DATASET, {"b.parquet": b"2"}, revision="v1")
    dataset = read_dataset(HubName(DATASET))
    assert str(dataset.name) == f"hf://datasets/{DATASET}@{commit}" and dataset.card == {"license": "mit"}
    assert set(dataset.files) == {"a.parquet", "README.md"}
    assert read_dataset(HubName(DATASET, "v1")).name.revision == old


def test_a_file_is_fetched_once_and_said(hub: HubServer, aside):
    location = located(hub.put(DATASET, {"data/a.parquet": b"x" * 2_000_000}))
    assert find_cached(location) is None
    path = fetch(location)
    assert path.read_bytes() == b"x" * 2_000_000 and find_cached(location) == path == fetch(location)
    assert len(hub.fetched("data/a.parquet")) == 1
    assert aside == [f"fetching data/a.parquet of {DATASET} (1.9 MiB)"]


def test_how_far_a_file_is_is_said_now_and_then_and_the_client_draws_nothing(hub: HubServer, aside, monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**20)
    monkeypatch.setattr(hub_module, "_SAY_EVERY_S", 0.0)
    fetch(located(hub.put(DATASET, {"data/a.parquet": bytes(2 * 2**20)})))
    assert aside[1:] == ["data/a.parquet: 1.0 of 2.0 MiB", "data/a.parquet: 2.0 of 2.0 MiB"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_connection_cut_in_mid_file_is_taken_up_again(hub: HubServer, impatient, capfd, monkeypatch, abruptly):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    data = bytes(range(256)) * 100
    commit = hub.put(DATASET, {"data/a.parquet": data})
    hub.cuts["data/a.parquet"] = Cut(after_bytes=5000, times=2, abruptly=abruptly)
    assert fetch(located(commit)).read_bytes() == data
    assert len(hub.fetched("data/a.parquet")) == 3
    if not abruptly:
        assert "bytes=5000-" in hub.fetched("data/a.parquet")[1]
    assert capfd.readouterr() == ("", "")


def test_a_connection_cut_again_and_again_is_a_sentence_and_leaves_no_file(hub: HubServer, impatient):
    location = located(hub.put(DATASET, {"data/a.parquet": bytes(50_000)}))
    hub.cuts["data/a.parquet"] = Cut(after_bytes=100, times=1000)
    with pytest.raises(SourceError, match=r"data/a.parquet cannot be fetched \(.*\); check the network, and repeat$"):
        fetch(location)
    assert find_cached(location) is None


def test_a_gated_dataset_says_where_its_terms_are_and_how_to_log_in(hub: HubServer, monkeypatch):
    location = located(hub.put(DATASET, {"data/a.parquet": b"x"}))
    hub.gated.add(DATASET)
    sentence = (
        f"hf://datasets/{DATASET} is gated: accept its terms at {hub.url}/datasets/{DATASET}, "
        "and log in with `hf auth login` or set HF_TOKEN$"
    )
    for read in (fetch, check_access):
        with pytest.raises(SourceError, match=sentence):
            read(location)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(location).read_bytes() == b"x"


def test_a_missing_or_private_dataset_is_named(hub: HubServer):
    hub.put("org/mine", {"a.parquet": b"x"})
    hub.private.add("org/mine")
    for name in ("org/mine", "org/nothing"):
        with pytest.raises(
            NotFoundError,
            match=f"^hf://datasets/{name} does not exist, or is private: look for it at {hub.url}/datasets/{name}, and "
            "correct it or log in with `hf auth login` or set HF_TOKEN$",
        ):
            read_dataset(HubName(name))


def test_a_missing_revision_and_a_missing_file_are_named(hub: HubServer):
    commit = hub.put(DATASET, {"a.parquet": b"x"})
    with pytest.raises(NotFoundError, match=f"{DATASET} has no revision v9; its revisions are listed at {hub.url}/"):
        read_dataset(HubName(DATASET, "v9"))
    with pytest.raises(SourceError, match=f"@{commit}/b.parquet does not exist; its files are listed at {hub.url}/"):
        fetch(located(commit, "b.parquet"))


def test_an_impossible_name_is_refused(hub: HubServer):
    with pytest.raises(UsageError, match=r"^hf://datasets/org/a--b is not the name of a dataset: .*--"):
        read_dataset(HubName("org/a--b"))


def test_a_token_that_is_refused_is_named(hub: HubServer):
    hub.put(DATASET, {"a.parquet": b"x"})
    for status, words in ((401, "the Hub refuses your token; log in"), (403, "may not be read with your token; look")):
        hub.refuse_all = status
        with pytest.raises(SourceError, match=words):
            read_dataset(HubName(DATASET))


def test_a_server_in_trouble_is_asked_again(hub: HubServer, impatient):
    hub.refuse_all = 503
    with pytest.raises(
        SourceError,
        match=r"photos cannot be fetched \(the server answers 503 Service Unavailable\); check the network, and",
    ):
        read_dataset(HubName(DATASET))
    assert len(hub.requests) == 3


def test_without_a_network_the_sentence_comes_within_ten_seconds(hub: HubServer, monkeypatch):
    begun_at = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        for port in (9, silent.getsockname()[1]):
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
            monkeypatch.setattr(silence, "PATIENCE_S", 1.0)
            with pytest.raises(SourceError, match=rf"{DATASET} cannot be fetched \(.*\); check the network"):
                read_dataset(HubName(DATASET))
    assert time.monotonic() - begun_at < 10


def test_a_full_disk_is_named_before_anything_is_fetched(hub: HubServer, monkeypatch):
    location = located(hub.put(DATASET, {"data/a.parquet": b"x" * 100}))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1000, 950, 50))
    with pytest.raises(
        SourceError, match=r"no space left in .*/hf/hub; make room there, or set HF_HOME to a folder on"
    ):
        fetch(location)
    assert not hub.fetched("data/a.parquet")


def test_offline_what_the_cache_holds_is_read_and_nothing_else(hub: HubServer, offline, monkeypatch):
    commit = hub.put(DATASET, {"data/a.parquet": b"x", "data/b.parquet": b"y", "README.md": b"---\na: 1\n---\n"})
    with monkeypatch.context() as online:
        online.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        read_dataset(HubName(DATASET))
        path = fetch(located(commit))
    hub.requests.clear()
    dataset = read_dataset(HubName(DATASET))
    assert dataset.name.revision == commit and dataset.files == ("README.md", "data/a.parquet")
    assert dataset.card == {"a": 1} and dataset.is_cached and fetch(located(commit)) == path
    with pytest.raises(
        SourceError, match=r"b\.parquet is not in the cache .*HF_HUB_OFFLINE is set; unset it, or run `hf "
    ):
        fetch(located(commit, "data/b.parquet"))
    for folder in ("", "data/"):
        listed = open_to_read(f"hf://datasets/{DATASET}/{folder}").sizes("" if folder else "data")
        assert listed == {f"{'' if folder else 'data/'}a.parquet": 1}
    with pytest.raises(SourceError, match=r"org/other is not in the cache"):
        read_dataset(HubName("org/other"))
    assert not hub.requests


def test_offline_a_snapshot_that_the_client_made_is_read(hub: HubServer, offline, monkeypatch):
    commit = hub.put(DATASET, {"data/a.parquet": b"x"})
    with monkeypatch.context() as online:
        online.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        huggingface_hub.snapshot_download(DATASET, repo_type="dataset")
        huggingface_hub.snapshot_download(DATASET, repo_type="dataset", revision=hub.put(DATASET, {"b.parquet": b"y"}))
    assert read_dataset(HubName(DATASET)).name.revision == commit
    assert Path(fetch(located(commit))).read_bytes() == b"x"


def test_a_name_is_pinned_to_the_commit_of_its_revision(hub: HubServer):
    commit = hub.put(DATASET, {"a.parquet": b"x"})
    pinned = f"hf://datasets/{DATASET}@{commit}"
    assert pin(f"hf://datasets/{DATASET}") == pinned and pin(f"hf://datasets/{DATASET}/a/*.tar") == f"{pinned}/a/*.tar"
    asked = len(hub.requests)
    assert pin(f"{pinned}/a/") == f"{pinned}/a/" and pin("s3://bucket/a") == "s3://bucket/a"
    assert len(hub.requests) == asked


@pytest.mark.parametrize("signature", ["", "first"])
def test_ranges_of_a_file_cost_the_hub_one_request_and_the_token_stays_there(hub: HubServer, monkeypatch, signature):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.signature = signature
    hub.gated.add(DATASET)
    data = bytes(range(256)) * 10
    folder = open_to_read(f"hf://datasets/{DATASET}@{hub.put(DATASET, {'data/a b.parquet': data})}/data/")
    assert folder.read_range("a b.parquet", 10, 20) == data[10:30]
    assert (
        folder.read_range("a b.parquet", -8, 8) == data[-8:] and folder.read_range("a b.parquet", -9999, 3) == data[:3]
    )
    assert (
        folder.read_range("a b.parquet", 2550, 99) == data[2550:] and folder.read_range("a b.parquet", 9999, 1) == b""
    )
    with folder.open("a b.parquet") as file:
        file.seek(-100, 2)
        assert file.read() == data[-100:]
    at_the_hub = [request for request in hub.requests if "/stored/" not in request]
    assert [request.split()[0] for request in at_the_hub] == (["HEAD"] if signature else ["HEAD", *["GET"] * 5])
    assert folder.read("a b.parquet") == data and hub.tokens_sent_away == 0


def test_a_signature_that_has_ended_is_asked_for_anew(hub: HubServer):
    hub.signature = "first"
    folder = open_to_read(f"hf://datasets/{DATASET}@{hub.put(DATASET, {'a.parquet': b'abc'})}/")
    assert folder.read_range("a.parquet", 0, 1) == b"a"
    hub.signature = "second"
    assert folder.read_range("a.parquet", 1, 1) == b"b"


def test_a_file_in_the_cache_is_read_there(hub: HubServer):
    root = f"hf://datasets/{DATASET}@{hub.put(DATASET, {'data/a.parquet': b'abcdef'})}/"
    fetch(f"{root}data/a.parquet")
    hub.requests.clear()
    folder = open_to_read(root)
    assert folder.read("data/a.parquet") == b"abcdef" and folder.read_range("data/a.parquet", -2, 2) == b"ef"
    with folder.open("data/a.parquet") as file:
        assert file.read(2) == b"ab"
    assert not hub.requests


def test_files_are_listed_and_a_missing_one_is_an_error_of_its_own(hub: HubServer):
    commit = hub.put(DATASET, {"data/a.parquet": b"abc", "data/deep/b": b"", "c": b"1"})
    folder = open_to_read(f"hf://datasets/{DATASET}@{commit}/")
    assert folder.sizes("data") == {"data/a.parquet": 3, "data/deep/b": 0}
    with pytest.raises(FileNotFoundError) as raised:
        folder.read("data/z")
    assert raised.value.filename == f"hf://datasets/{DATASET}@{commit}/data/z"
    hub.gated.add(DATASET)
    with pytest.raises(SourceError, match=r"is gated: accept its terms"):
        folder.read_range("data/a.parquet", 0, 2)


@pytest.mark.parametrize("name", ["../..", "org/name@..%2F..%2Fx", "org/name/../../x", "org/name@v1/a/.."])
def test_a_name_that_leads_out_of_its_dataset_is_refused(name):
    with pytest.raises(UsageError, match=r"leads out of the dataset by its '\.\.'; write the name without it"):
        parse_name(f"hf://datasets/{name}")
