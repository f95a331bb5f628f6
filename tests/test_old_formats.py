"""What an earlier version of tcae wrote (tests/fixtures, by commit cf2deef) is read, continued, verified and decoded.

Latents of one image differ in their last bits between processors. So what was committed is compared with itself, and
what is encoded now with a fresh encode on this machine.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tcae_cli import LatentDataset, LatentStore, load_autoencoder
from tcae_cli.cli import main
from tcae_cli.model.identity import decoder_hash, encoder_hash
from tcae_cli.recipe.schema import ModelSpec

from .pictures import photograph
from .store_contents import arrays_of, assert_rows_equal, failures_of, files_of

FIXTURES = Path(__file__).parent / "fixtures"
BROKEN, BROKEN_BYTES, BROKEN_ROW = "animal/03.jpg", 200, 3  # in the source of the plain store, as make.py cut it
OPTIONS = {"plain": ["--max-failures", "5%"], "flipped": ["--flip"], "int8": ["--dtype", "int8"], "from_tar": []}
NUM_ROWS = {"plain": 33, "flipped": 33, "int8": 33, "from_tar": 17}
SHARD_ROWS = 16
VERSION_1 = {"plain", "flipped", "int8", "from_tar"}
CPU = ["--device", "cpu", "--workers", "0"]
HASHES = {
    "small.safetensors": (
        "392e7051d5a3270c9c5516d1746eadafcec19ef275de809dcfb85b1998799ebd",
        "a3522c1672c59c8199feec9b22751cdf246330d78f56850182ed9f3909cf7d33",
    ),
    "run/model.safetensors": (
        "e79f038f8c0c8e293800711955989c02da2e10ed4f28fa726d8282b9a23352d1",
        "9ba177f4b8aec887ef4c2f5dc830b9eefdc59c562dfd6a12e59c496aace1ba9e",
    ),
}
VIEWS = {
    ("plain", "latents"): "64d5d5343779688373d3d35297f903ef270eb628abd2deda0ff809a277fb705f",
    ("flipped", "latents"): "ff2678aaff42d2e0103a1b9d130cac705078fbff360d8094ad4634b26b426d2c",
    ("flipped", "latents_flip"): "7f0cc03c46154878b8044aceafb1c91e721d13ae0597a88ea9318226f1319d1b",
    ("int8", "latents"): "3627357a5f82cb6fc184c7c9bf3c208d2f82718dc76ca8584d3ffb2b283d693c",
    ("from_tar", "latents"): "baf5583f7707241429a70aa5bc9caddefb0c22bd799ca26fd36480b8fe4496df",
}

VIEWS |= {("v2_flipped", view): VIEWS["flipped", view] for view in ("latents", "latents_flip")}

Tcae = Callable[..., str]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Copy the fixtures to another folder than the one they were made in."""
    copy = shutil.copytree(FIXTURES, tmp_path / "old")
    for claim in copy.rglob(".tcae/leases/*.json"):
        os.utime(claim, (0, 0))  # a checkout keeps no times, and a recent claim counts as alive
    return copy


