"""Datasets on the Hugging Face Hub as a source: which Parquet files a name stands for, and their images."""

import json
import time

import datasets
import pytest

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.runtime import hub_folder
from tcae_cli.runtime.hub import fetch, get
from tcae_cli.sources.hub import find_files
from tcae_cli.sources.scan import open_source

from ..forked import COMMAND
from ..hub_server import TOKEN, Cut, HubServer
from ..store_contents import assert_same_arrays, attributes_of
from ..tables import parquet

DATASET = "org/photos"
URI = f"hf://datasets/{DATASET}"
OF_THE_HUB = f"import importlib, huggingface_hub.constants as read; importlib.reload(read); {COMMAND}"
CONVERTED = "refs/convert/parquet"
IN_TROUBLE = r"\(the server answers 500 Internal Server Error\)"


def names(uri: str, split: str | None = None) -> list[str]:
    return find_files(uri, SampleFields(split=split)).names


def files(*paths: str, card: str = "") -> dict[str, bytes]:
    return dict.fromkeys(paths, b"") | ({"README.md": f"---\n{card}\n---\n".encode()} if card else {})


def test_the_files_of_a_split_are_those_of_the_usual_names_at_one_commit(hub: HubServer):
    shards = [f"data/train-0000{number}-of-00002-0f3a.parquet" for number in (1, 0)]
    commit = hub.put(DATASET, files(*shards, "data/validation-00000-of-00001.parquet", "data/notes.txt"))
    found = find_files(URI, SampleFields())
    assert found.root == f"hf://datasets/{DATASET}@{commit}/" and found.names == sorted(shards)
    assert names(f"{URI}#validation") == names(URI, "validation") == ["data/validation-00000-of-00001.parquet"]
    assert names(f"{URI}@{commit}#train") == sorted(shards)


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (("train/0.parquet", "test/0.parquet"), {"train": ["train/0.parquet"], "test": ["test/0.parquet"]}),
        (("train.parquet", "dev.parquet"), {"train": ["train.parquet"], "validation": ["dev.parquet"]}),
        (("a.parquet", "deep/b.parquet", "c.csv"), {"train": ["a.parquet"]}),
        (
            ("a/my_train_2.parquet", "a/Val.parquet"),
            {"train": ["a/my_train_2.parquet"], "validation": ["a/Val.parquet"]},
        ),
        (("data/extra-00000-of-00001.parquet",), {"extra": ["data/extra-00000-of-00001.parquet"]}),
        (("en/train/0000.parquet", "en/odd/0000.parquet"), {"odd": ["en/odd/0000.parquet"]}),
        (("train-1.parquet", "other.parquet"), {"train": ["train-1.parquet"]}),
    ],
)
def test_a_split_is_told_by_a_file_s_name_or_its_folders(hub: HubServer, paths, splits):
    hub.put(DATASET, files(*paths))
    configuration = "default/" if "deep/b.parquet" in paths else ""
    assert {split: names(f"{URI}#{configuration}{split}") for split in splits} == splits


@pytest.mark.parametrize(
    ("paths", "card"),
    [
        (("data/train-00000-of-00001.parquet", "data/odd-00000-of-00001.parquet"), ""),
        (("train/0.parquet", "test/0.parquet", "other/1.parquet"), ""),
        (("train.parquet", "dev.parquet", "x.parquet"), ""),
        (("b.parquet", "a.parquet"), ""),
        (("data/train/a.parquet", "data/eval/b.parquet"), ""),
        (("a/my_train_2.parquet", "a/test1.parquet"), ""),
        (("training-set.parquet", "trains.parquet"), ""),
        (
            ("a/0.parquet", "a/x/9.parquet", "b/c/1.parquet", "b/2.parquet"),
            "configs: [{config_name: x, data_files: [{split: train, path: a/*}, {split: test, path: b/**/*.parquet}]}]",
        ),
        (
            ("s/train.parquet", "s/test.parquet", "l/train.parquet"),
            "configs: [{config_name: s, data_dir: s}, {config_name: l, data_dir: l, default: true}]",
        ),
    ],
)
def test_the_files_of_each_split_are_those_that_the_datasets_library_takes(
    hub: HubServer, tmp_path, monkeypatch, paths, card
):
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
    hub.put(DATASET, files(*paths, card=card))
    configurations = datasets.get_dataset_config_names(DATASET)
    for name in configurations:
        builder = datasets.load_dataset_builder(DATASET, name, cache_dir=tmp_path)
        start = name + "/" if len(configurations) > 1 else ""
        for split, found in builder.config.data_files.items():
            expected = sorted(url.partition("@")[2].partition("/")[2] for url in found)
            assert names(f"{URI}#{start}{split}") == expected


