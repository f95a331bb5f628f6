"""How fast tables of images are indexed and encoded, against the same images as files."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.model.tcae import TCAE
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent

_RUNS = 5  # of each, alternating
_COPIES = 10  # of the images: where other machines share the processor, runs of seconds differ by a tenth
_ROWS_OF_A_GROUP = 100  # as datasets writes images
_MILLION = 1_000_000

_INDEX = """
import json, re, sys, time
from pathlib import Path
from tcae_cli.sources.index_update import index_source
started = time.perf_counter()
index_source(sys.argv[1], Path(sys.argv[2]))
seconds = time.perf_counter() - started
# Not ru_maxrss, which a new process has from the one that started it.
kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"seconds": seconds, "kib": kib}))
"""


def encoded_per_s(source: Path, store: Path) -> float:
    report = encode_dataset(EncodeRequest(source=str(source), store=str(store), device="cpu"), Silent())
    assert report.num_failed == 0
    return report.num_ok / report.steady_s


def test_parquet_is_encoded_as_fast_as_a_folder(images, tmp_path, show, monkeypatch):
    # The encoder does nothing, so that reading and decoding set the pace.
    monkeypatch.setattr(TCAE, "encode", lambda self, pixels: torch.zeros(len(pixels), 128, 8, 8))
    folder = tmp_path / "images"
    for number in range(_COPIES):
        shutil.copytree(images, folder / str(number), copy_function=os.link)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    table = pa.table({"image": [{"bytes": path.read_bytes(), "path": str(path.relative_to(folder))} for path in files]})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=_ROWS_OF_A_GROUP)

    rates: dict[Path, list[float]] = {folder: [], tmp_path / "images.parquet": []}
    for run in range(_RUNS):
        for source in rates if run % 2 else reversed(rates):  # neither is always the one that runs first
            rates[source].append(encoded_per_s(source, tmp_path / f"{run}-{source.name}.zarr"))
    as_files, as_rows = map(statistics.median, rates.values())
    show(f"{len(files)} images: {as_files:.0f}/s from a folder, {as_rows:.0f}/s from Parquet: {as_rows / as_files:.2f}")
    assert as_rows >= 0.97 * as_files


def test_a_million_rows_of_parquet_are_indexed_in_a_minute_and_a_gibibyte(tmp_path, show):
    (tmp_path / "table").mkdir()
    for number in range(10):
        rows = range(number * _MILLION // 10, (number + 1) * _MILLION // 10)
        images = [{"bytes": b"%d" % row, "path": f"n{row % 1000:08d}_{row}.JPEG"} for row in rows]
        captions = [f"a photograph of two people and a dog on a beach, number {row}" for row in rows]
        table = pa.table({"image": images, "label": [row % 1000 for row in rows], "caption": captions})
        pq.write_table(table, tmp_path / "table" / f"train-{number:05d}-of-00010.parquet", row_group_size=1000)
        del images, captions, table

    command = [sys.executable, "-c", _INDEX, str(tmp_path / "table" / "*.parquet"), str(tmp_path / "index")]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    show(f"{_MILLION:,} rows: {found['seconds']:.1f} s, {found['kib'] / 2**20:.2f} GiB")
    assert found["seconds"] < 60 and found["kib"] < 2**20
