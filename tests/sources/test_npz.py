"""Samples in one .npz as a source."""

import random

import numpy as np
import pytest

from tcae_cli.errors import ImageError, SourceError, TcaeError, UsageError
from tcae_cli.images.image_file import decode_image
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

SAMPLES = np.random.default_rng(0).integers(0, 256, (11, 6, 8, 3), np.uint8)


@pytest.fixture
def opened(tmp_path):
    """Opens an .npz of these arrays."""

    def open_npz(*arrays, save=np.savez, **named) -> Source:
        save(tmp_path / "samples.npz", *arrays, **named)
        return open_source(str(tmp_path / "samples.npz"), tmp_path / "index")

    return open_npz


def test_samples_are_rows_in_their_order(opened, tmp_path):
    source = opened(SAMPLES)
    assert source.keys((0, 10)) == ["samples.npz/00", "samples.npz/10"]
    assert source.labels(0, 11).tolist() == [-1] * 11 and not source.remarks
    for again in (source, Source(tmp_path / "index")):
        assert all(np.array_equal(decode_image(again.read(row)), SAMPLES[row]) for row in (10, 0, 4))


def test_labels_are_in_the_second_array_as_class_conditional_samplers_write_it(opened):
    source = opened(SAMPLES, np.arange(11, dtype=np.int32)[::-1])
    assert source.labels(0, 11).tolist() == list(range(10, -1, -1)) and not source.remarks


def test_arrays_that_are_not_used_are_named(opened):
    source = opened(SAMPLES, np.zeros((11, 5)), mu=np.zeros(2), sigma=np.eye(2))
    assert source.labels(0, 11).tolist() == [-1] * 11
    assert [remark.partition(": ")[2] for remark in source.remarks] == ["of its arrays mu, sigma, arr_1 are not used"]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ([SAMPLES.astype(np.float32)], r"arr_0 is float32, \[11, 6, 8, 3\], and no array of samples; write it with nu"),
        ([SAMPLES.transpose(0, 3, 1, 2)], r"arr_0 is uint8, \[11, 3, 6, 8\], and no array of samples"),
        ([SAMPLES[0]], r"arr_0 is uint8, \[6, 8, 3\], and no array of samples"),
        ([SAMPLES[:0]], r"arr_0 is uint8, \[0, 6, 8, 3\], and no array"),
        ([np.asfortranarray(SAMPLES)], r"and no array of samples; write it with numpy.savez\(FILE, samples\), uint8, "),
        ([np.array([{}], object)], r"arr_0 is object, \[1\], and no array of samples"),
    ],
)
def test_what_are_no_samples_is_refused(opened, arrays, sentence):
    with pytest.raises(SourceError, match=sentence):
        opened(*arrays)


def test_other_archives_of_arrays_are_refused(opened, tmp_path):
    sentence = r"has no array arr_0 of samples, only mu, sigma; its statistics are for --reference; write it with numpy"
    with pytest.raises(SourceError, match=sentence):
        opened(mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(SourceError, match="arr_0 is compressed, and samples are read by position; write it with numpy"):
        opened(SAMPLES, save=np.savez_compressed)
    (tmp_path / "samples.npz").write_bytes(b"\x93NUMPY")
    with pytest.raises(
        SourceError, match=r"samples\.npz is not an .npz, or is damaged \(File is not a zip file\); copy"
    ):
        open_source(str(tmp_path / "samples.npz"), tmp_path / "index")
    with pytest.raises(
        UsageError, match=r"--label: .* is samples in an .npz, which has nothing to choose by it; omit it"
    ):
        open_source(str(tmp_path / "samples.npz"), tmp_path / "index", SampleFields(label="x"))


def test_an_npz_that_changed_since_it_was_indexed_fails_its_rows(opened, tmp_path):
    source = opened(SAMPLES)
    np.savez(tmp_path / "samples.npz", SAMPLES[:, 1:])
    with pytest.raises(ImageError, match=r"samples\.npz has changed since it was indexed"):
        source.read(1)


def test_no_byte_of_an_npz_brings_a_traceback(opened, tmp_path):
    opened(SAMPLES, np.arange(11))
    path = tmp_path / "samples.npz"
    whole = path.read_bytes()
    pixels = whole.index(SAMPLES.tobytes())
    chance = random.Random(0)
    for _ in range(50):
        data = bytearray(whole)
        place = chance.choice((chance.randrange(pixels), chance.randrange(pixels + SAMPLES.nbytes, len(whole))))
        data[place] = chance.choice((0, 255, chance.randrange(256)))
        path.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
        try:
            source = open_source(str(path), tmp_path / "index")
            for found in source.read_many(range(len(source))):
                assert isinstance(found, bytes | ImageError)
        except TcaeError as error:
            assert "samples.npz" in str(error)
