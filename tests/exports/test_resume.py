"""`tcae export` that is interrupted, repeated, refused; and what it says of itself."""

import json
import zipfile

import pytest

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.jobs.export import export_store
from tcae_cli.reports.export import ExportRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.local_file import LocalFile
from tcae_cli.store.reader import LatentStore

from .conftest import files_of

TARGETS = [
    ("out", "lightningdit"),
    ("out", "edm2"),
    ("out.zip", "edm2"),
    ("out", "repa"),
    ("out", "dc-ae"),
    ("out", "webdataset"),
    ("out", "npy"),
    ("out", "mds"),
]


def die_at_call(monkeypatch, owner, name, number):
    """The process is interrupted in a call, once."""
    right, calls = getattr(owner, name), []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return right(*arguments)

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize(("target", "export_format"), TARGETS)
def test_an_interrupted_export_goes_on_to_the_same_bytes(export, monkeypatch, target, export_format, tmp_path):
    whole = export(f"whole-{target}", export_format)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        die_at_call(patched, LatentStore, "latents", 3)
        export(target, export_format)
    stale = (
        tmp_path
        / (f".{target}.partial" if target.endswith(".zip") else target)
        / ".tcae"
        / "part"
        / "0123456789ab-1.0123456789ab"
    )
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_bytes(b"of a process that was killed")

    again = export(target, export_format)

    assert files_of(again.target) == files_of(whole.target)
    assert whole.report.num_written_now == 23
    assert 0 < again.report.num_written_now < 23  # what was finished is kept
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("export_format", ["edm2", "dc-ae"])
def test_a_piece_with_some_of_its_files_is_done_again(export, monkeypatch, export_format):
    whole = export("whole", export_format)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        die_at_call(patched, LocalFile, "rename", 2)
        export("out", export_format)

    again = export("out", export_format)

    assert again.report.num_written_now == 23
    assert files_of(again.target) == files_of(whole.target)


def test_a_row_written_in_part_is_written_again(export, monkeypatch):
    whole = export("whole", "npy")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        die_at_call(patched, LatentStore, "latents", 3)
        export("out", "npy")
    with (whole.target.parent / "out" / "latents.npy.partial").open("ab") as file:
        file.write(b"\xff" * 30)

    again = export("out", "npy")

    assert files_of(again.target) == files_of(whole.target)
    assert again.report.num_written_now == 23 - 16


@pytest.mark.parametrize(("target", "export_format"), [("out", "dc-ae"), ("out.zip", "edm2"), ("out", "npy")])
def test_a_finished_export_is_left_alone(export, target, export_format):
    first = export(target, export_format)
    before = files_of(first.target)

    again = export(target, export_format)

    assert (again.report.num_written_now, again.report.num_rows, again.report.num_not_ok) == (0, 23, 1)
    assert files_of(again.target) == before


@pytest.mark.parametrize(
    ("export_format", "lost", "num_again"),
    [
        ("lightningdit", "latents_00003.safetensors", 2),
        ("lightningdit", "latents_stats.pt", 0),
        ("edm2", "00000/img-mean-std-00000002.npy", 2),  # not the last of its piece
        ("repa", "vae-sd/dataset.json", 0),
        ("dc-ae", "animal/1.jpg.npy", 4),
        ("webdataset", "00003.tar", 1),
        ("mds", "shard.00001.mds", 8),
        ("npy", "latents.npy", 23),
        ("npy", "index.json", 0),
    ],
)
def test_a_file_that_a_finished_export_has_lost_is_written_again(export, export_format, lost, num_again):
    target = export("out", export_format).target
    before = files_of(target)
    (target / lost).unlink()

    again = export("out", export_format)

    assert again.report.num_written_now == num_again
    assert files_of(target) == before


@pytest.mark.parametrize("export_format", ["dc-ae", "webdataset", "mds"])
def test_a_scale_that_makes_latents_infinite_is_refused(export, export_format):
    with pytest.raises(StoreError, match=r"latents times 1e\+39 are beyond float(32|16); pass a lower --scale"):
        export("out", export_format, scale=1e39)


def test_a_zip_is_one_by_a_name_in_any_case(export):
    assert zipfile.is_zipfile(export("out.ZIP", "edm2").target)


