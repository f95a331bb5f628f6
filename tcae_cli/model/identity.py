"""Hashes that identify the half of a model that makes latents and the half that decodes them."""

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor, uint8

from tcae_cli.recipe.schema import ModelSpec

ENCODER_VERSION = 1  # raised whenever a change of code changes what `encode` computes

ENCODER_PARTS = ("encoder.", "to_latents.", "shortcut_in.")  # prefixes of the names of its tensors
_NOT_IN_THE_HASH = {"image_size"}  # positions are resized, so any size runs through the same tensors


def encoder_hash(tensors: Mapping[str, Tensor], spec: ModelSpec) -> str:
    """Return the SHA-256 (hex) of the tensors `encode` reads, exactly as stored, and of the spec that shapes it."""
    return _digest({k: v for k, v in tensors.items() if k.startswith(ENCODER_PARTS)}, spec)


def decoder_hash(tensors: Mapping[str, Tensor], spec: ModelSpec) -> str:
    """Return the SHA-256 (hex) of every other tensor and of the spec, in the same way."""
    return _digest({k: v for k, v in tensors.items() if not k.startswith(ENCODER_PARTS)}, spec)


def _digest(tensors: Mapping[str, Tensor], spec: ModelSpec) -> str:
    shape = spec.model_dump(mode="json", exclude=_NOT_IN_THE_HASH)
    digest = hashlib.sha256(json.dumps([ENCODER_VERSION, shape], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.view(-1).view(uint8).numpy().data)
    return digest.hexdigest()
