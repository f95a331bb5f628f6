"""The memory and the operations of a training step, counted without weights, data or a device."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tcae_cli.features.dino import DinoFeatures
from tcae_cli.model.layers import Blocks
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.memory import CountedRun, counting
from tcae_cli.training.blank import BlankRun, blank_batch, bytes_of
from tcae_cli.training.cost import FORWARD_AND_BACKWARD, autoencoder_flops, forward_flops, image_of, training_flops
from tcae_cli.training.sharding import shards_over_ranks
from tcae_cli.training.step import backward


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The size of a run, and the work of its steps."""

    parameters: int  # of the autoencoder
    trained: int  # parameters that learn, those of heads and discriminator too
    model_bytes: int  # of the file that ships
    state_bytes: int  # of the file to resume from
    peak_bytes: int  # the most that the tensors of a rank take at once
    encode_flops: float  # an image
    decode_flops: float  # an image
    flops: float  # an image, of forward and backward with frozen networks, before a discriminator plays
    game_flops: float  # an image, of what its judgement adds to that
    discriminator_flops: float  # an image, of the discriminator's own update

    def run_flops(self, recipe: Recipe, first: int) -> float:
        """Return the operations of all images of the steps from `first` on."""

        def steps_from(share: float) -> int:
            return max(0, recipe.train.steps - max(first, math.ceil(share * recipe.train.steps)))

        flops = self.flops * steps_from(0)
        if (adversarial := recipe.loss.adversarial) is not None:
            flops += self.game_flops * steps_from(adversarial.generator_start)
            flops += self.discriminator_flops * steps_from(adversarial.discriminator_start)
        return flops * recipe.train.batch_size


def footprint(
    recipe: Recipe, device: torch.device, num_images: int, *, num_ranks: int = 1, freeze_encoder: bool = False
) -> Footprint:
    """Return what steps take with micro-batches of so many images on each of so many ranks.

    A step is computed on tensors without values, in which every part of the loss takes part: that takes a few seconds,
    however large the batch is. Counted are tensors, not what kernels need inside or an allocator holds back; masks hide
    as many tokens as they do on average.
    """
    run = BlankRun(recipe, device, freeze_encoder=freeze_encoder)
    state, spec = run.state, recipe.loss.self_distillation
    trained = [p for p in state.model.parameters() if p.requires_grad]
    sizes = {name: bytes_of(module.state_dict().values()) for name, module in state.modules()}
    moments = run.moment_bytes()
    kept = moments + sizes["average"]  # which no pass through the networks reads
    if num_ranks > 1 and shards_over_ranks(recipe):
        sharded = kept + sizes["model"] + sizes.get("teacher", 0) + bytes_of(trained)
        kept -= round(sharded * (1 - 1 / num_ranks))
    flops = training_flops(recipe) + FORWARD_AND_BACKWARD * sum(
        forward_flops(network, image_of(recipe.model.image_size)) for network in run.loss_networks
    )
    encode_flops, decode_flops = autoencoder_flops(recipe.model)
    game_flops, discriminator_flops = _game_flops(run, encode_flops, decode_flops)
    if (adversarial := recipe.loss.adversarial) is not None:
        state.step = math.ceil(adversarial.generator_start * recipe.train.steps)
    judges = state.discriminator.parameters() if state.discriminator else ()
    num_trained = sum(p.numel() for p in (*trained, *judges) if p.requires_grad)

    with counting(spec.mask_share * sum(spec.mask_ratio) / 2 if spec else 1.0) as counted:
        kept += sum(
            _compute_one_block_of_each_stack(module, counted) for module in (state.model, state.teacher) if module
        )
        kept += sum(_compute_one_block_of(stack, counted) for stack in _stacks_of_judges(run))
        batch = blank_batch(recipe, num_images)
        run.allocate()
        if recipe.train.accumulate > 1:  # gradients of earlier micro-batches
            kept += bytes_of(trained)
        backward(run.trainer, state, batch, compare=False)

    weights_dtype: torch.dtype = getattr(torch, recipe.train.weights_dtype)
    return Footprint(
        parameters=sum(p.numel() for p in state.average.parameters()),
        trained=num_trained,
        model_bytes=sum(t.numel() for t in state.average.state_dict().values()) * weights_dtype.itemsize,
        state_bytes=sum(sizes.values()) + moments,
        # At the end of a backward pass all gradients are alive, and no activations.
        peak_bytes=kept + max(counted.peak_bytes, sizes["model"] + sizes.get("teacher", 0) + bytes_of(trained)),
        encode_flops=encode_flops,
        decode_flops=decode_flops,
        flops=flops,
        game_flops=game_flops,
        discriminator_flops=discriminator_flops,
    )


