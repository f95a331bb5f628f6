"""MDS shards as MosaicML's streaming reads them, by the layout that its version 2 documents."""

import json
import struct
from itertools import pairwise

import numpy as np
import pytest

from tcae_cli.errors import StoreError

DECODE = {"str": bytes.decode, "bytes": bytes, "int": lambda data: struct.unpack("<q", data)[0]}


def read_as_streaming(folder):
    """Samples in the order of the index."""
    index = json.loads((folder / "index.json").read_bytes())
    assert index["version"] == 2
    samples = []
    for shard in index["shards"]:
        assert (shard["version"], shard["format"], shard["zip_data"]) == (2, "mds", None)
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        (count,) = struct.unpack_from("<I", data)
        assert count == shard["samples"]
        places = struct.unpack_from(f"<{count + 1}I", data, 4)
        own = json.loads(data[4 * (count + 2) : places[0]])  # a shard says its columns too
        assert own == {name: shard[name] for name in own} and places[-1] == len(data)
        samples += [read_sample(data[start:end], shard) for start, end in pairwise(places)]
    return samples


def read_sample(data, shard):
    names, encodings, sizes = (shard[f"column_{name}"] for name in ("names", "encodings", "sizes"))
    assert names == sorted(names)
    variable = iter(struct.unpack_from(f"<{sizes.count(None)}I", data))
    sample, at = {}, 4 * sizes.count(None)
    for name, encoding, fixed in zip(names, encodings, sizes, strict=True):
        size = fixed or next(variable)
        sample[name] = DECODE[encoding](data[at : at + size])
        at += size
    assert at == len(data)
    return sample


def test_streaming_reads_scaled_float16_labels_and_captions(export, store):
    done = export("out", "mds")

    samples = read_as_streaming(done.target)

    latents = np.stack([np.frombuffer(sample["latents_64"], np.float16).reshape(8, 2, 2) for sample in samples])
    scaled = store.latents(store.ok_rows).astype(np.float32) * np.float32(done.report.scale)
    assert np.array_equal(latents, scaled.astype(np.float16))
    assert [sample["label"] for sample in samples] == store.labels()[store.ok_rows].tolist()
    assert [sample["caption"] for sample in samples] == store.captions(store.ok_rows)
    assert [sample["key"] for sample in samples] == store.keys(store.ok_rows)
    assert len(list(done.target.glob("*.mds"))) == 3  # eight rows a shard


def test_rows_without_a_class_or_caption_are_minus_one_and_empty(export, unlabelled_store):
    samples = read_as_streaming(export("out", "mds", of=unlabelled_store).target)
    assert [(sample["label"], sample["caption"]) for sample in samples] == [(-1, "")] * 8


def test_values_beyond_float16_are_refused(export):
    with pytest.raises(StoreError, match=r"latents times 1e\+07 are beyond float16; pass a lower --scale"):
        export("out", "mds", scale=1e7)
