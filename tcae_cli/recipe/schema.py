"""Every key of a recipe with its unit, default and check. Unknown keys are refused; every key has an effect."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tcae_cli.recipe.choices import Float32Products, FrozenFeatures, PerceptualNetwork, Precision
from tcae_cli.recipe.presets import PRESETS

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Positive = Annotated[float, Field(gt=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


def _ordered(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"{values[0]} is more than {values[1]}; put the smaller one first")
    return values


Range = Annotated[tuple[Share, Share], Field(strict=False), AfterValidator(_ordered)]


class Section(BaseModel):
    """A section of a recipe; frozen, and it refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(Section):
    """Shape of the autoencoder. `preset` (S, B, L, tiny) fills in width, depths and num_heads."""

    image_size: Count = 256  # pixels; the square size its positions are learnt at
    patch_size: Count = 8  # pixels
    downsampling: Count = 32  # pixels a latent position covers along a side: f
    latent_channels: Count = 128
    width: Count = 768
    depths: Annotated[tuple[Count, Count], Field(strict=False)] = (8, 4)  # blocks on the fine and on the coarse grid
    num_heads: Count = 12
    staged: bool = True  # staged token compression; false for the single-stage ablation
    pixel_shortcut: bool = False  # a linear path from pixel blocks to latents and back, which the transformer adds to

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
        """The number of tokens along a side before compression, at image_size."""
        return self.image_size // self.patch_size

    @property
    def coarse_grid(self) -> int:
        """The number of tokens along a side after compression, at image_size."""
        return self.fine_grid // 2 if self.staged else self.fine_grid

    @property
    def fold(self) -> int:
        """The number of coarse tokens along a side that the bottleneck folds into one latent position: r."""
        return self.coarse_grid * self.downsampling // self.image_size


class DataSpec(Section):
    """Which images are used, how they are shuffled, and how one becomes a view: resized, random crop, random flip."""

    train: str | None = None  # a source; ${VARIABLE} and ${VARIABLE:-default} are filled in; --data wins
    val: str | None = None  # a source, as train; --val wins
    resize_min: Count = 256  # pixels, of the short side
    resize_max: Count = 384  # pixels
    flip: Share = 0.5  # probability
    shuffle_buffer: Count | None = None  # images of each worker while tars stream; none: an exact shuffle by index


class PerceptualSpec(Section):
    """The distance between the features of a frozen network."""

    network: PerceptualNetwork = "lpips-vgg"
    weight: Positive = 1.0


class ReconstructionSpec(Section):
    """The terms of the reconstruction loss; losses/NAME.py computes the term NAME, and `none` omits an optional one."""

    l1: Annotated[float, Field(ge=0)] = 1.0  # weight of the mean absolute error of pixels in [0, 1]
    perceptual: PerceptualSpec | None = PerceptualSpec()


OwnNetwork = Literal["patchgan"]  # discriminators that train as a whole; losses/NAME.py has each
_LEAST_IMAGE_SIZES = {"squeezenet1_1": 33, "patchgan": 24}  # pixels, of a discriminator; DINO resizes its input


class AdversarialSpec(Section):
    """A discriminator's judgement of the reconstructions, balanced with L_rec by their gradients, as in RAE."""

    discriminator: Literal[FrozenFeatures, OwnNetwork] = "dino-s8"
    weight: Positive = 0.75  # times the adaptive weight
    scope: Literal["all", "decoder"] = "all"  # the part of the autoencoder that its gradient reaches
    discriminator_start: Share = 0.375  # share of training after which the discriminator begins to learn
    generator_start: Share = 0.5  # share of training after which the autoencoder learns from it
    lr: Positive = 2e-4  # peak of the discriminator's; warm-up and decay are the optimizer's, counted from its start
    augment: Share = 1.0  # probability of DiffAug's shifts and colours

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.generator_start < self.discriminator_start:
            raise ValueError(
                f"generator_start {self.generator_start} is before discriminator_start {self.discriminator_start}"
            )
        return self


