"""As Sana and DC-Gen read: shards through wids-meta.json, samples by index, .npy and .json of one name."""

import io
import json
import tarfile

import numpy as np


def read_as_wids(folder):
    """Samples in the order of indices; what each shard says of itself is checked as the reader does."""
    samples = []
    for shard in json.loads((folder / "wids-meta.json").read_bytes())["shardlist"]:
        path = folder / shard["url"]  # relative to the file's folder
        assert path.stat().st_size == shard["filesize"]
        of_shard: dict[str, dict] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.rpartition(".")
                data = tar.extractfile(member).read()
                of_shard.setdefault(key, {})[extension] = (
                    json.loads(data) if extension == "json" else np.load(io.BytesIO(data))
                )
        assert len(of_shard) == shard["nsamples"]
        samples += of_shard.values()
    return samples


def test_sana_finds_the_caption_and_the_bucket_of_each_latent(export, store):
    done = export("out", "webdataset")

    samples = read_as_wids(done.target)

    assert len(list(done.target.glob("*.tar"))) == 23  # a row each, of small pieces
    latents = np.stack([sample["npy"] for sample in samples])
    assert latents.shape == (23, 8, 2, 2) and latents.dtype == np.float32
    assert np.array_equal(latents, store.latents(store.ok_rows).astype(np.float32) * np.float32(done.report.scale))
    for sample, key in zip(samples, store.keys(store.ok_rows), strict=True):
        about = sample["json"]
        label, _, name = key.partition("/")
        assert about["key"] == key and about["class_name"] == label
        assert about["prompt"] == f"{label} \N{SNOWMAN} {name.removesuffix('.jpg')}"
        assert sample["npy"].shape[1:] == (about["height"] // 32, about["width"] // 32)
        assert (about["original_height"], about["original_width"]) == (72, 96)


def test_dc_gen_draws_the_one_caption(export):
    for sample in read_as_wids(export("out", "webdataset").target):
        weights = np.array([float(score) for score in sample["json"]["clip_scores"]]) ** (1 / 0.1)
        assert (weights / weights.sum()).tolist() == [1.0] and len(sample["json"]["captions"]) == 1


def test_a_store_without_captions_says_so(unlabelled_store, export):
    done = export("out", "webdataset", of=unlabelled_store)
    assert done.report.notes[1] == "the store has no captions, so they are empty"
    assert {sample["json"]["prompt"] for sample in read_as_wids(done.target)} == {""}