@pytest.mark.parametrize(
    "data_files",
    [
        "[{split: train, path: 'a/*.parquet'}, {split: test, path: ['b/**/1.parquet', './b/2.parquet']}]",
        "{train: 'a/?.parquet', test: '**/[12].parquet'}",
    ],
)
def test_a_card_lists_the_files_of_each_split(hub: HubServer, data_files):
    card = f"configs:\n- config_name: any\n  data_files: {data_files}"
    hub.put(
        DATASET, files("a/0.parquet", "a/x/9.parquet", "b/c/1.parquet", "b/2.parquet", "train-0.parquet", card=card)
    )
    assert names(URI) == ["a/0.parquet"] and names(f"{URI}#test") == ["b/2.parquet", "b/c/1.parquet"]


@pytest.mark.parametrize("data_files", ["'*.parquet'", "['a.parquet', 'b.*']"])
def test_files_that_a_card_lists_without_a_split_are_train(hub: HubServer, data_files):
    hub.put(DATASET, files("a.parquet", "b.parquet", card=f"configs:\n- data_files: {data_files}"))
    assert names(URI) == ["a.parquet", "b.parquet"]


def test_a_configuration_may_be_a_folder(hub: HubServer):
    card = "configs: [{config_name: small, data_dir: s}, {config_name: large, data_dir: ./l/}]"
    hub.put(DATASET, files("s/train.parquet", "s/test.parquet", "l/train.parquet", "sl/train.parquet", card=card))
    assert names(f"{URI}#small/") == ["s/train.parquet"] and names(URI, "small/test") == ["s/test.parquet"]
    assert names(f"{URI}#large/train") == ["l/train.parquet"]


@pytest.mark.parametrize("card", ["", "configs: [{config_name: en, data_dir: en}, {config_name: de, data_dir: de}]"])
def test_of_several_configurations_one_must_be_chosen(hub: HubServer, card):
    hub.put(DATASET, files("en/test-00000-of-00001.parquet", "de/train-00000-of-00001.parquet", card=card))
    with pytest.raises(UsageError, match=f"^{URI} has the configurations de, en; choose one, as in {URI}#de/train$"):
        names(URI)
    assert names(f"{URI}#en/test") == ["en/test-00000-of-00001.parquet"]
    with pytest.raises(NotFoundError, match=f"^{URI} has no configuration fr; it has de, en$"):
        names(f"{URI}#fr/train")


@pytest.mark.parametrize(
    "marked", ["{config_name: default, data_dir: a}", "{config_name: x, data_dir: a, default: true}"]
)
def test_the_default_configuration_is_taken(hub: HubServer, marked):
    card = f"configs: [{{config_name: b, data_dir: b}}, {marked}]"
    hub.put(DATASET, files("a/train.parquet", "b/train.parquet", card=card))
    assert names(URI) == ["a/train.parquet"] and names(f"{URI}#b/") == ["b/train.parquet"]


def test_a_split_that_is_not_there_is_a_sentence_that_lists_those_that_are(hub: HubServer):
    hub.put(DATASET, files("data/test-00000-of-00001.parquet", "data/odd-00000-of-00001.parquet"))
    for uri, split in ((URI, "train"), (f"{URI}#val", "val")):
        with pytest.raises(NotFoundError, match=f"^{URI} has no split {split}; it has odd, test$"):
            names(uri)


def test_the_name_and_the_option_may_not_disagree(hub: HubServer):
    hub.put(DATASET, files("test.parquet"))
    assert names(f"{URI}#test", "test") == ["test.parquet"]
    with pytest.raises(UsageError, match=f"^{URI}#test names the split test, and --split train; give one of them$"):
        names(f"{URI}#test", "train")


def test_a_dataset_of_other_files_is_read_from_the_hub_s_own_conversion(hub: HubServer):
    hub.put(DATASET, files("images/0.jpg"))
    converted = files("default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet")
    commit = hub.put(DATASET, converted, revision=CONVERTED)
    found = find_files(URI, SampleFields())
    assert found.root == f"hf://datasets/{DATASET}@{commit}/"
    assert found.names == ["default/train/0000.parquet", "default/train/0001.parquet"]
    assert names(f"{URI}@{CONVERTED}#test") == ["default/test/0000.parquet"]


