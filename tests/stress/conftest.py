"""Sources that break, grow and are repaired, and the stores that uninterrupted runs make of them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .attack import Scenario
from .launches import Driver
from .plain_reader import Reference
from .steps import APPEND, FRESH, RETRY

_BROKEN = (5, 26, 47, 68, 89, 110)  # by position among the 120
_REPAIRED = _BROKEN[1:5]


@pytest.fixture(scope="session")
def sources(photos, tmp_path_factory) -> Path:
    """Folders of 120 images: `broken`, where six are, and `repaired`, where two are; and 70 of `broken` in `small`."""
    folder = tmp_path_factory.mktemp("sources")
    for path in sorted(photos.rglob("*.jpg")):
        (folder / "repaired" / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            for turn in range(5):
                name = f"{path.parent.name}/{turn}-{path.name}"
                picture.rotate(turn * 9).save(folder / "repaired" / name, quality=85)
    shutil.copytree(folder / "repaired", folder / "broken")
    names = sorted(str(path.relative_to(folder / "broken")) for path in (folder / "broken").rglob("*.jpg"))
    for number in _BROKEN:
        for kind in ("broken",) if number in _REPAIRED else ("broken", "repaired"):
            path = folder / kind / names[number]
            path.write_bytes(path.read_bytes()[:700])
    later = {f"{start}-{number}.jpg" for start in ("person/0", "thing/2") for number in range(5)}
    for name in names:
        if not name.startswith("animal/") and name not in later:  # so a new class sorts before the old ones
            (folder / "small" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "broken" / name, folder / "small" / name)
    return folder


@pytest.fixture(scope="session")
def driver(tmp_path_factory) -> Iterator[Driver]:
    driver = Driver(tmp_path_factory.mktemp("scratch"))
    yield driver
    driver.close()


@pytest.fixture(scope="session")
def request_of(small_checkpoint) -> Callable[..., dict[str, Any]]:
    """An EncodeRequest as JSON has it: two views, on the CPU."""

    def make(source: Path, store: Path, **options: Any) -> dict[str, Any]:
        settings = {"model": str(small_checkpoint), "device": "cpu", "num_workers": 0, "flip": True, "batch_size": 8}
        return {"source": str(source), "store": str(store), **settings, **options}

    return make


@pytest.fixture(scope="session")
def scenarios(sources, driver, request_of, tmp_path_factory) -> dict[str, Scenario]:
    """What is attacked, each with what an uninterrupted run makes."""
    folder = tmp_path_factory.mktemp("references")

    def encode(source: str, store: str, **options: Any) -> Path:
        outcome = driver.launch(request_of(sources / source, folder / store, **options), 1)
        assert outcome.exits == [0], outcome
        return folder / store

    bases = {APPEND: encode("small", "small.zarr"), RETRY: encode("broken", "fresh.zarr")}
    scenarios = {FRESH: Scenario(FRESH, sources / "broken", {}, None, Reference(folder / "fresh.zarr"))}
    for name, source, options in (
        (APPEND, "broken", {"append": True}),
        (RETRY, "repaired", {"retry_failed": True}),
    ):
        shutil.copytree(bases[name], folder / f"{name}.zarr")
        store = encode(source, f"{name}.zarr", **options)
        scenarios[name] = Scenario(name, sources / source, options, bases[name], Reference(store))
    return scenarios
