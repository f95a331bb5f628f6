"""The choices and defaults that options, requests, recipes and stores share."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp32"]
Float32Products = Literal["high", "highest"]  # on a GPU: TF32, or float32; the names are torch's
Resize = Literal["torch", "adm"]
Decode = Literal["draft", "full"]  # draft: large JPEGs at a smaller scale
LatentDtype = Literal["float16", "float32", "int8"]
ImageFormat = Literal["png", "jpg", "webp"]
PerceptualNetwork = Literal["lpips-vgg", "squeezenet1_1"]
FrozenFeatures = Literal["dino-s8", "dino-s16", "squeezenet1_1"]  # discriminators that train heads on these features

DEFAULT_MODEL = "tcae-tiny"  # built in
MAIN_VIEW = "latents"  # the view that every store has


@dataclass(frozen=True, kw_only=True)
class SampleFields:
    """What the user said of the samples of a source, where it leaves a choice; None: found by type and name."""

    image: str | None = None  # a column, or extensions of members of tars
    label: str | None = None  # a column, or a place such as .cls
    caption: str | None = None  # a column, or a place such as .txt
    split: str | None = None  # of a dataset on the Hugging Face Hub, or saved from its library
    allow_missing: int | None = None  # files of a pattern or a list of tars that may be missing; None: none
    classes: tuple[str, ...] | None = None  # names of classes 0, 1, ...; a source of any kind is numbered by them


NO_FIELDS = SampleFields()
