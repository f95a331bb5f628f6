"""Each codec against zarr-python, both ways; and a new one, which takes a class and a name."""

import subprocess
import sys

import numpy as np
import pytest
import zarr
from numcodecs.gzip import GZip
from zarr.codecs import GzipCodec
from zarr.storage import MemoryStore

from tcae_cli.cli import _run
from tcae_cli.errors import StoreError
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore


class Gzip(GZip):
    """A codec that the package does not have."""

    has_checksum = True
    is_raw = False

    def __init__(self) -> None:
        super().__init__(level=1)

    def compressor(self, itemsize: int) -> GzipCodec:
        return GzipCodec(level=1)


@pytest.fixture
def gzip(add) -> str:
    add(CODECS, "gzip", Gzip)
    return "gzip"


def array_of(codec: str, sample: np.ndarray, files: dict) -> zarr.Array:
    """An array of one chunk, in memory, that zarr-python reads and writes."""
    shape, compressor = sample.shape, CODECS[codec]().compressor(sample.itemsize)
    options = {"shape": shape, "chunks": shape, "dtype": sample.dtype, "compressors": compressor}
    return zarr.create_array(MemoryStore(files), name="a", **options)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("name", CODECS)
def test_zarr_reads_what_a_codec_encodes_and_a_codec_decodes_what_zarr_writes(name, dtype):
    codec, files = CODECS[name](), {}
    sample = (np.random.default_rng(0).normal(0, 1, (128, 8, 8)) * 20).astype(dtype)
    array = array_of(name, sample, files)

    array[...] = sample
    (written,) = (data for file, data in files.items() if "/c/" in file)
    assert bytes(codec.decode(written.to_bytes())) == sample.tobytes()

    chunk = codec.encode(sample[::-1].copy())
    files |= {file: type(data).from_bytes(chunk) for file, data in files.items() if "/c/" in file}
    assert np.array_equal(array[...], sample[::-1])
    assert codec.is_raw == (bytes(chunk) == sample[::-1].tobytes())


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_notices_a_changed_byte_where_it_says_so(name):
    codec = CODECS[name]()
    sample = np.random.default_rng(0).normal(0, 1, (128, 8, 8)).astype(np.float16)
    chunk = bytearray(codec.encode(sample))
    chunk[-1] ^= 1
    if codec.has_checksum:
        with pytest.raises((RuntimeError, ValueError)):
            codec.decode(bytes(chunk))


def test_a_new_codec_is_offered_and_encodes_a_store_that_every_reader_reads(
    gzip, small_checkpoint, photos, tmp_path, capsys, encode
):
    assert _run(["encode-dataset", "--help"]) == 0
    assert "[zstd|none|lz4-bitshuffle|gzip]" in capsys.readouterr().out

    command = ["encode-dataset", str(photos), str(tmp_path / "gzip.zarr"), "--model", str(small_checkpoint)]
    assert _run([*command, "--codec", gzip, "--device", "cpu", "--workers", "0"]) == 0
    encode(photos, tmp_path / "zstd.zarr")
    expected = LatentStore(tmp_path / "zstd.zarr").latents(range(24))
    group = zarr.open_group(tmp_path / "gzip.zarr", mode="r")
    assert isinstance(group["latents"].compressors[0], GzipCodec)
    assert np.array_equal(group["latents"][:], expected)
    assert np.array_equal(LatentStore(tmp_path / "gzip.zarr").latents(range(24)), expected)


def test_a_store_of_a_codec_that_is_not_registered_is_refused(make_store):
    path = make_store(name="other.zarr", codec="none")
    root = path / "zarr.json"
    root.write_text(root.read_text().replace('"codec": "none"', '"codec": "gzip"'))
    with pytest.raises(StoreError, match=r"other\.zarr/zarr\.json is damaged: .*; restore it from a copy"):
        StoreHandle(LocalFolder(path))
    assert "gzip" not in CODECS


def test_listing_codecs_imports_neither_zarr_nor_numcodecs():
    code = (
        "import sys, tcae_cli.commands.encode_dataset; "
        "from tcae_cli.store.codecs.registry import CODECS; assert list(CODECS); "
        "print([name for name in ('numpy', 'zarr', 'numcodecs', 'torch') if name in sys.modules])"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout == "[]\n"
