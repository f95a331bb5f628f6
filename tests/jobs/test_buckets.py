"""tcae encode-dataset --buckets: each image in a shape near its own, and every promise of a store kept."""

import json
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.errors import UsageError
from tcae_cli.images.image_file import decode_image
from tcae_cli.images.transform import resize_and_crop
from tcae_cli.jobs.encode_shares import of_part, of_ranks
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.bucket_spec import bucket_spec
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.spec import SourceIdentity

from ..store_contents import arrays_of, assert_same_store, attributes_of, change_metadata, files_of, refused

SETTING = {"sizes": (128,), "buckets": True, "bucket_step": 32, "batch_size": 4}
OPTIONS = ["--size", "128", "--buckets", "--bucket-step", "32", "--batch-size", "4"]
SHAPES = [(96, 160), (128, 128), (160, 96)]


@pytest.fixture(scope="module")
def keys_of_buckets(shaped_photos) -> dict[str, list[str]]:
    """The keys of the images that are nearest to each shape, by a plain reference."""
    found: dict[str, list[str]] = {}
    for path in sorted(shaped_photos.rglob("*.jpg")):
        with Image.open(path) as picture:
            aspect = np.log(picture.height / picture.width)
        height, width = min(SHAPES, key=lambda shape: abs(aspect - np.log(shape[0] / shape[1])))
        found.setdefault(f"{height}x{width}", []).append(path.relative_to(shaped_photos).as_posix())
    return found


