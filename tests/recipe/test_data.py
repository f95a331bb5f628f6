"""A recipe may name its images; the command line wins, and variables are filled in from the environment."""

from pathlib import Path

import pytest

from tcae_cli.errors import RecipeError
from tcae_cli.recipe.data import NamedImages, choose_images, with_images
from tcae_cli.recipe.load import dump_recipe, load_recipe
from tcae_cli.recipe.schema import Recipe

HUB = "hf://datasets/ILSVRC/imagenet-1k"


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    (tmp_path / "mine.yaml").write_text(
        "data: {train: '${PHOTOS}/train', val: '${PHOTOS_VAL:-photos/val}'}\ntrain: {steps: 1}"
    )
    return load_recipe(tmp_path / "mine.yaml")


def test_variables_are_filled_in_and_their_defaults_are_used(recipe):
    advice = "set PHOTOS_VAL to the images you have or pass --val"
    assert choose_images(recipe, "mine.yaml", "val", None, {}) == NamedImages("photos/val", advice)
    assert choose_images(recipe, "mine.yaml", "val", None, {"PHOTOS_VAL": ""}).uri == "photos/val"
    assert choose_images(recipe, "mine.yaml", "val", None, {"PHOTOS_VAL": "/data"}).uri == "/data"
    assert choose_images(recipe, "mine.yaml", "train", None, {"PHOTOS": "/p"}).uri == "/p/train"


def test_the_command_line_wins_and_needs_no_variable(recipe):
    assert choose_images(recipe, "mine.yaml", "train", "mine", {}) == NamedImages("mine")


def test_a_variable_that_is_not_set_is_a_sentence(recipe):
    words = r"mine\.yaml: data\.train is \$\{PHOTOS\}/train, and PHOTOS is not set; set it, or pass --data$"
    with pytest.raises(RecipeError, match=words):
        choose_images(recipe, "mine.yaml", "train", None, {})


def test_a_recipe_without_images_names_none():
    assert choose_images(Recipe(train={"steps": 1}), "mine.yaml", "train", None, {}) is None


def test_the_images_that_were_used_stand_in_the_record(recipe, tmp_path):
    (tmp_path / "recorded.yaml").write_text(dump_recipe(with_images(recipe, "/p/train", None)))
    data = load_recipe(tmp_path / "recorded.yaml").data
    assert (data.train, data.val) == ("/p/train", None)


@pytest.mark.parametrize("name", ["imagenet256", "imagenet256-small", "imagenet512-finetune"])
def test_the_imagenet_recipes_name_imagenet(name):
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    assert choose_images(recipe, name, "train", None, {}).uri == f"{HUB}#train"
    assert choose_images(recipe, name, "val", None, {}).uri == f"{HUB}#validation"
    assert choose_images(recipe, name, "train", None, {"IMAGENET_TRAIN": "/i/train"}).uri == "/i/train"
