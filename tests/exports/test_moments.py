"""As EDM2's and REPA's loaders read: .npy files by sorted name, class numbers from dataset.json, folder or zip."""

import json
import os
import zipfile
from io import BytesIO

import numpy as np
import pytest


def read_as_edm2(path):
    """Moments [n, 2c, h, w] and labels [n] of a folder or a zip."""
    if path.is_dir():
        names = {os.path.relpath(os.path.join(at, name), path) for at, _, files in os.walk(path) for name in files}
        contents = {name: (path / name).read_bytes() for name in names}
    else:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
            contents = {name: archive.read(name) for name in archive.namelist()}
    names = sorted(name for name in contents if name.endswith(".npy"))
    labels = dict(json.loads(contents["dataset.json"])["labels"])
    labels = np.array([labels[name] for name in names])
    return np.stack([np.load(BytesIO(contents[name])) for name in names]), labels.astype(np.int64), names


@pytest.mark.parametrize("target", ["out", "out.zip"])
def test_edm2_reads_the_mean_and_no_deviation(export, store, target):
    done = export(target, "edm2")

    moments, labels, names = read_as_edm2(done.target)

    assert moments.shape == (23, 16, 2, 2) and moments.dtype == np.float32
    assert labels.tolist() == [0] * 7 + [1] * 8 + [2] * 8
    assert names[0] == "00000/img-mean-std-00000000.npy"
    assert np.array_equal(moments[:, :8], store.latents(store.ok_rows)) and not moments[:, 8:].any()
    assert done.report.notes[0].startswith("EDM2 whitens latents with constants of Stable Diffusion's VAE")


def test_the_zip_holds_what_the_folder_does(export):
    folder, archive = export("out", "edm2").target, export("out.zip", "edm2").target
    with zipfile.ZipFile(archive) as members:
        for path in folder.rglob("*"):
            if path.is_file():
                assert members.read(str(path.relative_to(folder))) == path.read_bytes()
        assert len(members.namelist()) == 25
    assert [path.name for path in archive.parent.iterdir() if path.name.startswith(".")] == []


def test_repa_pairs_moments_with_images_by_sorted_name(export, store):
    done = export("out", "repa")
    images = [f"{row // 1000:05d}/img{row:08d}.png" for row in range(23)]  # as its preprocessing names them

    moments, labels, names = read_as_edm2(done.target / "vae-sd")

    assert len(names) == len(sorted(images)) == 23
    assert [name[-12:-4] for name in names] == [name[-12:-4] for name in sorted(images)]
    assert moments.dtype == np.float32 and labels.dtype == np.int64
    mean, std = np.split(moments, 2, axis=1)
    sampled = mean + std * np.random.default_rng(0).normal(size=std.shape).astype(np.float32)  # what its loop does
    assert np.array_equal(sampled, store.latents(store.ok_rows))
    keys = dict(json.loads((done.target / "vae-sd" / "dataset.json").read_bytes())["keys"])
    assert keys[names[3]] == "animal/4.jpg"  # 3 is broken
    assert "put the 64 px crop of the image that vae-sd/dataset.json names" in done.report.notes[0]


def test_repas_own_scale_as_the_note_sets_it_normalises_and_its_inverse_is_raw(export, store):
    done = export("out", "repa")
    statistics = json.loads((done.target / "tcae_export.json").read_bytes())["statistics"]
    mean, std = (np.array(statistics[f"channel_{name}"])[:, None, None] for name in ("mean", "std"))
    raw = read_as_edm2(done.target / "vae-sd")[0][:, :8]

    note = done.report.notes[1]
    assert "latents_scale to 1 / channel_std and latents_bias to -channel_mean / channel_std" in note
    assert "in_channels 8 on a grid of 2 x 2" in note and "decode (samples - latents_bias) / latents_scale" in note
    scale, bias = 1 / std, -mean / std
    np.testing.assert_allclose(raw * scale + bias, store.normalise(raw), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(((raw * scale + bias) - bias) / scale, raw, rtol=1e-5, atol=1e-6)


def test_int8_latents_are_exported_as_the_numbers_they_stand_for(export, int8_store):
    moments, _, _ = read_as_edm2(export("out", "edm2", of=int8_store).target)
    assert np.array_equal(moments[:, :8], int8_store.latents(int8_store.ok_rows))
