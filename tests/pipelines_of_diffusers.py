"""The code of diffusers' pipelines (0.42) that makes their transformers' input of an autoencoder's latents.

A pipeline's own method is called wherever there is one, on a stand-in for the autoencoder that returns given latents.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor

IMAGES = torch.zeros(1, 3, 8, 8)
_CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


class _Encodes(SimpleNamespace):
    """An autoencoder of a model's config and tensors that encodes anything to these latents, in their order."""

    def __init__(self, model: Any, latents: Tensor) -> None:
        super().__init__(config=model.config, dtype=torch.float32, latents=latents, next=0)
        self.bn = dict(model.named_children()).get("bn")

    def encode(self, images: Tensor) -> SimpleNamespace:
        first, self.next = self.next, self.next + len(images)
        latents = self.latents[first : self.next]
        distribution = SimpleNamespace(sample=lambda generator=None: latents, mode=lambda: latents)
        return SimpleNamespace(latent_dist=distribution, latent=latents)

    def to(self, dtype: torch.dtype) -> None:
        assert dtype == torch.float32


def _flux(model: Any, latents: Tensor) -> Tensor:
    pipeline = SimpleNamespace(vae=_Encodes(model, latents))
    return diffusers.FluxImg2ImgPipeline._encode_vae_image(pipeline, IMAGES.expand(len(latents), 3, 8, 8), None)


def _flux2(model: Any, latents: Tensor) -> Tensor:
    pipeline_class = diffusers.Flux2Pipeline
    pipeline = SimpleNamespace(vae=_Encodes(model, latents), _patchify_latents=pipeline_class._patchify_latents)
    return pipeline_class._encode_vae_image(pipeline, IMAGES.expand(len(latents), 3, 8, 8), None)


def _sdxl(model: Any, latents: Tensor) -> Tensor:
    prepare = diffusers.StableDiffusionXLImg2ImgPipeline.prepare_latents
    images = IMAGES.expand(len(latents), 3, 8, 8)
    pipeline = SimpleNamespace(vae=_Encodes(model, latents))
    return prepare(pipeline, images, None, len(latents), 1, **_CPU, add_noise=False)


def _sana(model: Any, latents: Tensor) -> Tensor:
    """Sana's, of which only Sprint encodes images; at time 0, with the sigma_data that Sana does without."""
    scheduler = SimpleNamespace(config=SimpleNamespace(sigma_data=1.0))
    pipeline = SimpleNamespace(vae=_Encodes(model, latents), scheduler=scheduler, vae_scale_factor=1)
    images = IMAGES.expand(len(latents), 3, 8, 8)
    prepare = diffusers.SanaSprintImg2ImgPipeline.prepare_latents
    return prepare(pipeline, images, torch.zeros(()), len(latents), *latents.shape[1:], generator=None, **_CPU)


def _qwen_image(model: Any, latents: Tensor) -> Tensor:
    pipeline = SimpleNamespace(vae=_Encodes(model, latents[:, :, None]))
    images = IMAGES.expand(len(latents), 3, 8, 8)
    return diffusers.QwenImageImg2ImgPipeline._encode_vae_image(pipeline, images, None)[:, :, 0]


def _wan(model: Any, latents: Tensor) -> Tensor:
    given = []  # one video at a time, once as inactive and once as reactive
    for each in latents:
        pipeline = SimpleNamespace(vae=_Encodes(model, each[None, :, None].repeat(2, 1, 1, 1, 1)))
        prepare = diffusers.WanVACEPipeline.prepare_video_latents
        mask = torch.ones(1, 1, 1, 8, 8)
        found = prepare(pipeline, IMAGES[:, :, None], mask, [[]], None, torch.device("cpu"))
        given.append(found[0, : len(each), 0])
    return torch.stack(given)


def _hunyuan_video(model: Any, latents: Tensor) -> Tensor:
    pipeline = SimpleNamespace(vae=_Encodes(model, latents[:, :, None]))
    images = IMAGES.expand(len(latents), 3, 8, 8)
    return diffusers.HunyuanVideoFramepackPipeline.prepare_image_latents(pipeline, images, **_CPU)[:, :, 0]


