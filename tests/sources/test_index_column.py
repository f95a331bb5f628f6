"""The columns of an index: a flipped bit of any of them is an error that names the file, wherever it is read."""

import json
import random
import shutil

import numpy as np
import pytest

from tcae_cli.errors import SourceError
from tcae_cli.sources import index_column
from tcae_cli.sources.index_column import IndexColumn, checksums_of
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source


@pytest.fixture
def index(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "animal" / "0.txt").write_text("a cat")
    return open_source(str(folder), tmp_path / "index").index_dir


def everything_in(source: Source) -> list:
    return [*source.entries(), source.uri, source.class_names, source.fingerprint, source.groups()]


def test_a_flipped_bit_of_an_index_is_never_a_value(index):
    whole, draw, num_seen = everything_in(Source(index)), random.Random(0), 0
    for file in sorted(index.iterdir()):
        data = file.read_bytes()
        for _ in range(12):
            changed = bytearray(data)
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            try:
                assert everything_in(Source(index)) == whole
            except SourceError as error:
                num_seen += 1
                assert str(error).startswith(str(index)) and (
                    "is damaged" in str(error) or "another version" in str(error)
                )
        file.write_bytes(data)
    assert num_seen > 100


def test_a_file_that_was_cut_is_named(index):
    labels = index / "labels.npy"
    labels.write_bytes(labels.read_bytes()[:-8])
    with pytest.raises(
        SourceError, match=r"index/labels\.npy is damaged \(.*\); remove .*index/source\.json and repeat"
    ):
        everything_in(Source(index))


def test_a_row_is_read_without_the_damaged_part_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(index_column, "_BLOCK_BYTES", 256)
    path, values = tmp_path / "values.npy", np.arange(1000)
    np.save(path, values)
    data = bytearray(path.read_bytes())
    checksums = checksums_of(bytes(data))
    data[-5] ^= 1
    path.write_bytes(data)

    found = IndexColumn(path, np.int64, checksums)
    assert found[0] == 0 and found[17] == 17 and found[100:900].tolist() == values[100:900].tolist()
    with pytest.raises(SourceError, match=r"values\.npy is damaged"):
        found[999]
    assert IndexColumn(path, np.int64, None)[998] == 998


def test_an_index_of_an_earlier_version_has_no_checksums(index):
    whole = everything_in(Source(index))
    summary = json.loads((index / "source.json").read_text())
    del summary["checksums"], summary["crc32c"]
    (index / "source.json").write_text(json.dumps(summary))
    assert everything_in(Source(index)) == whole
