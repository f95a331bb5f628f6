"""The images that a run trains on and those that it is measured on: which options are for which of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tcae_cli.errors import UsageError
from tcae_cli.jobs.train_sources import index_sources
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.reports.train import TrainRequest
from tcae_cli.sources.source import Source

from ..heard import Heard
from ..pictures import write_tar
from ..small_recipes import recipe
from ..tables import parquet, write_parquet


@pytest.fixture
def index(tmp_path: Path) -> Callable[..., tuple[Source | None, Source, list[str]]]:
    """Indexes the sources of a run; gives those to train on and to measure on, and what was said."""

    def run(data: Path | str, val: Path | str, **fields: str) -> tuple[Source | None, Source, list[str]]:
        out = tmp_path / "run"
        request = TrainRequest(recipe=recipe(), data=str(data), val=str(val), out=out, fields=SampleFields(**fields))
        progress = Heard()
        return index_sources(request, out, progress), Source(out / "index-val"), progress.said

    return run


@pytest.fixture
def tables(png, tmp_path: Path) -> Path:
    """A folder with a table that has two columns of images and two that may be labels."""
    images = {name: [{"bytes": png(seed=seed), "path": None} for seed in range(8)] for name in ("photo", "mask")}
    columns = images | {"label": [5] * 8, "class": [6] * 8}
    return write_parquet(tmp_path / "tables" / "0.parquet", columns).parent


def test_options_are_for_the_one_of_both_that_can_use_them(index, tables, photos, png, tmp_path):
    choice = {"image": "photo", "label": "class"}
    data, val, said = index(tables, photos, **choice)
    assert data.label(0) == 6 and val.class_names == ("animal", "person", "thing")
    for name in choice:
        assert f"--{name} is for {tables} alone: {photos} has nothing to choose by it" in said

    data, val, said = index(photos, tables, **choice)
    assert data.class_names == ("animal", "person", "thing") and val.label(0) == 6
    assert f"--image is for {tables} alone: {photos} has nothing to choose by it" in said

    tar = write_tar(
        tmp_path / "0.tar", {f"{number}.{suffix}": png() for number in range(8) for suffix in ("a.png", "b.png")}
    )
    data, val, _ = index(tar, photos, image="a.png")
    assert (len(data), len(val)) == (8, 24)
    _, val, said = index(f"pipe:cat {tar}", tables, **choice)
    assert val.label(0) == 6 and said[-1].endswith(f"alone: pipe:cat {tar} has nothing to choose by it")


def test_options_are_for_both_where_both_can_use_them(index, tables):
    data, val, said = index(tables, tables / "0.parquet", image="photo", label="class")
    assert (data.label(0), val.label(0)) == (6, 6) and not any("alone" in sentence for sentence in said)


def test_options_that_neither_can_use_are_refused_as_the_data_refuses_them(index, tables, photos, png, tmp_path):
    other = write_parquet(tmp_path / "other.parquet", {"image": [png()]})
    with pytest.raises(UsageError, match=rf"^--label species: no image of {photos} has it; columns"):
        index(photos, other, label="species")
    with pytest.raises(UsageError, match=rf"^--image photograph: {tables}/0\.parquet has no such column, only photo, "):
        index(tables, photos, image="photograph")
    with pytest.raises(UsageError, match=rf"^--split: {photos} is a folder of images, which has nothing to choose"):
        index(photos, photos, split="test")


def test_images_that_are_read_in_order_are_shuffled_in_a_buffer_which_is_said(index, photos, png, tmp_path):
    table = write_parquet(tmp_path / "0.parquet", {"image": [png(seed=seed) for seed in range(8)]})
    said = index(table, photos)[2]
    assert f"{table}: 8 images" in said
    assert (
        f"{table} is read in order, so its images are shuffled in a buffer of 1,000; change it with --set "
        "data.shuffle_buffer=N"
    ) in said


def test_the_split_is_that_of_the_data_or_else_of_the_images_to_measure_on(index, hub, photos, png):
    images = [png(seed=seed) for seed in range(8)]
    hub.put("org/photos", {"train.parquet": parquet(images), "test.parquet": parquet(images[:3])})
    uri = "hf://datasets/org/photos"
    assert len(index(photos, uri, split="test")[1]) == 3
    data, val, _ = index(uri, f"{uri}#test", split="train")
    assert (len(data), len(val)) == (8, 3)