@pytest.fixture
def tcae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Tcae:
    """Run a command in this process, assert that it succeeds, and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["tcae", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        assert left.value.code == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def encode(tcae: Tcae, old: Path) -> Tcae:
    """Encode with the old checkpoint."""

    def run(source: Path, store: Path, *options: object) -> str:
        return tcae("encode-dataset", source, store, "--model", old / "small.safetensors", *CPU, *options)

    return run


def source_of(old: Path, store: str) -> Path:
    """Return the images that a store was made of, as they were then."""
    if store == "from_tar":
        return old / "photos.tar"
    if store == "plain":
        whole = (old / "photos" / BROKEN).read_bytes()
        (old / "photos" / BROKEN).write_bytes(whole[:BROKEN_BYTES])
    return old / "photos"


def digest_of(latents: np.ndarray) -> str:
    return hashlib.sha256(latents.tobytes()).hexdigest()


def committed_files(store: Path) -> dict[str, bytes]:
    """Read the commit records of a store, and every file that they list."""
    records = sorted(store.glob(".tcae/commits/*.json"))
    names = [name for record in records for name in json.loads(record.read_bytes())["files"]]
    assert names
    return {str(path): path.read_bytes() for path in [*records, *(store / name for name in names)]}


def assert_kept(before: dict[str, bytes]) -> None:
    """Assert that files hold what they held."""
    for path, data in before.items():
        assert Path(path).read_bytes() == data, path


def test_the_fixtures_are_small():
    written = [path for path in FIXTURES.rglob("*") if path.is_file() and path.name not in ("make.py", "README.md")]
    assert len(written) > 300
    assert sum(path.stat().st_size for path in written) < 450_000


@pytest.mark.parametrize("name", HASHES)
def test_a_checkpoint_has_the_hashes_it_had(name):
    with safe_open(FIXTURES / name, "pt") as file:
        header = json.loads(file.metadata()["tcae"])
        tensors = {key: file.get_tensor(key) for key in set(file.keys())}
    spec = ModelSpec.model_validate(header["spec"])

    assert (header["encoder_hash"], header["decoder_hash"]) == HASHES[name]
    assert (encoder_hash(tensors, spec), decoder_hash(tensors, spec)) == HASHES[name]


@pytest.mark.parametrize("name", ["small.safetensors", "run/model.safetensors", "run"])
def test_a_checkpoint_is_a_model(name):
    model = load_autoencoder(str(FIXTURES / name))

    latents = model.encode(torch.zeros(2, 3, 16, 16))
    assert latents.shape == (2, 4, 2, 2)
    assert model.decode(latents).isfinite().all()


@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_a_store_is_read_to_the_bit(old, name, view):
    store = LatentStore(old / "stores" / name, view)

    assert store.spec.encoder.hash == HASHES["small.safetensors"][0]
    assert len(store) == NUM_ROWS.get(name, 33)
    assert digest_of(store.latents(store.ok_rows)) == VIEWS[name, view]
    assert store.keys([0, 16]) == (
        ["photos.tar/0000.jpg", "photos.tar/0016.jpg"] if name == "from_tar" else ["animal/00.jpg", "person/05.jpg"]
    )
    assert store.captions([0, 1]) == ["The first window of the animal.", ""]


@pytest.mark.parametrize("name", NUM_ROWS)
def test_a_store_is_trained_from(old, name):
    store = LatentStore(old / "stores" / name)
    dataset = LatentDataset(old / "stores" / name, fields=("latents", "label", "key"))

    assert len(dataset) == len(store.ok_rows)
    [batch] = dataset.batches([list(range(len(dataset)))])
    expected = store.normalise(store.latents(store.ok_rows))
    assert np.array_equal(batch["latents"].numpy(), expected)
    assert batch["label"].tolist() == store.labels()[store.ok_rows].tolist()


@pytest.mark.parametrize("name", NUM_ROWS)
def test_a_store_is_described_verified_and_decoded(old, name, tcae, tmp_path):
    path, model = old / "stores" / name, ["--model", old / "small.safetensors", "--device", "cpu"]
    num_failed = 1 if name == "plain" else 0
    num_ok = NUM_ROWS[name] - num_failed
    before = files_of(path)

    assert f"{num_ok} ok, {num_failed} failed, 0 pending" in tcae("info", path)
    verified = tcae("verify", path, "--source", source_of(old, name), *model)
    assert f"{num_ok} rows ok, {num_failed} failed" in verified
    assert (
        "its side arrays are unprotected, so readers do not notice a flipped bit" in " ".join(verified.split())
    ) == (name in VERSION_1)
    tcae("decode", path, tmp_path / "decoded", *model)
    assert len(list((tmp_path / "decoded").rglob("*.png"))) == num_ok
    assert files_of(path) == before


@pytest.mark.parametrize("name", NUM_ROWS)
def test_a_complete_store_has_nothing_left_to_do(old, name, encode):
    path = old / "stores" / name
    before, committed = files_of(path), committed_files(path)

    assert "nothing to do" in encode(source_of(old, name), path, *OPTIONS[name])
    assert_kept(committed)
    after = files_of(path)
    assert after.keys() == before.keys()
    # The index says where its images are now, in the present form.
    [changed] = [file for file in before if after[file] != before[file]]
    was, now = json.loads(before[changed]), json.loads(after[changed])
    assert changed.endswith("/source.json")
    assert {key for key in was if now.get(key) != was[key]} == {"uri", "root", "index_version", "tar_names"}
    added = {"containers", "image_column", "kind", "passed_over", "remarks"}
    assert now.keys() - was.keys() == added | {"checksums", "crc32c", "disagreements", "labels_from", "captions_from"}
    assert was.keys() - now.keys() == {"tar_names"}


def test_a_store_that_was_interrupted_is_finished(old, encode, tcae, tmp_path):
    path = old / "stores" / "interrupted"
    assert list(path.glob(".tcae/leases/*.json")) and list(path.glob(".tcae/part/*"))  # what the killed process left
    assert "1 of 3 committed" in tcae("info", path)
    before = committed_files(path)

    assert "is complete: 33 rows ok, 0 failed" in encode(old / "photos", path)
    assert_kept(before)
    assert not list(path.glob(".tcae/leases/*.json")) and not list(path.glob(".tcae/part/*"))
    encode(old / "photos", tmp_path / "fresh.zarr")
    assert_rows_equal(path, tmp_path / "fresh.zarr", range(SHARD_ROWS, 33))
    arrays, fresh = arrays_of(path), arrays_of(tmp_path / "fresh.zarr")
    for name in ("keys", "labels", "captions", "content_hash", "status", "original_size", "crop"):
        assert (arrays[name] == fresh[name]).all(), name
    assert "33 rows ok, 0 failed" in tcae(
        "verify", path, "--source", old / "photos", "--model", old / "small.safetensors", *CPU[:2]
    )


def test_stores_of_version_2_are_continued_and_sound(old, encode, tcae):
    whole, path = old / "stores" / "v2_flipped", old / "stores" / "v2_interrupted"
    before = committed_files(whole) | committed_files(path)
    assert "nothing to do" in encode(old / "photos", whole, "--flip")
    assert "is complete: 33 rows ok, 0 failed" in encode(old / "photos", path)
    assert_kept(before)
    assert LatentStore(path).spec.format_version == 2
    arrays, wanted = arrays_of(path), arrays_of(whole)
    for name in ("keys", "labels", "captions", "content_hash", "status", "original_size", "crop"):
        assert (arrays[name] == wanted[name]).all(), name
    for store in (whole, path):
        verified = tcae("verify", store, "--model", old / "small.safetensors", *CPU[:2])
        assert "33 rows ok, 0 failed" in verified and "unprotected" not in verified


@pytest.fixture
def append(old: Path, encode: Tcae) -> Callable[[str], LatentStore]:
    """Append an image to a store, and assert that its other rows stay as they were."""

    def run(name: str) -> LatentStore:
        path = old / "stores" / name
        before = LatentStore(path).stored(range(33)).tobytes()
        files = committed_files(path)
        shutil.copy(old / "photos" / "thing" / "10.jpg", old / "photos" / "thing" / "11.jpg")

        assert "is complete: 34 rows ok, 0 failed" in encode(old / "photos", path, *OPTIONS[name], "--append")
        assert_kept({file: data for file, data in files.items() if "000002" not in file and "/c.2" not in file})
        store = LatentStore(path)
        assert store.stored(range(33)).tobytes() == before
        assert store.keys([32, 33]) == ["thing/10.jpg", "thing/11.jpg"]
        return store

    return run


def test_an_image_is_appended_to_a_store_of_two_views(old, append, encode, tmp_path):
    append("flipped")
    encode(old / "photos", tmp_path / "fresh.zarr", "--flip")

    arrays, fresh = arrays_of(old / "stores" / "flipped"), arrays_of(tmp_path / "fresh.zarr")
    for view in ("latents", "latents_flip"):
        assert arrays[view][33].tobytes() == fresh[view][33].tobytes()


def test_an_image_is_appended_to_a_store_of_int8_with_the_scales_it_has(old, append, encode, tmp_path):
    store = append("int8")
    encode(old / "photos", tmp_path / "fresh.zarr", "--dtype", "float32")

    scale = np.array(store.spec.quantisation.scale["latents"], np.float32)[:, None, None]
    [latents] = LatentStore(tmp_path / "fresh.zarr").latents([33])
    assert np.array_equal(store.stored([33])[0], np.clip(np.rint(latents / scale), -127, 127))


def test_a_large_photograph_is_appended_to_an_old_store_as_all_its_images_were_decoded_in_full(old, encode, tmp_path):
    path = old / "stores" / "flipped"
    photograph(480, 640).save(old / "photos" / "thing" / "11.jpg", quality=92)
    encode(old / "photos", path, "--flip", "--append")
    fresh = {}
    for decode in ("draft", "full"):
        encode(old / "photos", tmp_path / decode, "--flip", "--decode", decode)
        fresh[decode] = LatentStore(tmp_path / decode)

    store = LatentStore(path)
    assert store.spec.transform.decode == "full" and store.keys([33]) == ["thing/11.jpg"]
    assert np.array_equal(store.latents([33]), fresh["full"].latents([33]))
    assert not np.array_equal(store.latents([33]), fresh["draft"].latents([33]))


def test_a_failed_row_is_encoded_once_its_image_is_put_right(old, encode, tmp_path):
    path = old / "stores" / "plain"
    [failure] = failures_of(path)
    assert failure[:3] == (BROKEN_ROW, BROKEN, "decode")
    ok_rows = LatentStore(path).ok_rows
    latents = LatentStore(path).latents(ok_rows).tobytes()

    assert "is complete: 33 rows ok, 0 failed" in encode(old / "photos", path, "--retry-failed")
    assert not failures_of(path)
    assert LatentStore(path).latents(ok_rows).tobytes() == latents
    encode(old / "photos", tmp_path / "fresh.zarr")
    assert_rows_equal(path, tmp_path / "fresh.zarr", [BROKEN_ROW])


def test_a_run_is_resumed_from_its_checkpoint(old, tcae):
    run, log = old / "run", old / "run" / "metrics.jsonl"
    lines = log.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]  # killed after the checkpoint of step 3

    tcae("train", run / "recipe.yaml", "--data", old / "photos", "--out", run, "--resume", *CPU)
    resumed = log.read_text().splitlines()
    assert resumed[:3] == lines[:3]
    assert [json.loads(line)["step"] for line in resumed] == [1, 2, 3, 4, 5, 6]
    # The same batch and weights, so the same loss as the killed run's, but for the processor's rounding.
    assert json.loads(resumed[3])["loss"] == pytest.approx(json.loads(lines[3])["loss"], rel=1e-3)
    assert load_autoencoder(str(run)).encode(torch.zeros(1, 3, 16, 16)).isfinite().all()
