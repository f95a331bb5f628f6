"""Stores whose classes are numbered differently are not mixed without a word."""

import gc

import pytest

from tcae_cli import ConcatDataset, LatentDataset
from tcae_cli.errors import UsageError

from .conftest import spec_of


@pytest.fixture
def dataset(make_store):
    """Makes a store of 16 rows, of classes 0 and 1 in turns, with these class names, and opens it."""
    gc.collect()  # datasets of earlier tests are compared with too

    def make(name: str, *class_names: str, **options) -> LatentDataset:
        source = spec_of(16).source.model_copy(update={"class_names": list(class_names)})
        return LatentDataset(make_store(16, name=name, source=source), **options)

    return make


def labels(dataset) -> list[int]:
    return [int(dataset[index]["label"]) for index in range(4)]


def test_stores_of_the_same_classes_are_added(dataset):
    both = dataset("one.zarr", "cat", "dog") + dataset("two.zarr", "cat", "dog", "eel")
    assert len(both) == 32 and both.class_names == ("cat", "dog", "eel")
    assert len(both + dataset("three.zarr", "cat", "dog")) == 48


def test_stores_that_number_classes_differently_are_refused(dataset):
    one = dataset("one.zarr", "cat", "dog")
    with pytest.warns(
        UserWarning, match="class dog is 0 in .*two.zarr and 1 in .*one.zarr; number one as the other: La"
    ):
        two = dataset("two.zarr", "dog", "eel")
    words = r"class 0 is \w+ in .* and \w+ in .*; number one as the other: LatentDataset\(\.\.\., class_names=other\."
    for mix in (lambda: one + two, lambda: ConcatDataset([two, one]), lambda: one + one + two):
        with pytest.raises(UsageError, match=words):
            mix()


def test_stores_with_and_without_class_names_are_refused(dataset):
    with pytest.raises(
        UsageError, match=r"the classes of .*two\.zarr have numbers alone and those of .*one\.zarr have n"
    ):
        dataset("one.zarr", "cat", "dog") + dataset("two.zarr")


def test_without_labels_nothing_is_compared(dataset):
    one = dataset("one.zarr", "cat", "dog")
    assert len(one + dataset("two.zarr", "dog", "cat", fields=("latents",))) == 32


def test_labels_are_numbered_by_the_names_of_another_store(dataset):
    one = dataset("one.zarr", "cat", "dog")
    two = dataset("two.zarr", "dog", "bird", class_names=("cat", "dog", "bird"))
    assert labels(two) == [1, 2, 1, 2] and two.num_classes == 3
    mapped = dataset("three.zarr", "dog", "cat", class_names=one.class_names)
    assert labels(mapped) == [1, 0, 1, 0] and len(one + mapped) == 32


def test_a_class_without_a_number_is_named(dataset):
    with pytest.raises(UsageError, match=r"one\.zarr has rows of class dog, which class_names lacks; add it"):
        dataset("one.zarr", "cat", "dog", class_names=("cat",))
    with pytest.raises(
        UsageError, match=r"two\.zarr has no class names, so its labels cannot be numbered by class_name"
    ):
        dataset("two.zarr", class_names=("cat",))
