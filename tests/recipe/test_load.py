"""An error in a recipe is one sentence that names the file, the key and the fix."""

from pathlib import Path

import pytest

from tcae_cli.errors import NotFoundError, RecipeError
from tcae_cli.recipe.load import dump_recipe, load_recipe
from tcae_cli.recipe.schema import ModelSpec, Recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_there_are_recipes():
    ablation = {f"ablation-{arm}" for arm in ("baseline", "stc", "ssl", "stc-ssl")}
    imagenet = {"imagenet256", "imagenet256-small", "imagenet512-finetune"}
    assert {path.stem for path in RECIPES} == {"tiny"} | imagenet | ablation


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_loads_and_says_what_it_is(path):
    assert load_recipe(path).train.steps > 0
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Source:", "Hardware:", "Takes:", "Expect:", "Run:"):
        assert any(word in line for line in header), word
    assert any(f"recipes/{path.name}" in line for line in header)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_survives_being_written_and_read(path, tmp_path):
    recipe = load_recipe(path)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def shipped(name: str, *overrides: str, parent: ModelSpec | None = None) -> Recipe:
    return load_recipe(next(path for path in RECIPES if path.stem == name), overrides, parent)


def test_the_paper_recipe_is_b_with_patches_of_8_and_the_full_objective():
    recipe = shipped("imagenet256")
    model, loss = recipe.model, recipe.loss
    assert (model.width, model.depths, model.patch_size, model.latent_channels) == (768, (8, 4), 8, 128)
    assert (loss.self_distillation.alpha, loss.perceptual.network) == (0.1, "lpips-vgg")
    assert (loss.adversarial.discriminator, loss.adversarial.weight) == ("dino-s8", 0.75)
    assert recipe.train.steps == -(-100 * 1_281_167 // recipe.train.batch_size)


def test_the_small_recipe_is_the_paper_recipe_but_for_width_and_length():
    small, paper = shipped("imagenet256-small"), shipped("imagenet256")
    assert (small.model.width, small.model.depths) == (384, (8, 4))
    assert small.loss.adversarial == paper.loss.adversarial and small.optimizer == paper.optimizer
    assert small.train.steps == -(-50 * 1_281_167 // small.train.batch_size)


@pytest.mark.parametrize("cpu_form", [(), ("patch_size=4", "downsampling=16", "latent_channels=32")])
def test_the_ablations_arms_differ_in_staging_and_self_distillation_alone(cpu_form):
    overrides = [f"model.{key}" for key in cpu_form]
    arms = {arm: shipped(f"ablation-{arm}", *overrides) for arm in ("baseline", "stc", "ssl", "stc-ssl")}
    assert {arm for arm, recipe in arms.items() if recipe.model.staged} == {"stc", "stc-ssl"}
    assert {arm for arm, recipe in arms.items() if recipe.loss.self_distillation} == {"ssl", "stc-ssl"}
    assert arms["ssl"].loss.self_distillation == arms["stc-ssl"].loss.self_distillation
    alike = []
    for recipe in arms.values():
        settings = recipe.model_dump()
        del settings["model"]["staged"], settings["loss"]["self_distillation"]
        alike.append(settings)
    assert all(settings == alike[0] for settings in alike)

    model = arms["stc-ssl"].model
    pixels, latents = 3 * model.image_size**2, model.latent_channels * (model.image_size // model.downsampling) ** 2
    assert pixels == 24 * latents  # as the paper's
    if not cpu_form:
        assert (model.fine_grid, model.coarse_grid) == (32, 16)


def test_the_512_px_recipe_takes_its_model_from_any_parent():
    parent = ModelSpec(preset="S", patch_size=16, latent_channels=64)
    model = shipped("imagenet512-finetune", parent=parent).model
    assert model == parent.model_copy(update={"image_size": 512})


def test_a_recipe_to_finetune_with_takes_what_it_does_not_say_from_the_parent(tmp_path):
    parent = ModelSpec(image_size=64, patch_size=4, downsampling=16, width=32, depths=(1, 2), num_heads=2, staged=False)
    silent = write(tmp_path, "train: {steps: 1}")
    assert load_recipe(silent, parent=parent).model == parent
    assert load_recipe(silent, ["model.image_size=96"], parent).model.image_size == 96
    agreeing = write(tmp_path, "model: {width: 32, depths: [1, 2], image_size: 128}\ntrain: {steps: 1}")
    assert load_recipe(agreeing, parent=parent).model == parent.model_copy(update={"image_size": 128})
    by_preset = write(tmp_path, "model: {preset: tiny}\ntrain: {steps: 1}")
    assert load_recipe(by_preset, parent=ModelSpec(preset="tiny", patch_size=16)).model.patch_size == 16


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            "{width: 64, num_heads: 2}",
            "model.width is 64, but the model to finetune has 192; omit model.width, or",
        ),
        ("{depths: [1, 2]}", "model.depths is [1, 2], but the model to finetune has [2, 3]; omit model.depths"),
        (
            "{preset: S}",
            "model.width is 384, but the model to finetune has 192; omit model.preset, or train from",
        ),
        ("{pixel_shortcut: true}", "model.pixel_shortcut is True, but the model to finetune has False; omit model"),
        ("{image_size: 250}", "image_size 250 is not a multiple of downsampling 32"),
        ("{widht: 64}", "unknown key model.widht; did you mean model.width?"),
        ("{preset: XXL}", "preset 'XXL' is not one of tiny, S, B, L"),
        ("8", "model should be a mapping of keys, found 8"),
    ],
)
def test_a_recipe_that_wants_another_model_than_the_parent_is_refused(tmp_path, model, sentence):
    path = write(tmp_path, f"model: {model}\ntrain: {{steps: 1}}")
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, parent=ModelSpec(preset="tiny"))
    assert sentence in str(raised.value)
    assert str(raised.value).startswith(str(path))


