"""What a model's generators take, as a store records it."""

import numpy as np
import pytest

from tcae_cli import LatentDataset, LatentStore
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.store.generator_input import GeneratorInput
from tcae_cli.store.spec import EncoderIdentity

from ..store_contents import attributes_of


def encoder(spec=None, **fields) -> dict[str, EncoderIdentity]:
    return {"encoder": EncoderIdentity(name="small", hash="ab" * 32, spec=spec or {}, recipe={}, **fields)}


def test_a_dataset_applies_shift_and_scale_of_each_channel(make_store):
    generator = GeneratorInput.of_statistics([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 8.0, 16.0], scale=0.5)
    path = make_store(**encoder(generator=generator))
    raw = LatentStore(path).latents(range(40)).astype(np.float32)

    mean, std = (np.array(values)[:, None, None] for values in ([1, 2, 3, 4], [2, 4, 8, 16]))
    found = LatentDataset(path, normalise="model")[range(40)]["latents"]
    np.testing.assert_allclose(found, (raw - mean) / std * 0.5, rtol=1e-6)
    assert attributes_of(path)["encoder"]["generator"]["patch"] == 1


def test_an_earlier_store_of_a_diffusers_model_is_scaled_as_its_configuration_says(make_store):
    spec = {"library": "diffusers", "class": "AutoencoderKL", "scaling_factor": 0.5, "shift_factor": None}
    path = make_store(**encoder(spec))
    assert "generator" not in attributes_of(path)["encoder"]
    raw = LatentStore(path).latents(range(40)).astype(np.float32)
    np.testing.assert_array_equal(LatentDataset(path, normalise="model")[range(40)]["latents"], raw * 0.5)


@pytest.mark.parametrize("spec", [{}, {"library": "diffusers", "scaling_factor": 1.0, "latents_mean": [0.0] * 4}])
def test_a_store_that_does_not_say_what_generators_take_is_refused(make_store, spec):
    path = make_store(**encoder(spec))
    with pytest.raises(
        StoreError,
        match=r"does not record what the generators of small take, because it was made by an earlier version or none "
        r"are known; normalise by the store's statistics instead",
    ):
        LatentDataset(path, normalise="model")


def test_positions_that_patches_do_not_divide_are_refused(make_store):
    path = make_store(**encoder(generator=GeneratorInput(shift=[0.0], scale=[1.0], patch=2)))  # 2 x 3 positions
    with pytest.raises(UsageError, match=r"latents of 2 x 3 positions have no patches of 2 x 2, .* another --size"):
        LatentDataset(path, normalise="model")[0]


@pytest.mark.parametrize(
    ("generator", "words"),
    [
        (GeneratorInput(shift=[0.0], scale=[0.18215]), "latents x 0.18215"),
        (GeneratorInput(shift=[-0.1], scale=[2.0]), "(latents + 0.1) x 2"),
        (GeneratorInput(shift=[0.0], scale=[1.0]), "latents as they are"),
        (
            GeneratorInput.of_statistics([0.0] * 16, [1.0] * 16, patch=2),
            "(patches of 2 x 2 latents - shift) x scale of each channel",
        ),
    ],
)
def test_what_generators_take_is_said_in_words(generator, words):
    assert generator.words == words
