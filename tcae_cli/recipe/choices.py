"""The choices and defaults that options, requests, recipes and stores share."""

from typing import Literal

Precision = Literal["bf16", "fp32"]
Resize = Literal["torch", "adm"]
LatentDtype = Literal["float16", "float32", "int8"]
ImageFormat = Literal["png", "jpg", "webp"]

DEFAULT_MODEL = "tcae-tiny"  # built in
MAIN_VIEW = "latents"  # the view that every store has
