"""Every knob of a recipe: unit, default and check. Unknown keys are refused; a key that does nothing does not exist."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tcae_cli.recipe.presets import PRESETS

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe; frozen, and it knows its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(Section):
    """Shape of the autoencoder. `preset` (S, B, L, tiny) fills in width, depths and num_heads."""

    image_size: Count = 256  # pixels; the square size its positions are learnt at
    patch_size: Count = 8  # pixels
    downsampling: Count = 32  # pixels a latent position covers along a side: f
    latent_channels: Count = 128
    width: Count = 768
    depths: Annotated[tuple[Count, Count], Field(strict=False)] = (8, 4)  # blocks on the fine grid, on the coarse grid
    num_heads: Count = 12
    staged: bool = True  # staged token compression; off for the single-stage ablation
    pixel_shortcut: bool = False  # a linear path from pixel blocks to latents and back; the transformer adds to it

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "preset" not in given:
            return given
        name = given["preset"]
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
        return {**PRESETS[name], **{key: value for key, value in given.items() if key != "preset"}}

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide width {self.width}")
        step = self.patch_size * (2 if self.staged else 1)
        if self.downsampling % step:
            raise ValueError(
                f"downsampling {self.downsampling} is not a multiple of {step}, "
                f"the pixels of a token {'after staged compression' if self.staged else 'of patch_size'}"
            )
        if self.image_size % self.downsampling:
            raise ValueError(f"image_size {self.image_size} is not a multiple of downsampling {self.downsampling}")
        return self

    @property
    def fine_grid(self) -> int:
        """Tokens along a side before compression, at image_size."""
        return self.image_size // self.patch_size

    @property
    def coarse_grid(self) -> int:
        """Tokens along a side after compression, at image_size."""
        return self.fine_grid // 2 if self.staged else self.fine_grid

    @property
    def fold(self) -> int:
        """Coarse tokens along a side that the bottleneck folds into one latent position: r."""
        return self.coarse_grid * self.downsampling // self.image_size


class DataSpec(Section):
    """How a training image becomes a view: short side resized, random crop, random mirror."""

    resize_min: Count = 256  # pixels, of the short side
    resize_max: Count = 384  # pixels
    flip: Share = 0.5  # probability


class PerceptualSpec(Section):
    """Distance between features of a frozen network."""

    network: Literal["lpips-vgg", "squeezenet1_1"] = "lpips-vgg"
    weight: Annotated[float, Field(gt=0)] = 1.0


class LossSpec(Section):
    """Reconstruction loss: l1 * mean absolute error in [0, 1] pixels, plus the perceptual distance."""

    l1: Annotated[float, Field(ge=0)] = 1.0
    perceptual: PerceptualSpec | None = PerceptualSpec()  # `none` for none


class OptimizerSpec(Section):
    """The optimiser, with linear warm-up and cosine decay."""

    name: Literal["adamw", "muon"] = "adamw"  # muon: for weight matrices, with AdamW for everything else
    lr: Annotated[float, Field(gt=0)] = 2e-4  # peak
    min_lr: Annotated[float, Field(ge=0)] = 2e-5  # at the last step
    warmup: Share = 0.05  # share of all steps
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.04  # on matrices; none on vectors and the pixel shortcut
    clip_norm: Annotated[float, Field(gt=0)] = 3.0


class TrainSpec(Section):
    """Length, batch and what is written when."""

    steps: Count
    batch_size: Count = 512
    ema_decay: Share = 0.9999  # the average is what ships
    precision: Literal["bf16", "fp32"] = "bf16"  # of matrix products; weights and losses stay float32
    seed: Annotated[int, Field(ge=0)] = 0
    log_every: Count = 50  # steps
    checkpoint_every: Count = 1000  # steps
    sample_every: Count = 1000  # steps, between pictures of reconstructions
    weights_dtype: Literal["float32", "float16"] = "float32"  # of the shipped file


class Recipe(Section):
    """A training run without its paths."""

    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    loss: LossSpec = LossSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    train: TrainSpec