def test_a_part_of_a_split_is_taken_only_by_its_name(hub: HubServer):
    hub.put(DATASET, files("0.tar"))
    hub.put(DATASET, files("default/partial-train/0000.parquet"), revision=CONVERTED)
    with pytest.raises(
        NotFoundError, match="it has partial-train; partial-train is the first part of it, which is all"
    ):
        names(URI)
    assert names(f"{URI}#partial-train") == ["default/partial-train/0000.parquet"]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("a/0.tar", "a/1.tar"), rf"\(2 with .tar\); name its tars, as in {URI}/a/0.tar$"),
        (("a/0.jpg", "b.csv"), rf"\(1 with .jpg, 1 with .csv\); name the folder of its images, as in {URI}/a$"),
        (
            ("b.csv", "c.png"),
            r"and the Hub has not converted it; fetch it with `hf download .* --local-dir FOLDER`, and name",
        ),
    ],
)
def test_a_dataset_without_parquet_says_what_it_holds(hub: HubServer, paths, words):
    hub.put(DATASET, files(*paths))
    with pytest.raises(SourceError, match=f"^{URI} holds no Parquet files .*{words}" if words[0] == "a" else words):
        names(URI)


def test_the_conversion_does_not_stand_for_another_revision(hub: HubServer):
    hub.put(DATASET, files("default/train/0000.parquet"), revision=CONVERTED)
    hub.put(DATASET, files("0.jpg"), revision="v1")
    with pytest.raises(SourceError, match=f"^{URI}@v1 holds no Parquet files"):
        names(f"{URI}@v1")


