"""Recipes: what is wrong with one is said in one sentence that names the file, the key and the fix."""

from pathlib import Path

import pytest

from tcae_cli.errors import NotFoundError, RecipeError
from tcae_cli.recipe.load import dump_recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"tiny", "imagenet256"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_loads_and_says_what_it_is(path):
    assert load_recipe(path).train.steps > 0
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Source:", "Hardware:", "Takes:", "Run:"):
        assert any(word in line for line in header), word


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_survives_being_written_and_read(path, tmp_path):
    recipe = load_recipe(path)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_the_paper_recipe_is_b_with_patches_of_8():
    model = load_recipe(next(path for path in RECIPES if path.stem == "imagenet256")).model
    assert (model.width, model.depths, model.patch_size, model.latent_channels) == (768, (8, 4), 8, 128)


def test_overrides_change_keys(tmp_path):
    path = write(tmp_path, "train: {steps: 10}")
    recipe = load_recipe(path, ["train.steps=20", "optimizer.lr=4e-4", "loss.perceptual=none", "model.preset=S"])
    assert (recipe.train.steps, recipe.optimizer.lr, recipe.loss.perceptual) == (20, 4e-4, None)
    assert recipe.model.width == 384
    off = write(tmp_path, "train: {steps: 10}\nloss: {perceptual: none}")
    assert load_recipe(off, ["loss.perceptual.weight=0.5"]).loss.perceptual.weight == 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {patch_szie: 8}\ntrain: {steps: 1}", "unknown key model.patch_szie; did you mean model.patch_size?"),
        ("modle: {}\ntrain: {steps: 1}", "unknown key modle; did you mean model?"),
        ("train: {steps: 1, colour: red}", "unknown key train.colour; train has steps, batch_size"),
        ("train: {}", "train.steps is missing"),
        ("train: {steps: many}", "train.steps should be a whole number, found 'many'"),
        ("train: {steps: 1.5}", "train.steps should be a whole number, found 1.5"),
        ("train: {steps: 0}", "train.steps: input should be greater than or equal to 1, found 0"),
        ("train: {steps: 1, precision: fp8}", "train.precision should be 'bf16' or 'fp32', found 'fp8'"),
        ("model: 8\ntrain: {steps: 1}", "model should be a mapping of keys, found 8"),
        ("model: {preset: XXL}\ntrain: {steps: 1}", "preset 'XXL' is not one of tiny, S, B, L"),
        ("model: {image_size: 250}\ntrain: {steps: 1}", "image_size 250 is not a multiple of downsampling 32"),
        ("train: {steps: 1, steps: 2}", 'found duplicate key "steps"'),
        ("train: [", "line 1"),
        ("- a", "should be a mapping of sections"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, sentence):
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as raised:
        load_recipe(path)
    assert sentence in str(raised.value)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError, match=r"no recipe at .*mine\.yaml"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize("override", ["train.steps", "=5", "train.steps.more=1", "train.steps=["])
def test_overrides_that_mean_nothing(tmp_path, override):
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(write(tmp_path, "train: {steps: 10}"), [override])
