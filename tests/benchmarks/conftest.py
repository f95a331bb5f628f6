"""What is measured with: `make bench IMAGES=FOLDER`, or the sample photographs."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tcae_cli import LatentStore
from tcae_cli.images.samples import write_sample_windows
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.jobs.export import export_store
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.export import ExportRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.commit import finalise
from tcae_cli.store.handle import create_store
from tcae_cli.store.spec import StoreSpec, rows_per_shard
from tcae_cli.store.statistics import Moments
from tcae_cli.store.writer import EncodedRows, StoreWriter

NUM_ROWS = 16384  # of latents that are kept in every form

_COPIES = 20


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of real photographs, 460."""
    if folder := os.environ.get("IMAGES"):
        return Path(folder)
    once, many = tmp_path_factory.mktemp("samples"), tmp_path_factory.mktemp("images")
    write_sample_windows(once)
    for number in range(_COPIES):
        shutil.copytree(once, many / str(number))
    return many


@pytest.fixture
def show(capsys):
    """Prints a figure past pytest's capture."""

    def print_line(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")

    return print_line


class Kept:
    """The same rows in every form: stores of both codecs, and what `tcae export` makes of them.

    They are real: photographs encoded by the built-in model, over and over; zstd takes 5 % off.
    """

    def __init__(self, images: Path, folder: Path) -> None:
        encode_dataset(EncodeRequest(source=str(images), store=str(folder / "few.zarr"), flip=True), Silent())
        self.folder, few = folder, folder / "few.zarr"
        self.zstd, self.none = (write_many(few, folder / f"{codec}.zarr", codec) for codec in ("zstd", "none"))
        self.npy, self.dc_ae, self.lightningdit = map(self._export, ("npy", "dc-ae", "lightningdit"))

    def _export(self, name: str) -> Path:
        export_store(ExportRequest(store=str(self.zstd), target=self.folder / name, format=name), Silent())
        return self.folder / name


def write_many(few: Path, path: Path, codec: str) -> Path:
    """A store with the ok rows of another over and over, in ten classes."""
    source, path = LatentStore(few), LocalFolder(path)
    spec = source.spec.model_copy(
        update={
            "codec": codec,
            "rows_per_shard": rows_per_shard(NUM_ROWS, 2 * int(np.prod(source.sample_shape))),
            "source": source.spec.source.model_copy(update={"count": NUM_ROWS, "class_names": list("0123456789")}),
        }
    )
    latents = {view: LatentStore(few, view).latents(source.ok_rows.tolist()) for view in spec.views}
    path.make()
    store = create_store(path, spec)
    writer = StoreWriter(store)
    for plan in writer.plan(range(spec.num_shards)):
        rows, copied = plan.rows, np.array(plan.rows) % len(source.ok_rows)
        keys = [f"{row % 10}/{row:06d}.png" for row in rows]
        in_progress = writer.begin(plan, keys=keys, labels=np.array(rows) % 10, captions=None)
        in_progress.add(encoded_rows(rows, {view: values[copied] for view, values in latents.items()}, spec))
        in_progress.commit()
    finalise(store)
    return path.path


def encoded_rows(rows: range, latents: dict[str, np.ndarray], spec: StoreSpec) -> EncodedRows:
    return EncodedRows(
        rows=rows,
        todo=rows,
        latents=latents,
        moments={view: Moments.of(values.astype(np.float32)) for view, values in latents.items()},
        original_sizes=np.full((len(rows), 2), 256, np.int32),
        crops={spec.crop_name(size): np.full((len(rows), 4), size, np.int32) for size in spec.sizes},
        content_hashes=np.array(rows, np.uint64),
        failures={},
    )


@pytest.fixture(scope="session")
def kept(images, tmp_path_factory) -> Kept:
    """16,384 rows of [128, 8, 8], float16, and their mirrored twins."""
    return Kept(images, tmp_path_factory.mktemp("kept"))