@pytest.fixture(scope="module")
def made(shaped_photos, encode, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("made") / "store.zarr"
    encode(shaped_photos, path, **SETTING)
    return path


@pytest.fixture
def whole(made, tmp_path) -> Path:
    """A store of the photographs, to be used in any way."""
    return shutil.copytree(made, tmp_path / "whole.zarr")


def test_each_image_is_in_the_bucket_of_the_nearest_aspect(whole, keys_of_buckets):
    assert attributes_of(whole)["buckets"] == {"step": 32, "max_aspect": 2.0, "names": ["96x160", "128x128", "160x96"]}
    arrays = arrays_of(whole)
    assert {name: arrays[f"buckets/{name}/keys"].tolist() for name in keys_of_buckets} == keys_of_buckets


def test_latents_are_those_of_the_crop_encoded_alone(whole, shaped_photos, small_checkpoint, keys_of_buckets):
    runner, arrays = load_runner(str(small_checkpoint), torch.device("cpu"), "fp32"), arrays_of(whole)
    for name, keys in keys_of_buckets.items():
        shape = tuple(map(int, name.split("x")))
        for row in (0, len(keys) - 1):
            image = decode_image((shaped_photos / keys[row]).read_bytes())
            view = resize_and_crop(image, shape, "torch")
            alone = runner.encode(view.pixels[None])[0].numpy()
            assert arrays[f"buckets/{name}/latents"][row] == pytest.approx(alone, abs=2e-3)
            assert tuple(arrays[f"buckets/{name}/original_size"][row]) == image.shape[:2] == view.original_size
            assert tuple(arrays[f"buckets/{name}/crop"][row]) == view.crop


def test_statistics_are_those_of_all_latents_together(whole, keys_of_buckets):
    arrays = arrays_of(whole)
    latents = [arrays[f"buckets/{name}/latents"].astype(np.float64) for name in keys_of_buckets]
    values = np.concatenate([each.swapaxes(0, 1).reshape(each.shape[1], -1) for each in latents], axis=1)
    found = attributes_of(whole)["statistics"]["latents"]
    assert found["num_rows"] == 48 and found["mean"] == pytest.approx(values.mean())
    assert arrays["statistics/latents/channel_mean"] == pytest.approx(values.mean(axis=1))
    assert arrays["statistics/latents/channel_std"] == pytest.approx(values.std(axis=1))


def test_a_bucket_alone_is_a_store(whole, keys_of_buckets):
    store = StoreHandle(LocalFolder(whole / "buckets/128x128"))
    assert store.is_complete and store.spec.num_rows == len(keys_of_buckets["128x128"])


def test_new_images_enter_their_buckets_after_the_old_rows(shaped_photos, encode, tmp_path):
    source, store = shutil.copytree(shaped_photos, tmp_path / "photos"), tmp_path / "store.zarr"
    wide, tall = sorted(source.rglob("*.jpg"))[3], sorted(source.rglob("*.jpg"))[4]
    (source / "new").mkdir()
    for number, path in enumerate((wide, tall)):
        path.rename(tmp_path / f"{number}.jpg")
    encode(source, store, **SETTING)
    before = arrays_of(store)
    for number in range(2):
        (tmp_path / f"{number}.jpg").rename(source / "new" / f"{number}.jpg")
    encode(source, store, **SETTING, append=True)

    after = arrays_of(store)
    for name, key in (("96x160", "new/0.jpg"), ("160x96", "new/1.jpg")):
        assert after[f"buckets/{name}/keys"].tolist() == [*before[f"buckets/{name}/keys"], key]
        latents = before[f"buckets/{name}/latents"]
        assert after[f"buckets/{name}/latents"][: len(latents)].tobytes() == latents.tobytes()
    assert after["buckets/128x128/latents"].tobytes() == before["buckets/128x128/latents"].tobytes()
    assert attributes_of(store)["rows"]["ok"] == 48 and attributes_of(store)["complete"]


def test_a_new_shape_makes_a_new_bucket(photos, shaped_photos, encode, tmp_path):
    source, store = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "store.zarr"
    encode(source, store, **SETTING)
    assert attributes_of(store)["buckets"]["names"] == ["96x160"]
    with Image.open(sorted(shaped_photos.rglob("*.jpg"))[4]) as tall:
        tall.save(source / "tall.png")
    encode(source, store, **SETTING, append=True)
    assert attributes_of(store)["buckets"]["names"] == ["96x160", "160x96"]
    assert attributes_of(store)["rows"]["ok"] == 25


def test_ranks_and_parts_make_the_same_store(shaped_photos, whole, encode, encode_as_ranks, tmp_path):
    encode_as_ranks(3, shaped_photos, tmp_path / "ranks.zarr", **SETTING)
    for part in range(2):
        encode(shaped_photos, tmp_path / "parts.zarr", **SETTING, num_parts=2, part=part)
    assert_same_store(tmp_path / "ranks.zarr", whole)
    assert_same_store(tmp_path / "parts.zarr", whole)


@pytest.mark.parametrize("lost", ["buckets/128x128", "buckets/128x128/latents/c.0.0.0.0", "buckets/96x160/status"])
def test_what_was_lost_is_encoded_again(whole, shaped_photos, encode, lost):
    kept = shutil.copytree(whole, whole.with_name("kept.zarr"))
    path = whole / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    encode(shaped_photos, whole, **SETTING)
    assert_same_store(whole, kept)


def test_a_store_that_is_whole_stays_as_it_is(whole, shaped_photos, encode):
    before = files_of(whole)
    encode(shaped_photos, whole, **SETTING)
    assert files_of(whole) == before


def test_failed_images_are_tried_again_in_their_bucket(shaped_photos, encode, tmp_path):
    source, store = shutil.copytree(shaped_photos, tmp_path / "photos"), tmp_path / "store.zarr"
    path = sorted(source.rglob("*.jpg"))[3]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the header is there
    report = encode(source, store, **SETTING, max_failures="1")
    assert (report.num_ok, report.num_failed) == (47, 1) and report.failures[0].stage == "decode"
    path.write_bytes(whole)
    report = encode(source, store, **SETTING, retry_failed=True)
    assert (report.num_ok, report.num_failed, report.num_encoded_now) == (48, 0, 1)
    encode(shaped_photos, tmp_path / "whole.zarr", **SETTING)
    assert arrays_of(store)["buckets/96x160/latents"].tobytes() == (
        arrays_of(tmp_path / "whole.zarr")["buckets/96x160/latents"].tobytes()
    )


def test_an_image_that_belongs_to_another_bucket_than_it_was_listed_for_fails(shaped_photos, encode, tmp_path):
    source, store = shutil.copytree(shaped_photos, tmp_path / "photos"), tmp_path / "store.zarr"
    wide, tall = sorted(source.rglob("*.jpg"))[3], sorted(source.rglob("*.jpg"))[4]
    wide_bytes = wide.read_bytes()
    wide.write_bytes(wide_bytes[: len(wide_bytes) // 2])
    encode(source, store, **SETTING, max_failures="1")
    wide.write_bytes(tall.read_bytes())
    report = encode(source, store, **SETTING, retry_failed=True, max_failures="1")
    assert report.failures[0].error == (
        "the image is 110 x 60 pixels, and was 60 x 110 when it was listed, which decided its bucket, 96x160; "
        "put it back, or encode into another store"
    )


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"flip": True}, {"codec": "none", "dtype": "float32"}])
def test_options_of_a_store_are_those_of_its_buckets(shaped_photos, encode, tmp_path, options):
    encode(shaped_photos, tmp_path / "store.zarr", **SETTING, **options)
    attributes = [attributes_of(tmp_path / "store.zarr"), attributes_of(tmp_path / "store.zarr/buckets/96x160")]
    for name in ("dtype", "codec", "quantisation", "encoder", "transform"):
        assert attributes[0][name] == attributes[1][name]
    names = {name.rpartition("/")[2] for name in arrays_of(tmp_path / "store.zarr") if "latents" in name}
    assert ("latents_flip" in names) == ("flip" in options)


