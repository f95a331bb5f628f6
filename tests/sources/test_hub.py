"""Datasets on the Hugging Face Hub as a source: which Parquet files a name stands for."""

import pytest

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.hub import find_files

from ..hub_server import HubServer

DATASET = "org/photos"
URI = f"hf://datasets/{DATASET}"
CONVERTED = "refs/convert/parquet"


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
        (("b.csv",), "and the Hub has not converted it; name its tars or a folder of images, as in .*/PATH$"),
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
    from tcae_cli.runtime.hub import fetch

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
