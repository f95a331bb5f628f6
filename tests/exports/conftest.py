"""A store to export, its photographs in classes, captioned and mirrored, one of them broken; in small pieces."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tcae_cli.exports import format as format_room
from tcae_cli.jobs.export import export_store
from tcae_cli.reports.export import ExportReport, ExportRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Each export has several pieces, of rows of 32 values."""
    monkeypatch.setattr(format_room, "_PIECE_BYTES", 512)


@pytest.fixture(scope="session")
def encode_small(encode):
    def run(source: Path, store: Path, **options) -> LatentStore:
        encode(source, store, max_failures="10%", **options)
        return LatentStore(store)

    return run


@pytest.fixture(scope="session")
def store(captioned, encode_small, tmp_path_factory) -> LatentStore:
    return encode_small(captioned, tmp_path_factory.mktemp("store") / "out.zarr", flip=True)


@pytest.fixture(scope="session")
def int8_store(captioned, encode_small, tmp_path_factory) -> LatentStore:
    return encode_small(captioned, tmp_path_factory.mktemp("int8") / "out.zarr", dtype="int8")


@pytest.fixture(scope="session")
def unlabelled_store(photos, encode_small, tmp_path_factory) -> LatentStore:
    """Eight photographs in no class folder, without captions, mirrored."""
    source = tmp_path_factory.mktemp("unlabelled")
    for image in (photos / "animal").iterdir():
        shutil.copy(image, source / image.name)
    return encode_small(source, tmp_path_factory.mktemp("plain") / "out.zarr", flip=True)


@pytest.fixture
def export(store, tmp_path):
    """Exports the store; gives the target and the report."""

    def run(name: str, export_format: str, of: LatentStore | Path = store, **options) -> SimpleNamespace:
        target = tmp_path / name
        uri = of.folder.uri if isinstance(of, LatentStore) else str(of)
        request = ExportRequest(store=uri, target=target, format=export_format, **options)
        report: ExportReport = export_store(request, Silent())
        return SimpleNamespace(target=target, report=report)

    return run


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of an export, hidden ones too."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