def test_extreme_shapes_and_one_image_a_bucket(encode, tmp_path):
    (tmp_path / "photos").mkdir()
    for name, size in {"a": (5000, 1), "b": (1, 5000), "c": (8, 8)}.items():
        Image.effect_noise(size, 64).convert("RGB").save(tmp_path / "photos" / f"{name}.png")
    report = encode(tmp_path / "photos", tmp_path / "store.zarr", **SETTING)
    assert report.num_ok == 3
    arrays = arrays_of(tmp_path / "store.zarr")
    assert {name: arrays[f"buckets/{name}/keys"].tolist() for name in ("96x160", "128x128", "160x96")} == {
        "96x160": ["a.png"],
        "128x128": ["c.png"],
        "160x96": ["b.png"],
    }


def test_images_that_cannot_be_measured_are_failed_rows_of_the_squarest_bucket(encode, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/bad.jpg").write_bytes(b"not an image")
    report = encode(tmp_path / "photos", tmp_path / "store.zarr", **SETTING, max_failures="100%")
    assert (report.num_ok, report.num_failed) == (0, 1) and report.complete
    assert attributes_of(tmp_path / "store.zarr")["buckets"]["names"] == ["128x128"]


def test_info_has_a_table_of_buckets(whole, keys_of_buckets, tcae, encode, shaped_photos, tmp_path):
    code, printed, _ = tcae("info", whole)
    assert code == 0 and "48: 48 ok, 0 failed, 0 pending" in printed and "latents of at most 128 x 128 px" in printed
    for name, shape in {"96x160": "[8, 3, 5]", "128x128": "[8, 4, 4]", "160x96": "[8, 5, 3]"}.items():
        count = len(keys_of_buckets[name])
        assert [name, str(count), f"{count / 48:.1%}", "0", "0", *shape.split()] in map(str.split, printed.splitlines())
    code, printed, _ = tcae("info", whole, "--json")
    assert [bucket["num_rows"] for bucket in json.loads(printed)["buckets"]] == [
        len(keys_of_buckets[name]) for name in ("96x160", "128x128", "160x96")
    ]


def test_info_counts_what_is_there_while_a_store_is_not_complete(whole, tcae):
    shutil.rmtree(whole / "buckets/128x128")
    (whole / "buckets/96x160/.tcae/commits/000000.json").unlink()
    code, printed, _ = tcae("info", whole, "--json")
    report = json.loads(printed)
    assert code == 0 and [bucket["name"] for bucket in report["buckets"]] == ["96x160", "160x96"]
    assert report["buckets"][0]["pending"] == 16 and report["rows"]["pending"] > 16


def test_decoded_images_have_the_shapes_of_their_buckets(whole, keys_of_buckets, tcae, small_checkpoint, tmp_path):
    out, options = tmp_path / "recon", ["--model", small_checkpoint, "--grid", "6"]
    code, printed, _ = tcae("decode", whole, out, *options)
    assert code == 0 and "48 images written" in printed
    for name, keys in keys_of_buckets.items():
        height, width = map(int, name.split("x"))
        for key in keys:
            with Image.open(next(out.glob(f"{key.removesuffix('.jpg')}*.png"))) as picture:
                assert picture.size == (width, height)
    with Image.open(out / "grid.png") as sheet:
        assert sheet.size == (6 * 164 + 4, 2 * 164 + 4)
    code, printed, _ = tcae("decode", whole, out, *options[:2])
    assert "0 images written" in printed and "48" in printed


def test_rows_to_decode_are_those_of_a_bucket(whole, tcae, small_checkpoint, tmp_path):
    code, _, said = tcae("decode", whole, tmp_path / "recon", "--rows", "0:2", "--model", small_checkpoint)
    assert code == 2 and "--rows 0:2: rows are numbered within each bucket; name one, such as" in said
    code, _, _ = tcae(
        "decode", whole / "buckets/96x160", tmp_path / "recon", "--rows", "0:2", "--model", small_checkpoint
    )
    assert code == 0 and len(list((tmp_path / "recon").rglob("*.png"))) == 2


def test_a_bucket_by_itself_says_which_store_lists_its_images_and_nothing_false(
    whole, shaped_photos, tcae, small_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bucket, model = whole / "buckets/128x128", ("--model", small_checkpoint)
    code, _, said = tcae("decode", f"{bucket}/", tmp_path / "recon", "--grid", 4, *model)
    assert code == 0 and (tmp_path / "recon/grid.png").exists() and "originals have changed" not in said

    code, printed, _ = tcae("verify", bucket, *model)
    assert code == 0 and f"this is a bucket of {whole}, which lists them; name it" in printed
    code, _, said = tcae("verify", bucket, "--source", shaped_photos, *model)
    assert code == 2 and said.endswith(f"Error: {bucket} is a bucket of {whole}; name {whole}\n")

    code, _, said = tcae("eval", small_checkpoint, "--store", bucket, "--metric", "psnr")
    assert code == 2 and f"is a bucket of {whole}, which lists its images; name them with --data" in said
    code, printed, said = tcae("eval", small_checkpoint, "--store", bucket, "--metric", "psnr", "--data", shaped_photos)
    assert code == 0 and "psnr" in printed, said


def test_verify_checks_every_bucket_and_draws_all_shapes_on_one_sheet(
    whole, shaped_photos, tcae, small_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, printed, _ = tcae("verify", whole, "--source", shaped_photos, "--model", small_checkpoint, "--rows", 12)
    assert code == 0, printed
    assert "48 rows ok, 0 failed" in printed and f"48 images of {shaped_photos} read and compared" in printed
    assert f"{whole}: sound" in printed
    with Image.open(tmp_path / "whole-verify.png") as sheet:
        assert sheet.size[0] == 8 * 164 + 4


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda store: shutil.rmtree(store / "buckets/128x128"),
            "problem: buckets/128x128 is missing, or its zarr.json is damaged; repeat tcae",
        ),
        (lambda store: flip_a_bit(store / "buckets/96x160/latents/c.0.0.0.0"), "problem: buckets/96x160: latents"),
        (
            lambda store: (store / "buckets/96x160/status/c.0").unlink(),
            "problem: buckets/96x160: status/c.0 is missing",
        ),
        (
            lambda store: change_metadata(store / "zarr.json", lambda it: it["attributes"]["rows"].update(ok=47)),
            "problem: zarr.json: rows.ok is 47, the records of the shards say 48",
        ),
        (
            lambda store: change_metadata(
                store / "buckets/96x160/zarr.json", lambda it: it["attributes"].update(complete=False)
            ),
            "problem: buckets/96x160 is not complete, though the store is; repeat tcae encode-dataset",
        ),
    ],
)
def test_verify_names_the_bucket_of_a_problem(whole, tcae, harm, sentence):
    harm(whole)
    code, printed, _ = tcae("verify", whole, "--rows", "0")
    assert code == 1 and sentence in printed.replace("\n", " "), printed