@pytest.mark.parametrize(("target", "export_format"), [("out", "dc-ae"), ("out.zip", "edm2")])
def test_provenance_says_what_the_values_are(export, store, target, export_format):
    done = export(target, export_format)
    if target == "out":
        about = json.loads((done.target / "tcae_export.json").read_bytes())
    else:
        with zipfile.ZipFile(done.target) as archive:
            about = json.loads(archive.read("tcae_export.json"))

    assert about["complete"] is True
    assert (about["format"], about["num_rows"], about["values"]) == (export_format, 23, "raw * scale")
    assert about["scale"] == (1.0 if export_format == "edm2" else pytest.approx(1 / store.summaries["latents"]["std"]))
    assert about["encoder"]["hash"] == store.spec.encoder.hash
    assert about["source"]["fingerprint"] == store.spec.source.fingerprint
    assert about["statistics"]["channel_mean"] == store.summaries["latents"]["channel_mean"]
    assert about["transform"] == {"resize": "torch", "decode": "draft", "size": 64, "flip": False}
    assert set(about["tool_versions"]) == {"tcae", "numpy", "torch"}


def test_provenance_of_full_images_is_as_it_was_before_there_were_drafts(photos, encode_small, tmp_path):
    store = encode_small(photos, tmp_path / "full.zarr", decode="full")
    export_store(ExportRequest(store=store.folder.uri, target=tmp_path / "out", format="dc-ae"), Silent())
    about = json.loads((tmp_path / "out" / "tcae_export.json").read_bytes())
    assert about["transform"] == {"resize": "torch", "size": 64, "flip": False}  # so that its export is resumed


def test_an_export_is_complete_only_at_the_end(export, monkeypatch, tmp_path):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        die_at_call(patched, LatentStore, "latents", 2)
        export("out", "dc-ae")
    assert json.loads((tmp_path / "out" / "tcae_export.json").read_bytes())["complete"] is False


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"export_format": "npy"}, r"holds another export \(format dc-ae, not npy\); name another path, or remove it"),
        ({"export_format": "dc-ae", "scale": 2.0}, r"holds another export \(scale 1.0, not 2.0\)"),
        ({"export_format": "dc-ae", "scale": 1.0, "view": "latents_flip"}, r"\(view latents, not latents_flip\)"),
    ],
)
def test_a_target_of_other_options_is_refused(export, options, sentence):
    before = files_of(export("out", "dc-ae", scale=1.0).target)
    with pytest.raises(UsageError, match=sentence) as raised:
        export("out", **options)
    assert files_of(export("out", "dc-ae", scale=1.0).target) == before, str(raised.value)


@pytest.mark.parametrize(("target", "export_format"), [("out", "edm2"), ("out.zip", "edm2")])
def test_a_target_of_another_store_is_refused(export, tmp_path, int8_store, target, export_format):
    before = files_of(export(target, export_format).target)
    with pytest.raises(UsageError, match=r"holds another export \(another statistics\)"):
        export(target, export_format, of=int8_store)
    assert files_of(tmp_path / target) == before


def test_what_is_not_an_export_is_left_alone(export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out.zip").write_text("mine")
    for target, export_format, sentence in [
        ("out", "npy", "out exists, is not an export of latents and is not empty; name another path"),
        ("file", "npy", "file is a file; name a folder"),
        ("out.zip", "edm2", "out.zip exists and is not an export of latents; name another path"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            export(target, export_format)
    assert files_of(tmp_path) == {"out/thesis.tex": b"mine", "file": b"mine", "out.zip": b"mine"}


def test_an_incomplete_store_is_refused(captioned, encode_small, export, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("tcae_cli.jobs.encode.finish", interrupted)
        encode_small(captioned, tmp_path / "half.zarr")
    with pytest.raises(StoreError, match=r"half.zarr is incomplete; finish it by repeating tcae encode-dataset"):
        export("out", "npy", of=tmp_path / "half.zarr")


@pytest.mark.parametrize("export_format", ["lightningdit", "edm2", "repa", "dc-ae"])
def test_rows_without_a_class_are_refused_by_trainers_on_classes(unlabelled_store, export, export_format, tmp_path):
    with pytest.raises(
        UsageError, match=r"8 of 8 rows have no class, and \S+ trains on classes; .* --format webdataset, mds or npy"
    ):
        export("out", export_format, of=unlabelled_store)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"format": "edm2", "scale": 2.0},
            "--scale applies to dc-ae, webdataset, mds; edm2 takes raw latents, so omit it",
        ),
        ({"format": "dc-ae", "scale": float("nan")}, "--scale nan is not a positive number; correct it"),
        ({"format": "dc-ae", "scale": 0.0}, "--scale 0.0 is not a positive number"),
        (
            {"format": "repa", "target": "out.ZIP"},
            "--format repa is read from folders only, not out.ZIP; name a folder",
        ),
        (
            {"format": "tfrecord"},
            "^--format tfrecord is not one of lightningdit, edm2, repa, dc-ae, webdataset, mds, npy$",
        ),
        ({"format": "npy", "target": "s3://bucket/out"}, "^s3://bucket/out is not a local path; export to a local"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, sentence):
    target = options.pop("target", "out")
    with pytest.raises(UsageError, match=sentence):
        export_store(ExportRequest(store="out.zarr", target=target, **options), Silent())
