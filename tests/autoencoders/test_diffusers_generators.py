"""What the generators of diffusers take, where a configuration decides; test_diffusers_families has the rest."""

import pytest

from tcae_cli.autoencoders.diffusers_generators import generator_input

CASES = {
    "a scale without a shift": ("AutoencoderKL", {"scaling_factor": 0.5, "shift_factor": None}, ([0.0], [0.5])),
    "neither": ("AutoencoderKLKVAE", {}, None),
    "no scale, as where HunyuanImage's config has none": ("AutoencoderKLHunyuanImage", {"scaling_factor": None}, None),
    "CogVideoX 1.5's": (
        "AutoencoderKLCogVideoX",
        {"scaling_factor": 0.5, "invert_scale_latents": True},
        ([0.0], [2.0]),
    ),
    "Cosmos without statistics": ("AutoencoderKLCosmos", {"latents_mean": None, "latents_std": None}, ([0.0], [0.5])),
    "a deviation of 0": ("AutoencoderKLWan", {"latents_mean": [1.0], "latents_std": [0.0]}, ([1.0], [1e6])),
    "HunyuanImage's refiner": ("AutoencoderKLHunyuanImageRefiner", {"scaling_factor": 1.0}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_what_generators_take_is_read_from_the_configuration(case):
    class_name, config, expected = CASES[case]
    found = generator_input(class_name, config, {}.__getitem__)
    assert (found and (found.shift, found.scale)) == expected