def test_offline_a_split_that_the_cache_holds_in_part_is_refused(hub: HubServer, monkeypatch):
    shards = [f"data/train-0000{number}-of-00002.parquet" for number in (0, 1)]
    hub.put(DATASET, files(*shards))
    root = find_files(URI, SampleFields()).root
    fetch(root + shards[1])
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(SourceError, match=f"^{URI} is incomplete: the cache holds only 1 of the files named like"):
            names(URI)
    fetch(root + shards[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert names(URI) == shards


def test_the_images_of_a_split_are_listed_by_range_and_fetched_when_they_are_read(hub: HubServer, png, tmp_path):
    images = [png(seed=seed) for seed in range(5)]
    shards = ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")
    hub.put(DATASET, {shards[0]: parquet(images[:3], [0, 1, 0]), shards[1]: parquet(images[3:], [1, 1])})
    source = open_source(URI, tmp_path / "index")
    assert (
        source.uri == URI and source.class_names == ("cat", "dog") and source.labels(0, 5).tolist() == [0, 1, 0, 1, 1]
    )
    assert source.key(3) == f"{shards[1]}/00000000"
    assert all("bytes=" in request for request in hub.requests if request.startswith("GET /datasets/"))
    assert source.read(4) == images[4]
    assert [request.split()[1].rpartition("/")[2] for request in hub.requests if request.endswith(" ")][-1] == shards[
        1
    ][5:]
    assert [*source.read_many(range(5))] == images


def test_the_fingerprint_does_not_depend_on_the_commit(hub: HubServer, png, tmp_path):
    files = {"train.parquet": parquet([png(seed=1), png(seed=2)])}
    hub.put(DATASET, files)
    before = open_source(URI, tmp_path / "before")
    hub.put(DATASET, files | {"more.txt": b"news"})
    after = open_source(URI, tmp_path / "after")
    assert before.folder.uri != after.folder.uri and before.fingerprint == after.fingerprint


def test_a_source_is_read_at_its_commit_though_the_dataset_has_moved_on(hub: HubServer, png, tmp_path):
    hub.put(DATASET, {"train.parquet": parquet([png(seed=1)])})
    source = open_source(URI, tmp_path / "index")
    hub.put(DATASET, {"train.parquet": parquet([png(seed=2)])})
    assert source.read(0) == png(seed=1)


@pytest.mark.parametrize("path", ["data/*.parquet", "data", "data/"])
def test_files_named_by_their_path_are_read_at_one_commit_too(hub: HubServer, png, tmp_path, path):
    commit = hub.put(DATASET, {f"data/{name}.parquet": parquet([png(seed=ord(name))]) for name in "ab"})
    source = open_source(f"{URI}/{path}", tmp_path / "index")
    hub.put(DATASET, {"data/a.parquet": parquet([png(seed=9)])})
    assert source.folder.uri == f"{URI}@{commit}/data" and source.uri == f"{URI}/{path}"
    assert [*source.read_many(range(2))] == [png(seed=ord("a")), png(seed=ord("b"))]


def test_a_network_that_fails_while_a_split_is_listed_fails_no_row(hub: HubServer, png, tmp_path, monkeypatch):
    hub.put(DATASET, {"train.parquet": parquet([png(200, 300, seed=seed) for seed in range(8)], rows_per_group=1)})
    monkeypatch.setattr(time, "sleep", lambda _: None)
    groups_read = 0

    def fail_after_the_footer(url: str, byte_range: str = "") -> bytes:
        nonlocal groups_read
        groups_read += 1
        if groups_read > 2:
            hub.refuse_all = 500
        return get(url, byte_range)

    monkeypatch.setattr(hub_folder, "get", fail_after_the_footer)
    with pytest.raises(
        SourceError,
        match=rf"train\.parquet cannot be read {IN_TROUBLE}; check the name, your credentials and",
    ):
        open_source(URI, tmp_path / "index")


def test_a_gated_dataset_is_refused_before_its_files_are_listed(hub: HubServer, png, tmp_path, monkeypatch):
    hub.put(DATASET, {"train.parquet": parquet([png()])})
    hub.gated.add(DATASET)
    with pytest.raises(
        SourceError, match=f"^{URI} is gated: accept its terms at {hub.url}/datasets/{DATASET}, and log in"
    ):
        open_source(URI, tmp_path / "index")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_source(URI, tmp_path / "index").read(0) == png()


def test_a_download_that_fails_ends_the_reading_and_fails_no_row(hub: HubServer, png, tmp_path, monkeypatch):
    hub.put(DATASET, {"train.parquet": parquet([png()])})
    source = open_source(URI, tmp_path / "index")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.refuse_all = 500
    with pytest.raises(
        SourceError,
        match=rf"train\.parquet cannot be fetched {IN_TROUBLE}; check the network, and repeat$",
    ):
        source.read(0)
    hub.refuse_all = 0
    assert source.read(0) == png()


def test_offline_a_dataset_that_was_fetched_is_a_source(hub: HubServer, png, tmp_path, monkeypatch):
    hub.put(DATASET, {"train.parquet": parquet([png()]), "README.md": b""})
    online = open_source(URI, tmp_path / "online")
    online.read(0)
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = open_source(URI, tmp_path / "offline")
    assert offline.fingerprint == online.fingerprint and offline.read(0) == png() and not hub.requests


def test_offline_the_hub_s_own_conversion_is_found_too(hub: HubServer, png, tmp_path, monkeypatch):
    hub.put(DATASET, {"0.tar": b"", "README.md": b""})
    hub.put(DATASET, {"default/train/0000.parquet": parquet([png()])}, revision=CONVERTED)
    open_source(URI, tmp_path / "online").read(0)
    hub.put(DATASET, {"1.tar": b"", "README.md": b"changed"})
    find_files(URI, SampleFields())
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert open_source(URI, tmp_path / "offline").read(0) == png() and not hub.requests


def test_a_command_killed_in_mid_download_resumes_and_equals_one_from_files_here(
    hub: HubServer, many_photos, tmp_path, encode, start_tcae
):
    photos = [path.read_bytes() for path in sorted(many_photos.iterdir())]
    shards = [f"data/train-0000{number}-of-00002.parquet" for number in range(2)]
    contents = [parquet(photos[start : start + 120], rows_per_group=40) for start in (0, 120)]
    hub.put(DATASET, dict(zip(shards, contents, strict=True)))
    store = tmp_path / "hub.zarr"

    hub.stalled.add(shards[1])
    killed = start_tcae(URI, store, "--batch-size", "2", program=OF_THE_HUB)
    patience_ends_at = time.monotonic() + 60
    while len(committed := list(store.glob(".tcae/commits/*.json"))) < 5:
        assert time.monotonic() < patience_ends_at
        time.sleep(0.01)
    killed.kill()
    said = killed.communicate()[1]
    assert f"fetching {shards[0]} of {DATASET} (" in said

    hub.stalled.clear()
    hub.cuts[shards[1]] = Cut(after_bytes=1000, times=1)
    resumed = start_tcae(URI, store, "--batch-size", "2", "--json", program=OF_THE_HUB)
    output, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    assert json.loads(output)["num_encoded_now"] <= 240 - 16 * len(committed)
    assert f"fetching {shards[1]} of {DATASET} (" in said and "Trying to resume" not in said
    assert len([request for request in hub.fetched(shards[0]) if "bytes=" not in request]) == 1

    (tmp_path / "here" / "data").mkdir(parents=True)
    for name, content in zip(shards, contents, strict=True):
        (tmp_path / "here" / name).write_bytes(content)
    encode(f"{tmp_path}/here/**/*.parquet", tmp_path / "here.zarr", batch_size=2)
    assert_same_arrays(store, tmp_path / "here.zarr")
    assert attributes_of(store)["source"]["uri"] == URI