LOST = [
    "buckets/128x128",
    "buckets/96x160/zarr.json",
    "buckets/zarr.json",
    "statistics/latents",
    "buckets/96x160/failures",
    "buckets/96x160/.tcae/commits",
]


@pytest.mark.parametrize("lost", LOST)
def test_what_is_lost_is_reported_and_written_again_by_repeating(whole, shaped_photos, encode, tcae, tmp_path, lost):
    store = shutil.copytree(whole, tmp_path / "store.zarr")
    remove = shutil.rmtree if (store / lost).is_dir() else os.remove
    remove(store / lost)
    code, printed, _ = tcae("verify", store, "--rows", "0")
    assert code == 1 and lost.split("/")[1] in printed and "repeat tcae encode-dataset" in printed.replace("\n", " ")
    encode(shaped_photos, store, **SETTING)
    assert_same_store(store, whole)
    assert tcae("verify", store, "--rows", "0")[0] == 0


def test_a_bucket_whose_root_is_lost_while_the_store_is_not_complete_says_what_to_do(whole, shaped_photos, encode):
    change_metadata(whole / "zarr.json", lambda root: root.pop("consolidated_metadata"))
    (whole / "buckets/96x160/zarr.json").write_bytes(b"{")
    words = refused(encode, shaped_photos, whole, **SETTING)
    bucket = whole / "buckets/96x160"
    assert (
        words == f"{bucket}/zarr.json is missing or damaged; remove {bucket} and repeat, which encodes its images again"
    )
    shutil.rmtree(bucket)
    assert encode(shaped_photos, whole, **SETTING).num_encoded_now == 16


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def test_a_dry_run_counts_the_rows_of_all_buckets(shaped_photos, tcae, encode, small_checkpoint, tmp_path):
    store = tmp_path / "store.zarr"
    options = ["encode-dataset", shaped_photos, store, "--model", small_checkpoint, *OPTIONS, "--dry-run", "--json"]
    code, printed, said = tcae(*options)
    planned = json.loads(printed)
    assert code == 0 and "estimated as squares of 128 pixels, which no bucket exceeds" in said and not store.exists()
    assert planned["num_rows"] == planned["num_rows_left"] == 48

    encode(shaped_photos, store, **SETTING)
    on_disk = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    assert planned["num_shards"] == len(list(store.glob("buckets/*/.tcae/commits/*")))
    assert planned["store_bytes"] == pytest.approx(sum(on_disk), rel=0.15)
    assert planned["num_files"] == pytest.approx(len(on_disk), rel=0.1)
    code, printed, said = tcae(*options)
    assert code == 0 and json.loads(printed)["num_rows_left"] == 0, said