def test_overrides_change_keys(tmp_path):
    path = write(tmp_path, "train: {steps: 10}")
    recipe = load_recipe(path, ["train.steps=20", "optimizer.lr=4e-4", "loss.perceptual=none", "model.preset=S"])
    assert (recipe.train.steps, recipe.optimizer.lr, recipe.loss.perceptual) == (20, 4e-4, None)
    assert recipe.model.width == 384
    off = write(tmp_path, "train: {steps: 10}\nloss: {perceptual: none}")
    assert load_recipe(off, ["loss.perceptual.weight=0.5"]).loss.perceptual.weight == 0.5


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", "high"),
        (", precision: fp32", "highest"),
        (", precision: fp32, float32_matmul_precision: high", "high"),
        (", float32_matmul_precision: highest", "highest"),
    ],
)
def test_what_stays_float32_is_tf32_beside_bf16_unless_the_recipe_says_otherwise(tmp_path, keys, expected):
    recipe = load_recipe(write(tmp_path, f"train: {{steps: 1{keys}}}"))
    assert recipe.train.float32_products == expected


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
        (
            "train: {steps: 1, float32_matmul_precision: tf32}",
            "train.float32_matmul_precision should be 'high' or 'highest', found 'tf32'",
        ),
        ("model: 8\ntrain: {steps: 1}", "model should be a mapping of keys, found 8"),
        ("model: {preset: XXL}\ntrain: {steps: 1}", "preset 'XXL' is not one of tiny, S, B, L"),
        ("model: {image_size: 250}\ntrain: {steps: 1}", "image_size 250 is not a multiple of downsampling 32"),
        ("train: {steps: 1, steps: 2}", 'found duplicate key "steps"'),
        (
            "loss: {self_distillation: {mask_ratio: [0.5, 0.1]}}\ntrain: {steps: 1}",
            "loss.self_distillation.mask_ratio: 0.5 is more than 0.1; put the smaller one first",
        ),
        (
            "data: {resize_max: 80}\nmodel: {image_size: 64}\ntrain: {steps: 1}",
            "data.resize_min 256 is more than data.resize_max 80; set both, such as to 64 and 96 for images of 64 pix",
        ),
        (
            "optimizer: {lr: 1e-5}\ntrain: {steps: 1}",
            "optimizer: min_lr 2e-05 is more than lr 1e-05, so the rate would rise instead of falling; set both",
        ),
        (
            "train: {steps: 1, batch_size: 99999999999999999999}",
            "train.batch_size: input should be less than or equal to 2147483647",
        ),
        (
            "train: {steps: 1, seed: 9223372036854775808}",
            "train.seed: input should be less than or equal to 9223372036854775807",
        ),
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
