"""A training run without weights, data or memory: for counting what a step takes, and for timing steps on noise."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tcae_cli.features.backbone import unfilled_discriminator_features, unfilled_feature_network
from tcae_cli.losses.reconstruction import ReconstructionLoss
from tcae_cli.losses.registry import DISCRIMINATORS
from tcae_cli.model.identity import ENCODER_PARTS
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.training.optim import build_optimizers
from tcae_cli.training.run import new_state
from tcae_cli.training.state import Centers
from tcae_cli.training.step import Trainer
from tcae_cli.training.views.crops import TrainingBatch

_META = torch.device("meta")
_MOMENTS = {torch.optim.AdamW: 2, torch.optim.Muon: 1}  # that an optimiser keeps of every number it trains


class BlankRun:
    """The networks and the state of a recipe's run, of the right shapes, without weights and at first without memory.

    Pretrained networks are as large as the published ones.
    """

    def __init__(self, recipe: Recipe, device: torch.device, *, freeze_encoder: bool) -> None:
        self.recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
        self.device = device
        self.loss_networks: list[nn.Module] = []
        self.judged: list[nn.Module] = []  # which moves between devices with its discriminator
        with _META:
            loss = ReconstructionLoss(recipe.loss, self._for_loss)
            autoencoder = TCAE(recipe.model)
        discriminator = None
        if (adversarial := recipe.loss.adversarial) is not None:
            kind = DISCRIMINATORS[adversarial.discriminator]
            # Its spectral norms begin with a few products, which take longer on the meta device than in memory.
            discriminator = kind.build(adversarial.discriminator, self._for_discriminator).eval().to(_META)
        for name, parameter in autoencoder.named_parameters():
            if freeze_encoder and name.startswith(ENCODER_PARTS):
                parameter.requires_grad_(False)
        with _META:
            self.state = new_state(self.recipe, autoencoder, discriminator, _META)
        self.trainer = Trainer(self.recipe, device, loss)

    def _for_loss(self, name: str) -> nn.Module:
        network = unfilled_feature_network(name)
        network.precision = self.recipe.train.precision
        self.loss_networks.append(network)
        return network

    def _for_discriminator(self, name: str) -> tuple[nn.Module, list[int]]:
        with _META:
            network, channels = unfilled_discriminator_features(name)
        network.precision = self.recipe.train.precision
        self.judged.append(network)
        return network, channels

    def allocate(self) -> None:
        """Give memory on the device to everything that passes through the networks read."""
        recipe, state = self.recipe, self.state
        for module in filter(None, (*self.loss_networks, state.model, state.teacher, state.discriminator)):
            module.to_empty(device=self.device)
        if (spec := recipe.loss.self_distillation) is not None:
            state.centers = Centers(*torch.zeros(2, spec.num_prototypes, device=self.device))

    @torch.no_grad()
    def allocate_to_train(self) -> None:
        """Allocate everything, with weights that keep activations in range: the time of a step depends on values."""
        self.allocate()
        self.state.average.to_empty(device=self.device)
        self.state.optimizers = build_optimizers(self.state.model, self.recipe.optimizer)  # of the new parameters
        for module in (*self.loss_networks, *self.judged, *(module for _, module in self.state.modules())):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.02)
                else:
                    parameter.fill_(1)
            for buffer in module.buffers():
                buffer.fill_(1)

    def moment_bytes(self) -> int:
        """Return the bytes of what all optimisers keep of the numbers they train."""
        groups = [(type(each), group["params"]) for each in self.state.all_optimizers() for group in each.param_groups]
        return sum(_MOMENTS[kind] * bytes_of(parameters) for kind, parameters in groups)


def blank_batch(recipe: Recipe, num_images: int) -> TrainingBatch:
    """Return a batch of black images with all the views that the recipe asks for; masks hide their mean share."""
    size, spec = recipe.model.image_size, recipe.loss.self_distillation
    samples, images = torch.arange(num_images), _black(num_images, size)
    if spec is None:
        return TrainingBatch(samples, images, None, None, None)
    grid = spec.global_size // (2 * recipe.model.patch_size)
    masks = torch.zeros(num_images, 2, grid, grid, dtype=torch.bool)
    hidden = round(grid * spec.mask_share * sum(spec.mask_ratio) / 2)  # rows of the mask
    masks[:, :, : max(1, hidden)] = True
    local_crops = _black(num_images, spec.num_local_crops, spec.local_size) if spec.num_local_crops else None
    return TrainingBatch(samples, images, _black(num_images, 2, spec.global_size), local_crops, masks)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _black(*shape: int) -> Tensor:
    """Return images [..., 3, size, size], uint8; shape: the leading ones and the size."""
    return torch.zeros(*shape[:-1], 3, shape[-1], shape[-1], dtype=torch.uint8)