def test_the_page_on_buckets_is_true(whole, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs/buckets.md").read_text()
    whole.rename(whole.with_name("out.zarr"))
    monkeypatch.chdir(whole.parent)
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        with warnings.catch_warnings(action="ignore"):  # zarr does not know .tcae
            exec(compile(block, f"block {number}", "exec"), {})
    printed = capsys.readouterr().out
    assert "96x160 (16, 8, 3, 5) ['animal/" in printed and ", 128, 128), (" in printed


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            ["export", "STORE", "out", "--format", "edm2"],
            "is a store of buckets, and edm2 holds latents of one shape; pass --format webdataset, mds or npy, or "
            "export one bucket, such as STORE/buckets/96x160",
        ),
        (
            ["eval", "--store", "STORE", "--metric", "psnr"],
            "is a store of buckets, and only squares are evaluated; encode into another store without --buckets",
        ),
        (
            ["eval", "--store", "STORE/buckets/96x160", "--metric", "psnr"],
            "holds latents of images that are not square, and only squares are evaluated; encode into another store",
        ),
    ],
)
def test_what_needs_one_shape_says_so(whole, tcae, tmp_path, monkeypatch, command, sentence):
    monkeypatch.chdir(tmp_path)
    store = str(whole)
    code, _, said = tcae(*(word.replace("STORE", store) for word in command))
    assert code and sentence.replace("STORE", store) in said.replace("\n", " "), said


def test_another_setting_is_refused(whole, shaped_photos, encode):
    asked = SETTING | {"bucket_step": 64}
    assert "--buckets given with --bucket-step 32 --max-aspect 2, not given with --bucket-step 64 --max-aspect 2" in (
        refused(encode, shaped_photos, whole, **asked)
    )
    assert "--buckets given with --bucket-step 32 --max-aspect 2, not absent" in (
        refused(encode, shaped_photos, whole, sizes=(128,), batch_size=4)
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sizes": (128, 64)}, "--buckets encodes each image at one size; give --size once"),
        ({"bucket_step": 48}, "--bucket-step 48 is not a multiple of 32, a latent's pixels; try 64"),
        ({"bucket_step": 160}, "--bucket-step 160 is more than --size 128; give a smaller step"),
        ({"bucket_step": 32, "buckets": False}, "--bucket-step is of buckets; add --buckets, or omit it"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(shaped_photos, encode, tmp_path, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        encode(shaped_photos, tmp_path / "store.zarr", **SETTING | options)
    assert not (tmp_path / "store.zarr").exists()


def test_100_000_images_are_dealt_out_evenly_over_15_buckets_and_8_ranks(whole):
    root = StoreHandle(LocalFolder(whole)).spec
    counts = np.random.default_rng(0).multinomial(100_000, np.random.default_rng(1).dirichlet(np.ones(15))).tolist()
    identities = [SourceIdentity(uri="", count=count, fingerprint="0", class_names=[]) for count in counts]
    specs = [bucket_spec(root, "96x160", identity) for identity in identities]
    shares = of_ranks(specs, of_part(specs, 0, 1), 8, side_by_side=False)
    rows = [
        sum(len(spec.rows_of_shard(shard)) for spec, ranks in zip(specs, shares, strict=True) for shard in ranks[rank])
        for rank in range(8)
    ]
    assert sum(rows) == 100_000 and max(rows) <= 1.01 * 12_500
