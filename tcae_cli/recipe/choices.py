"""The choices that options, requests, recipes and stores share; each stands here alone."""

from typing import Literal

Precision = Literal["bf16", "fp32"]
Resize = Literal["torch", "adm"]
LatentDtype = Literal["float16", "float32", "int8"]
ImageFormat = Literal["png", "jpg", "webp"]