class SelfDistillationSpec(Section):
    """iBOT beside reconstruction: crops, masks, heads, temperatures (arXiv:2111.07832; arXiv:2604.07340, section 3)."""

    alpha: Positive = 0.1  # weight of the reconstruction loss relative to this one
    global_size: Count = 224  # pixels, of the two global crops
    global_scale: Range = (0.32, 1.0)  # share of the image's area
    num_local_crops: Annotated[int, Field(ge=0)] = 8
    local_size: Count = 96  # pixels
    local_scale: Range = (0.05, 0.32)
    mask_share: Share = 0.5  # of global crops that are masked
    mask_ratio: Range = (0.1, 0.5)  # share of a masked crop's tokens
    drop_path: BelowOne = 0.1  # rate in the student's last block; it falls linearly to 0 in the first
    num_prototypes: Count = 8192
    head_width: Count = 2048  # of the projection head's hidden layers
    head_bottleneck: Count = 256
    student_temp: Positive = 0.1
    teacher_temp: Annotated[tuple[Positive, Positive], Field(strict=False)] = (
        0.04,
        0.07,
    )  # at first, and after warm-up
    teacher_temp_warmup: Share = 0.3  # share of training
    center_momentum: Share = 0.9
    teacher_momentum: Share = 0.996  # at first; rises to 1 by a cosine. Use 0.9995 for batches of up to 256
    frozen_last_layer: Share = 0.01  # share of training; one epoch of a hundred


class LossSpec(ReconstructionSpec):
    """The terms of the reconstruction loss and the adversarial term, beside self-distillation."""

    adversarial: AdversarialSpec | None = None
    self_distillation: SelfDistillationSpec | None = None


class OptimizerSpec(Section):
    """The optimiser, and a learning rate with linear warm-up and cosine decay."""

    name: Literal["adamw", "muon"] = "adamw"  # muon: for weight matrices, with AdamW for everything else
    lr: Positive = 2e-4  # peak
    min_lr: Annotated[float, Field(ge=0)] = 2e-5  # at the last step
    warmup: Share = 0.05  # share of all steps
    betas: Annotated[tuple[BelowOne, BelowOne], Field(strict=False)] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.04  # on matrices; none on vectors and the pixel shortcut
    clip_norm: Positive = 3.0  # largest norm of the gradient of encoder and heads
    decoder_clip_norm: Positive = 1.0  # largest norm of the decoder's gradient

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(
                f"min_lr {self.min_lr:g} is more than lr {self.lr:g}, so the rate would rise instead of falling; "
                f"set both, such as min_lr to a tenth of lr"
            )
        return self


class TrainSpec(Section):
    """The length of training, its batches, and how often it writes."""

    steps: Count
    batch_size: Count = 512  # images in a step, over all ranks
    accumulate: Count = 1  # micro-batches that a rank's share of a batch is computed in, one after the other
    ema_decay: Share = 0.9999  # of the averaged weights, which are the ones that ship
    precision: Precision = "bf16"  # of matrix products; weights and losses stay float32
    # What stays float32, on a GPU: high is TF32, highest is float32. Default: high with bf16, highest with fp32.
    float32_matmul_precision: Float32Products | None = None
    compile: bool = False  # transformer blocks through torch.compile: faster on a GPU after a slow start
    checkpointing: bool | None = None  # blocks recomputed in the backward pass, for less memory; default: from L on
    sharded: bool | None = None  # parameters sharded over ranks (FSDP2) instead of copied (DDP); default: from L on
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0  # torch takes no larger one
    log_every: Count = 50  # steps
    checkpoint_every: Count = 1000  # steps
    sample_every: Count = 1000  # steps, between evaluations and pictures of reconstructions
    weights_dtype: Literal["float32", "float16"] = "float32"  # of the shipped file

    @property
    def float32_products(self) -> Float32Products:
        """How products and convolutions that stay float32 are computed on a GPU."""
        return self.float32_matmul_precision or ("high" if self.precision == "bf16" else "highest")


class Recipe(Section):
    """A training run without its paths: everything that decides what it computes."""

    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    loss: LossSpec = LossSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    train: TrainSpec

    @model_validator(mode="after")
    def _check_views(self) -> Self:
        size = self.model.image_size  # no view is smaller
        if max(size, self.data.resize_min) > max(size, self.data.resize_max):
            raise ValueError(
                f"data.resize_min {self.data.resize_min} is more than data.resize_max {self.data.resize_max}; "
                f"set both, such as to {size} and {size * 3 // 2} for images of {size} pixels"
            )
        return self

    @model_validator(mode="after")
    def _check_crops(self) -> Self:
        crops = self.loss.self_distillation
        step = 2 * self.model.patch_size
        for name in ("global_size", "local_size") if crops else ():
            if (size := getattr(crops, name)) % step:
                raise ValueError(
                    f"loss.self_distillation.{name} {size} is not a multiple of {step}, two patches of the model"
                )
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.accumulate {self.train.accumulate} does not divide train.batch_size {self.train.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _check_discriminator(self) -> Self:
        name = self.loss.adversarial and self.loss.adversarial.discriminator
        size = self.model.image_size
        if name and size < (least := _LEAST_IMAGE_SIZES.get(name, 0)):
            raise ValueError(
                f"model.image_size {size} is less than the {least} pixels that loss.adversarial.discriminator {name} "
                "needs; use larger images or another discriminator"
            )
        return self
