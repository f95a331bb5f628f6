"""Reads what a diffusers pipeline makes of its autoencoder's latents before its transformer takes them.

The numbers are those of the model's config or weights; the files of diffusers that apply them are named beside each.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tcae_cli.store.generator_input import GeneratorInput

Config = dict[str, Any]
Tensors = Callable[[str], Tensor]  # a tensor of the weights, by name

_COSMOS_SIGMA_DATA = 0.5  # EDMEulerScheduler's default, which Cosmos 1 keeps


def generator_input(class_name: str, config: Config, tensors: Tensors) -> GeneratorInput | None:
    """Return what the generators of a model take, None where diffusers has no pipeline that says so."""
    return _OF_CLASSES.get(class_name, _of_config)(config, tensors)


def _of_config(config: Config, _: Tensors) -> GeneratorInput | None:
    """(latents - shift_factor) * scaling_factor, or (latents - latents_mean) * scaling_factor / latents_std.

    Source: pipelines/flux/pipeline_flux_img2img.py, stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.py,
    qwenimage/pipeline_qwenimage_img2img.py, wan/pipeline_wan_video2video.py, mochi/pipeline_mochi.py and others.
    """
    mean, std, scale = (config.get(name) for name in ("latents_mean", "latents_std", "scaling_factor"))
    if mean is not None and std is not None:
        return GeneratorInput.of_statistics(mean, std, 1.0 if scale is None else scale)
    if scale is None:
        return None
    return GeneratorInput(shift=[config.get("shift_factor") or 0.0], scale=[scale])


def _of_cogvideox(config: Config, _: Tensors) -> GeneratorInput:
    """Source: pipelines/cogvideo/pipeline_cogvideox_image2video.py, prepare_latents."""
    scale = config["scaling_factor"]
    return GeneratorInput(shift=[0.0], scale=[1 / scale if config.get("invert_scale_latents") else scale])


def _of_cosmos(config: Config, _: Tensors) -> GeneratorInput:
    """Source: pipelines/cosmos/pipeline_cosmos_video2world.py, prepare_latents."""
    mean, std = config["latents_mean"], config["latents_std"]
    if mean is None:
        return GeneratorInput(shift=[0.0], scale=[_COSMOS_SIGMA_DATA])
    frames = len(mean) // config["latent_channels"]  # the numbers of a channel, of each frame; images are the first
    return GeneratorInput.of_statistics(mean[::frames], std[::frames], _COSMOS_SIGMA_DATA)


def _of_flux2(config: Config, tensors: Tensors) -> GeneratorInput:
    """Source: pipelines/flux2/pipeline_flux2.py, _encode_vae_image."""
    variance = tensors("bn.running_var").double() + config["batch_norm_eps"]
    mean = tensors("bn.running_mean").double()
    return GeneratorInput.of_statistics(mean.tolist(), variance.sqrt().tolist(), patch=config["patch_size"][0])


def _of_ltx(config: Config, tensors: Tensors) -> GeneratorInput:
    """Source: pipelines/ltx/pipeline_ltx_image2video.py, _normalize_latents."""
    mean, std = (tensors(name).double().tolist() for name in ("latents_mean", "latents_std"))
    return GeneratorInput.of_statistics(mean, std, config["scaling_factor"])


def _as_they_are(config: Config, tensors: Tensors) -> GeneratorInput:
    """RAE normalises and scales its latents itself. Source: models/autoencoders/autoencoder_rae.py, _encode."""
    return GeneratorInput(shift=[0.0], scale=[1.0])


def _not_known(config: Config, tensors: Tensors) -> None:
    """The refiner's pipeline makes channels of neighbouring frames, of which an image has one.

    Source: pipelines/hunyuan_image/pipeline_hunyuanimage_refiner.py, _reorder_image_tokens.
    """


_OF_CLASSES: dict[str, Callable[[Config, Tensors], GeneratorInput | None]] = {
    "AutoencoderKLCogVideoX": _of_cogvideox,
    "AutoencoderKLCosmos": _of_cosmos,
    "AutoencoderKLFlux2": _of_flux2,
    "AutoencoderKLHunyuanImageRefiner": _not_known,
    "AutoencoderKLLTX2Video": _of_ltx,
    "AutoencoderKLLTXVideo": _of_ltx,
    "AutoencoderRAE": _as_they_are,
}
