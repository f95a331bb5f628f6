"""A store of each kind of source: interrupted, resumed, tried again, appended to, and compared with its source."""

from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore

from ..forms import Sample
from ..store_contents import arrays_of, assert_same_arrays, refused
from .test_verify import verify


class _Interrupting(Silent):
    """Ends a run once the first shard, of 16 rows, is written."""

    num_rows = 0

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self.num_rows += count
        if self.num_rows >= 16:
            raise KeyboardInterrupt


@pytest.mark.parametrize("form", ["csv", "tar.gz", "tar.zst", "zip", "parquet", "arrow", "hub"])
def test_a_store_is_resumed_tried_again_appended_to_and_verified(form, write_source, encode, png, tmp_path):
    samples = [Sample("cat", f"{row:02}.png", png(seed=row), f"photo {row}") for row in range(22)]
    broken = [*samples[:3], replace(samples[3], data=bytes(len(samples[3].data))), *samples[4:]]
    store = tmp_path / "store.zarr"

    source = write_source(form, broken[:12], broken[12:20])
    with pytest.raises(KeyboardInterrupt):
        encode(source, store, _Interrupting())
    report = encode(source, store, max_failures="10%")
    assert (report.num_encoded_now, report.num_ok, report.num_failed) == (4, 19, 1)

    write_source(form, samples[:12], samples[12:20])
    report = encode(source, store, retry_failed=True)
    assert (report.num_encoded_now, report.num_ok) == (1, 20)
    encode(source, tmp_path / "fresh.zarr")
    assert_same_arrays(store, tmp_path / "fresh.zarr")

    write_source(form, samples[:12], samples[12:20], samples[20:])
    assert "2 new (" in refused(encode, source, store)
    report = encode(source, store, append=True)
    assert (report.num_encoded_now, report.num_ok, report.complete) == (2, 22, True)
    assert LatentStore(store).captions(range(22)) == [f"photo {row}" for row in range(22)]
    assert verify(store, source=source).problems == []


def test_every_kind_of_source_encodes_into_the_same_buckets(write_source, encode, tmp_path):
    forms = ["folder", "csv", "tar", "tar.gz", "zip", "parquet", "arrow"]
    sizes = [(150, 90), (90, 150), (100, 100), (170, 90), (100, 160), (110, 100)]
    samples = [Sample("cat", f"{row:02}.png", noise(*size)) for row, size in enumerate(sizes)]

    def latents_of(form: str) -> dict[str, bytes]:
        source = write_source(form, samples[:3], samples[3:], where=f"source-{form}")
        encode(source, tmp_path / f"{form}.zarr", sizes=(128,), buckets=True, bucket_step=32, batch_size=4)
        arrays = arrays_of(tmp_path / f"{form}.zarr")
        return {name: each.tobytes() for name, each in arrays.items() if name.endswith("/latents")}

    wanted = latents_of(forms[0])
    buckets = [f"buckets/{shape}/latents" for shape in ("128x128", "160x96", "96x160")]
    assert sorted(wanted) == buckets and all(latents_of(form) == wanted for form in forms[1:])


def noise(width: int, height: int) -> bytes:
    """A PNG file of random pixels."""
    buffer = BytesIO()
    Image.effect_noise((width, height), 64).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
