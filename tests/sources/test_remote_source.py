"""Sources in an object store and behind URLs: as on a local disk, read by name and by part."""

import http.server
import multiprocessing
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import s3fs

from tcae_cli.errors import ImageError, NotFoundError, SourceError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.runtime import remote_folder
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..hub_server import HubServer
from ..pictures import write_zip
from ..tables import table

Put = Callable[[dict[str, bytes]], str]
NOBODY_LISTENS = "127.0.0.1:9"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Source]:
    return lambda uri, **fields: open_source(uri, tmp_path / "index", SampleFields(**fields))


@pytest.fixture
def url(object_store: str, bucket: str) -> str:
    """Where the bucket's objects are by plain HTTP."""
    return f"{object_store}/{bucket.removeprefix('s3://')}"


@pytest.fixture
def server_without_ranges(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of tmp_path that sends every file whole, whatever part is asked for."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def tar_bytes(make_tar, members: dict[str, bytes]) -> bytes:
    return make_tar("made.tar", members).read_bytes()


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def test_a_folder_in_an_object_store_reads_as_a_local_one(put: Put, opened, png):
    files = {"cat/1 #?%41.png": png(seed=1), "dog//猫.png": png(seed=2), "cat/1 #?%41.txt": b"a cat", "top.png": png()}
    files |= {".hidden/x.png": b"", "dog/.x.png": b"", "dog/metadata.jsonl": '{"file_name": "/猫.png"}'.encode()}
    bucket = put({**{f"photos/{name}": data for name, data in files.items()}, "photos-2/z.png": b""})
    source = opened(f"{bucket}/photos/")
    assert source.is_remote and source.uri == f"{bucket}/photos/"
    assert keys(source) == ["cat/1 #?%41.png", "dog//猫.png", "top.png"]
    assert source.class_names == ("cat", "dog") and source.labels(0, 3).tolist() == [0, 1, -1]
    assert source.caption(0) == "a cat"
    assert [source.read(row) for row in range(3)] == [png(seed=1), png(seed=2), png()]
    assert source.size_bytes(1) == len(png(seed=2))


def test_a_bucket_is_a_folder_and_its_fingerprint_that_of_the_same_files_here(put: Put, opened, make_folder, png):
    files = {"a/1.png": png(seed=1), "b/2.png": png(seed=2)}
    assert opened(put(files)).fingerprint == opened(str(make_folder(files))).fingerprint


def test_a_text_that_cannot_be_used_costs_its_image_alone(put: Put, opened, png):
    source = opened(put({"a.png": png(), "a.txt": b"\xff", "b.png": png()}))
    assert "a.txt is not UTF-8 text" in source.problem(0) and source.read(1) == png()


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_tars_are_indexed_by_their_headers_and_read_by_part(
    put: Put, bucket, url, opened, make_tar, png, protocol, monkeypatch
):
    monkeypatch.setattr(remote_folder, "READ_AHEAD_BYTES", 700)  # so that members lie across parts
    for number in (0, 1):
        members = {f"{name}.png": png(seed=10 * number + seed) for seed, name in enumerate("ab")}
        put({f"shards/{number}.tar": tar_bytes(make_tar, {**members, "a.cls": b"3"})})
    source = opened(f"{bucket if protocol == 's3' else url}/shards/{{0..1}}.tar")
    assert keys(source) == ["0.tar/a.png", "0.tar/b.png", "1.tar/a.png", "1.tar/b.png"]
    assert source.labels(0, 4).tolist() == [3, -1, 3, -1]
    assert [source.read(row) for row in range(4)] == [png(seed=seed) for seed in (0, 1, 10, 11)]
    assert pickle.loads(pickle.dumps(source)).read(3) == png(seed=11)


@pytest.mark.parametrize(("protocol", "suffix"), [("s3", "tar.gz"), ("http", "tar.gz"), ("s3", "tar.zst")])
def test_compressed_tars_are_listed_and_read_front_to_back(
    put: Put, bucket, url, opened, make_tar, png, protocol, suffix, monkeypatch
):
    monkeypatch.setattr(remote_folder, "READ_AHEAD_BYTES", 700)
    for number in (0, 1):
        members = {f"{name}.png": png(seed=10 * number + seed) for seed, name in enumerate("ab")}
        put({f"{number}.{suffix}": make_tar(f"made.{suffix}", members).read_bytes()})
    source = opened(f"{bucket if protocol == 's3' else url}/{{0..1}}.{suffix}")
    assert source.access == "stream" and keys(source)[3] == f"1.{suffix}/b.png"
    assert [*source.read_many(range(4))] == [png(seed=seed) for seed in (0, 1, 10, 11)]
    s3fs.S3FileSystem().rm_file(f"{bucket}/0.{suffix}")
    gone, there = source.read_many([0, 2])
    assert str(gone) == "No such file or directory" and there == png(seed=10)


def test_tars_are_found_by_a_glob_and_in_a_folder(put: Put, opened, make_tar, png):
    tar = tar_bytes(make_tar, {"a.png": png()})
    bucket = put({f"d/{name}": tar for name in ("x_b.tar", "x_a.tar", "y.tar", "x_/c.tar", ".x_.tar", "x_[1].tar")})
    assert keys(opened(f"{bucket}/d/x_*.tar")) == [f"x_{name}.tar/a.png" for name in ("[1]", "a", "b")]
    assert keys(opened(f"{bucket}/d/x_[1].tar")) == ["x_[1].tar/a.png"]
    assert keys(opened(f"{bucket}/**/c.tar")) == ["d/x_/c.tar/a.png"]
    assert keys(opened(f"{bucket}/d")) == [f"{name}.tar/a.png" for name in ("x_/c", "x_[1]", "x_a", "x_b", "y")]
    with pytest.raises(NotFoundError, match=r"/d/z_\*\.tar matches no file; correct it"):
        opened(f"{bucket}/d/z_*.tar")


@pytest.mark.parametrize("uri", ["*/*.tar.gz", "data/{a,b}.tar.gz", "data"])
def test_tars_of_a_dataset_on_the_hub_are_read(hub: HubServer, opened, make_tar, png, uri):
    tar = make_tar("s.tar.gz", {"x.png": png()}).read_bytes()
    hub.put("org/set", {"data/a.tar.gz": tar, "data/b.tar.gz": tar})
    source = opened(f"hf://datasets/org/set/{uri}")
    assert [*source.read_many(range(2))] == [png(), png()]


def test_a_glob_over_http_is_refused(url, opened):
    with pytest.raises(
        SourceError, match=r"\*\.tar is a glob, and folders cannot be listed over http; write it as shards"
    ):
        opened(f"{url}/*.tar")


def test_damaged_and_empty_tars_are_rows_with_a_problem(put: Put, opened, make_tar, png):
    whole = tar_bytes(make_tar, {"a.png": png(seed=1), "b.png": png(seed=2)})
    cut = 512 * (2 + -(-len(png(seed=1)) // 512)) + 10
    source = opened(put({"0.tar": whole[:cut], "1.tar": b""}) + "/{0..1}.tar")
    assert keys(source) == ["0.tar/a.png", "0.tar/b.png", "1.tar@0"]
    assert source.problem(1) == f"0.tar breaks off inside this member, at byte {cut}; copy the tar again"
    assert source.problem(2) == "the tar is damaged at byte 0: what follows is lost; copy it again"


def test_the_secret_of_a_signed_url_is_in_no_key(put: Put, url, opened, make_tar, png):
    put({"0.tar": tar_bytes(make_tar, {"a.png": png()})})
    source = opened(f"{url}/0.tar?x-signature=secret")
    assert keys(source) == ["0.tar/a.png"] and source.read(0) == png()


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_the_secret_of_a_signed_url_is_in_no_message(put: Put, url, opened, make_tar, png, suffix):
    put({f"0.{suffix}": make_tar(f"s.{suffix}", {"a.png": png()}).read_bytes()})
    source = opened(f"{url}/0.{suffix}?x-signature=secret")
    put({f"0.{suffix}": make_tar(f"s.{suffix}", {"a.png": png()}).read_bytes()[:600]})
    (found,) = source.read_many([0])
    assert str(found).startswith(f"0.{suffix} ") and "secret" not in str(found)


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_a_list_beside_its_images_names_them_relative_to_itself_or_whole(put: Put, bucket, url, opened, png, protocol):
    start = bucket if protocol == "s3" else url
    lines = f"b.png\t1\n./sub/../a.png\n{start}/lists/c.png\t0\n"
    put({**{f"lists/{name}.png": png(seed=ord(name)) for name in "abc"}, "lists/list.txt": lines.encode()})
    source = opened(f"{start}/lists/list.txt")
    assert keys(source) == ["a.png", "b.png", "c.png"] and source.labels(0, 3).tolist() == [-1, 1, 0]
    assert [source.read(row) for row in range(3)] == [png(seed=ord(name)) for name in "abc"]


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_a_list_with_columns_may_be_remote_and_its_query_is_no_part_of_a_key(put, bucket, url, opened, png, protocol):
    put({"lists/a.png": png(), "lists/list.csv": b"image,caption\na.png,a lion\n,nothing\n"})
    source = opened(f"{bucket}/lists/list.csv" if protocol == "s3" else f"{url}/lists/list.csv?signature=secret")
    assert keys(source) == ["a.png", "list.csv:3"] and source.caption(0) == "a lion"
    assert source.read(0) == png()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_metadata_beside_remote_images_gives_captions_and_labels(put: Put, opened, png, form):
    text = table(["file_name", "text", "label"], [["a.png", "a lion", 4]], form)
    source = opened(put({"a.png": png(), f"metadata.{form}": text.encode()}))
    assert keys(source) == ["a.png"] and (source.caption(0), source.label(0)) == ("a lion", 4)


def test_a_local_list_of_urls_has_keys_below_what_they_share(put: Put, url, opened, png, tmp_path):
    put({"x/1.png": png(seed=1), "y/2.png": png(seed=2)})
    (tmp_path / "list.txt").write_text(f"{url}/y/2.png\n{url}/x/1.png\n{url}/x/gone.png\n")
    source = opened(str(tmp_path / "list.txt"))
    assert source.is_remote and keys(source) == ["x/1.png", "x/gone.png", "y/2.png"]
    assert source.read(2) == png(seed=2)
    with pytest.raises(ImageError, match="No such file or directory") as raised:
        source.read(1)
    assert raised.value.stage == "read"


def test_a_remote_list_names_no_local_files(put: Put, opened):
    with pytest.raises(SourceError, match=r"list\.txt is remote but lists local paths; copy the list here, or list"):
        opened(put({"list.txt": b"/etc/passwd"}) + "/list.txt")


def test_many_are_read_in_order_with_a_bounded_number_under_way(put: Put, opened, monkeypatch):
    names = [f"{number:03}.png" for number in range(60)]
    source = opened(put({name: name.encode() for name in names}))
    under_way: list[int] = []
    most: list[int] = []
    read = source._read

    def watch(row: int) -> bytes:
        under_way.append(row)
        most.append(len(under_way))
        try:
            return read(row)
        finally:
            under_way.remove(row)

    monkeypatch.setattr(source, "_read", watch)
    rows = [*range(59, -1, -1)]
    reads = source.read_many(rows)
    assert next(reads) == b"059.png"
    assert len(most) <= remote_folder.NUM_READS
    assert [*reads] == [names[row].encode() for row in rows[1:]]
    assert 1 < max(most) <= remote_folder.NUM_READS


def test_workers_read_what_their_parent_has_read(put: Put, opened, png):
    source = opened(put({"a.png": png(seed=1)}))
    assert source.read(0) == png(seed=1)
    for start_method in ("forkserver", "spawn"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start_method)) as pool:
            assert pool.submit(source.read, 0).result(timeout=30) == png(seed=1)


def test_many_that_nobody_wants_any_more_are_not_read(put: Put, opened, monkeypatch):
    source = opened(put({f"{number}.png": b"x" for number in range(60)}))
    rows: list[int] = []
    monkeypatch.setattr(source, "read", lambda row: rows.append(row) or b"")
    reads = source.read_many(range(60))
    next(reads)
    reads.close()
    assert len(rows) <= remote_folder.NUM_READS


def test_an_object_that_went_away_fails_its_row_alone(put: Put, bucket, opened, png):
    source = opened(put({"a.png": png(), "b.png": png(seed=1)}))
    s3fs.S3FileSystem().rm_file(f"{bucket}/a.png")
    gone, there = source.read_many([0, 1])
    assert str(gone) == "No such file or directory" and there == png(seed=1)


@pytest.mark.parametrize("what", ["photos", "0.tar", "{0..1}.tar", "list.txt"])
def test_what_is_not_there_is_named(bucket, opened, what):
    for place in (f"{bucket}/{what}", f"s3://no-such-{bucket.removeprefix('s3://')}/{what}"):
        with pytest.raises(NotFoundError, match=r"^s3://\S+ does not exist"):
            opened(place)


def test_missing_tars_of_an_object_store_are_counted_and_passed_over(put: Put, bucket, opened, make_tar, png):
    put({f"{number}.tar": tar_bytes(make_tar, {"a.png": png(seed=number)}) for number in (1, 3)})
    with pytest.raises(
        NotFoundError, match=rf"^{bucket}/{{0\.\.3}}\.tar lacks 2 of its 4 files: 0\.tar, 2\.tar; correct"
    ):
        opened(f"{bucket}/{{0..3}}.tar")
    source = opened(f"{bucket}/{{0..3}}.tar", allow_missing=2)
    assert list(source.read_many([0, 1])) == [png(seed=1), png(seed=3)]


def test_a_glob_names_some_of_the_images_of_an_object_store(put: Put, bucket, opened, png):
    put({f"photos/{name}": png() for name in ("a/1.png", "a/2.jpg", "b/3.png")})
    source = opened(f"{bucket}/photos/*/*.png")
    assert source.keys(range(2)) == ["a/1.png", "b/3.png"] and source.class_names == ("a", "b")


def test_a_remote_zip_is_read_by_part(put: Put, bucket, url, opened, png, tmp_path, monkeypatch):
    members = {f"{label}/{number}.png": png(seed=number) for label in "ab" for number in range(3)}
    put({"photos.zip": write_zip(tmp_path / "photos.zip", members, zipfile.ZIP_DEFLATED).read_bytes()})
    for uri in (f"{bucket}/photos.zip", f"{url}/photos.zip?token=secret"):
        source = opened(uri)
        assert source.keys((0, 5)) == ["photos.zip/a/0.png", "photos.zip/b/2.png"] and source.class_names == ("a", "b")
        with monkeypatch.context() as patches:
            read = Mock(side_effect=source.folder.read_range)
            patches.setattr(source.folder, "read_range", read)
            assert list(source.read_many([4, 1])) == [png(seed=1), png(seed=1)]
        assert read.call_count == 2


def test_a_url_that_leads_nowhere_is_named(url, opened):
    for what in ("0.tar", "list.txt"):
        with pytest.raises(NotFoundError, match=rf"{what} does not exist; correct {url}/{what}"):
            opened(f"{url}/{what}")


def test_what_may_not_be_read_is_named(bucket, url, opened, make_tar, png):
    for name, data in {"0.tar": tar_bytes(make_tar, {"a.png": png()}), "list.txt": b"a.png"}.items():
        s3fs.S3FileSystem().pipe_file(f"{bucket}/{name}", data)
        with pytest.raises(
            SourceError, match=rf"{url}/{name} cannot be read \(Permission denied\); check the name, your"
        ):
            opened(f"{url}/{name}")


@pytest.mark.parametrize("what", ["0.tar", "list.txt"])
def test_a_server_that_does_not_answer_is_named(opened, what):
    with pytest.raises(SourceError, match=rf"http://{NOBODY_LISTENS}/{what} cannot be read \(.*; check the name, your"):
        opened(f"http://{NOBODY_LISTENS}/{what}")


def test_missing_credentials_are_one_sentence(object_store, opened, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(SourceError, match=r"s3://bucket/photos/ cannot be read \(Unable to locate credentials\)"):
            opened("s3://bucket/photos")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_server_that_sends_no_parts_is_told_of(server_without_ranges, opened, make_tar, png, monkeypatch):
    make_tar("0.tar", {f"{number}.png": png(200, 300, seed=number) for number in range(3)})
    sentence = "the server sends whole files where a part is asked for; copy it here, or serve ranges"
    source = opened(f"{server_without_ranges}/0.tar")  # so small that its headers come in one part
    with pytest.raises(ImageError, match=sentence):
        source.read(1)
    monkeypatch.setattr(remote_folder, "READ_AHEAD_BYTES", 700)
    with pytest.raises(SourceError, match=sentence):
        opened(f"{server_without_ranges}/0.tar")
