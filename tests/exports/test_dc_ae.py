"""As efficientvit and DC-Gen read: torchvision's DatasetFolder over .npy files that are scaled already."""

import shutil

import numpy as np
import pytest
from torchvision.datasets import DatasetFolder


def read_as_efficientvit(folder):
    dataset = DatasetFolder(str(folder), np.load, extensions=(".npy",))
    latents, labels = zip(*dataset, strict=True)
    return np.stack(latents), np.array(labels), dataset


def by_key(dataset, folder):
    return [path.removeprefix(f"{folder}/").removesuffix(".npy") for path, _ in dataset.samples]


def test_the_loader_gets_scaled_latents_and_sorted_classes(export, store):
    done = export("out", "dc-ae")

    latents, labels, dataset = read_as_efficientvit(done.target)

    assert dataset.classes == ["animal", "person", "thing"]
    assert by_key(dataset, done.target) == store.keys(store.ok_rows)
    assert labels.tolist() == store.labels()[store.ok_rows].tolist()
    assert latents.shape == (23, 8, 2, 2) and latents.dtype == np.float32
    assert latents.std() == pytest.approx(1, abs=1e-3)
    assert done.report.scale == pytest.approx(1 / store.summaries["latents"]["std"])
    assert np.array_equal(latents, store.latents(store.ok_rows).astype(np.float32) * np.float32(done.report.scale))


def test_a_scale_that_is_named_is_applied_once(export, store):
    latents, _, _ = read_as_efficientvit(export("out", "dc-ae", scale=0.25).target)
    assert np.array_equal(latents * 4, store.latents(store.ok_rows))


def test_classes_added_later_keep_their_numbers(captioned, encode_small, export, tmp_path):
    source = shutil.copytree(captioned / "person", tmp_path / "photos" / "person").parent
    encode_small(source, tmp_path / "grown.zarr")
    shutil.copytree(captioned / "animal", source / "animal")  # sorts before, is numbered after
    grown = encode_small(source, tmp_path / "grown.zarr", append=True)
    done = export("out", "dc-ae", of=grown)

    latents, labels, dataset = read_as_efficientvit(done.target)

    assert dataset.classes == ["0_person", "1_animal"]
    assert labels.tolist() == grown.labels()[grown.ok_rows].tolist()
    assert np.array_equal(latents, grown.latents(grown.ok_rows).astype(np.float32) * np.float32(done.report.scale))


def test_numbers_are_folders_where_classes_have_no_names_and_gaps_are_told(captioned, encode_small, export, tmp_path):
    names = {
        f"{label}{row}.jpg": (label, number) for row in range(2) for label, number in (("person", 3), ("thing", 11))
    }
    for name, (label, _) in names.items():
        shutil.copy(captioned / label / f"{name[-5]}.jpg", tmp_path / name)
    (tmp_path / "list.txt").write_text("".join(f"{name}\t{number}\n" for name, (_, number) in names.items()))
    listed = encode_small(tmp_path / "list.txt", tmp_path / "listed.zarr")
    done = export("out", "dc-ae", of=listed)

    _, labels, dataset = read_as_efficientvit(done.target)

    assert dataset.classes == ["03", "11"] and labels.tolist() == [0, 0, 1, 1]
    assert done.report.notes[1] == "some classes have no rows, so the trainer's class numbers are not the store's"