class _OneOfMany(nn.Module):
    """A stack cut to its first block, and memory in the place of what its other blocks keep for the backward pass.

    The blocks of a stack are alike, and counting all of them would take many times as long.
    """

    def __init__(self, stack: Blocks, counted: CountedRun) -> None:
        super().__init__()
        self._counted = counted
        self._depth = len(stack)
        self.stack = stack
        del stack[1:]

    def __len__(self) -> int:
        return self._depth

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        before = self._counted.live_bytes
        computed: Tensor = self.stack(tokens, keep)
        if not computed.requires_grad:
            return computed
        return _hold(computed, (self._depth - 1) * (self._counted.live_bytes - before))


class _First(nn.Module):
    """The first block of a stack, and how many bytes it keeps for the backward pass."""

    def __init__(self, block: nn.Module, counted: CountedRun) -> None:
        super().__init__()
        self._counted = counted
        self.block = block
        self.kept_bytes = 0

    def forward(self, tokens: Tensor) -> Tensor:
        before = self._counted.live_bytes
        computed: Tensor = self.block(tokens)
        self.kept_bytes = self._counted.live_bytes - before
        return computed


class _AnotherOne(nn.Module):
    """Memory in the place of what a block keeps that is like the first of its stack."""

    def __init__(self, first: _First) -> None:
        super().__init__()
        self._first = (first,)  # a tuple, so that it does not become a submodule

    def forward(self, tokens: Tensor) -> Tensor:
        return _hold(tokens, self._first[0].kept_bytes) if tokens.requires_grad else tokens.clone()


def _hold(tokens: Tensor, num_bytes: int) -> Tensor:
    """Return tokens whose backward pass frees so many bytes, which are held until then."""
    held = torch.empty(num_bytes, dtype=torch.uint8, device=tokens.device)
    result: Tensor = _Holding.apply(tokens, held)
    return result


class _Holding(torch.autograd.Function):
    """Passes tokens on, and holds memory until its backward pass."""

    @staticmethod
    def forward(context: Any, tokens: Tensor, held: Tensor) -> Tensor:
        context.save_for_backward(held)
        return tokens.view_as(tokens)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _compute_one_block_of_each_stack(module: nn.Module, counted: CountedRun) -> int:
    """Let every stack of a module compute one block; return the bytes of the weights of the others."""
    omitted = 0
    for parent in list(module.modules()):
        for name, stack in list(parent.named_children()):
            if isinstance(stack, Blocks):
                omitted += sum(bytes_of(block.parameters()) for block in list(stack)[1:])
                setattr(parent, name, _OneOfMany(stack, counted))
    return omitted


def _compute_one_block_of(stack: nn.Sequential, counted: CountedRun) -> int:
    """Let a stack whose other blocks are never computed take their memory; return the bytes of their weights."""
    first = _First(stack[0], counted)
    stack[0] = first
    for number in range(1, len(stack)):
        stack[number] = _AnotherOne(first)
    return (len(stack) - 1) * bytes_of(first.parameters())


def _stacks_of_judges(run: BlankRun) -> list[nn.Sequential]:
    """Return the blocks of the networks that a discriminator judges by, where they are alike."""
    return [network.blocks for network in run.judged if isinstance(network, DinoFeatures)]


def _game_flops(run: BlankRun, encode_flops: float, decode_flops: float) -> tuple[float, float]:
    """Return the operations an image of the discriminator's judgement with its gradient, and of its own update."""
    discriminator, adversarial = run.state.discriminator, run.recipe.loss.adversarial
    if discriminator is None or adversarial is None:
        return 0.0, 0.0
    image = image_of(run.recipe.model.image_size)
    stacks = _stacks_of_judges(run)
    depths: dict[nn.Module, int] = {stack[0]: len(stack) for stack in stacks}
    for stack in stacks:
        for number in range(1, len(stack)):
            stack[number] = nn.Identity()
    judgement = forward_flops(discriminator, image, depths)
    learnt = judgement - sum(forward_flops(network, image, depths) for network in run.judged)
    # The gradient at the images takes one product of each that the judgement makes. The update judges an original and
    # a reconstruction, and its gradient ends at the layers that learn.
    again = FORWARD_AND_BACKWARD * decode_flops if adversarial.scope == "decoder" else 0.0
    update = 2 * judgement + 2 * (FORWARD_AND_BACKWARD - 1) * learnt
    return 2 * judgement + again, encode_flops + decode_flops + update
