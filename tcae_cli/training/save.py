"""What a training run ships: the averaged model with its latents' statistics, and the state to go on from."""

import torch

from tcae_cli.autoencoders.checkpoint import MODEL_FILE, LatentStatistics, ModelDescription, save_checkpoint
from tcae_cli.autoencoders.tcae import fill_autoencoder
from tcae_cli.images.transform import to_float
from tcae_cli.model.tcae import TCAE
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import autocast
from tcae_cli.runtime.process_group import least_of_ranks
from tcae_cli.training.run import Run, centre_crops
from tcae_cli.training.sharding import is_sharded, whole
from tcae_cli.training.state import save_state


@torch.no_grad()
def averaged(run: Run) -> TCAE:
    """The model that ships, as it is now, whole; every rank has to ask."""
    average = run.state.average
    if not is_sharded(run.recipe):
        return average
    model = TCAE(run.recipe.model)
    fill_autoencoder(model, {name: whole(value) for name, value in average.state_dict().items()}, "")
    return model.to(run.device).requires_grad_(False).eval()


@torch.no_grad()
def save(run: Run) -> None:
    """Write the shippable model, then the state that training resumes from; each is whole at any instant.

    Every rank calls this, and the first writes. Raises DiskError if there is no room: what was there before stands.
    """
    model, dtype = averaged(run), getattr(torch, run.recipe.train.weights_dtype)
    if distributed.rank() == 0:
        tensors = {name: value.to(dtype) for name, value in model.state_dict().items()} | run.kept
        description = ModelDescription(
            spec=run.recipe.model,
            statistics=_measure_latents(run, model),
            recipe=run.recipe.model_dump(mode="json"),
            step=run.state.step,
            parent=run.parent,
        )
        save_checkpoint(run.request.out / MODEL_FILE, tensors, description)
    if run.state.first_unit is not None:
        run.state.first_unit = least_of_ranks(run.state.first_unit)
    save_state(run.request.out, run.state, run.identity)


def _measure_latents(run: Run, model: TCAE) -> LatentStatistics:
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    num_images = 0
    for images in centre_crops(run.images, run.recipe):
        with autocast(run.device, run.recipe.train.precision):
            latents = model.encode(to_float(images.to(run.device)))
        values = latents.double().cpu().transpose(0, 1).flatten(1)
        count, num_images = count + values.shape[1], num_images + len(images)
        total, squares = total + values.sum(dim=1), squares + values.square().sum(dim=1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    return LatentStatistics(mean=mean.tolist(), std=std.tolist(), num_images=num_images)