def _hunyuan_video15(model: Any, latents: Tensor) -> Tensor:
    processor = SimpleNamespace(preprocess=lambda images, height, width: images)
    images = IMAGES.expand(len(latents), 3, 8, 8)
    encode = diffusers.HunyuanVideo15ImageToVideoPipeline._get_image_latents
    return encode(_Encodes(model, latents[:, :, None]), processor, images, 8, 8, torch.device("cpu"))[:, :, 0]


def _ltx(model: Any, latents: Tensor) -> Tensor:
    normalise = diffusers.LTXImageToVideoPipeline._normalize_latents
    return normalise(latents[:, :, None], model.latents_mean, model.latents_std, model.config.scaling_factor)[:, :, 0]


def _cosmos(model: Any, latents: Tensor) -> Tensor:
    scheduler = diffusers.EDMEulerScheduler()
    pipeline = SimpleNamespace(vae=_Encodes(model, latents[:, :, None]), scheduler=scheduler)
    pipeline.vae_scale_factor_temporal = pipeline.vae_scale_factor_spatial = 8
    videos = IMAGES[:, :, None].expand(len(latents), 3, 1, 8, 8)
    prepare = diffusers.CosmosVideoToWorldPipeline.prepare_latents
    return prepare(pipeline, videos, len(latents), latents.shape[1], 8, 8, num_frames=1, **_CPU)[1][:, :, 0]


def _cogvideox(model: Any, latents: Tensor) -> Tensor:
    pipeline = SimpleNamespace(vae=_Encodes(model, latents[:, :, None]), vae_scale_factor_temporal=4)
    pipeline.vae_scale_factor_spatial, pipeline.vae_scaling_factor_image = 8, model.config.scaling_factor
    pipeline.transformer = SimpleNamespace(config=SimpleNamespace(patch_size_t=None))
    pipeline.scheduler = SimpleNamespace(init_noise_sigma=1.0)
    height, width = (8 * side for side in latents.shape[2:])
    prepare = diffusers.CogVideoXImageToVideoPipeline.prepare_latents
    images = IMAGES.expand(len(latents), 3, 8, 8)
    return prepare(pipeline, images, len(latents), latents.shape[1], 1, height, width, **_CPU)[1][:, 0]


def _mochi(model: Any, latents: Tensor) -> Tensor:
    """The inverse of what pipelines/mochi/pipeline_mochi.py, __call__, decodes; no pipeline of Mochi encodes."""
    config = model.config
    mean, std = (torch.tensor(values).view(1, 12, 1, 1) for values in (config.latents_mean, config.latents_std))
    return (latents - mean) * config.scaling_factor / std


def _scaled(model: Any, latents: Tensor) -> Tensor:
    """The inverse of what is decoded, latents / vae.config.scaling_factor, where no pipeline encodes.

    Restated from pipelines/hunyuan_image/pipeline_hunyuanimage.py and, of VQModel,
    pipelines/latent_diffusion/pipeline_latent_diffusion_superresolution.py.
    """
    return latents * model.config.scaling_factor


def _normalised(model: Any, latents: Tensor) -> Tensor:
    """RAE's latents, which models/autoencoders/autoencoder_rae.py, _encode, normalises itself."""
    return latents


PIPELINES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "kl": _flux,
    "kl of Playground": _sdxl,
    "dc": _sana,
    "tiny": _flux,
    "vq": _scaled,
    "asymmetric": _sdxl,
    "flux2": _flux2,
    "hunyuan-image": _scaled,
    "rae": _normalised,
    "qwen-image": _qwen_image,
    "wan2.1": _wan,
    "wan2.2": _wan,
    "hunyuan-video": _hunyuan_video,
    "hunyuan-video1.5": _hunyuan_video15,
    "ltx": _ltx,
    "ltx0.9.1": _ltx,
    "cosmos": _cosmos,
    "mochi": _mochi,
    "cogvideox": _cogvideox,
}
