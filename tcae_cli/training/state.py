"""The training state on disk: one safetensors file, written atomically, read back to the bit."""

import json
from pathlib import Path

import torch

from tcae_cli.checkpoint import read_tensors, write_tensors
from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.training.step import TrainingState

STATE_FILE = "state.safetensors"


def save_state(run: Path, state: TrainingState, recipe: dict[str, object]) -> None:
    """Write model, average, optimiser moments and the step into the run folder."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    for number, optimizer in enumerate(state.optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in moments.items()}
    write_tensors(run / STATE_FILE, tensors, json.dumps({"step": state.step, "recipe": recipe}))


def restore_state(run: Path, state: TrainingState, recipe: dict[str, object]) -> None:
    """Fill a fresh state from the run folder.

    Raises NotFoundError if the run has no state yet, CheckpointError if its recipe was another.
    """
    path = run / STATE_FILE
    if not path.is_file():
        raise NotFoundError(f"{run} has no {STATE_FILE} to resume from; start it without --resume")
    tensors, header = read_tensors(path)
    saved = json.loads(header)
    if changed := _first_difference(saved["recipe"], recipe):
        raise CheckpointError(f"{run} was trained with another recipe: {changed}; resume with the first, or use --out")
    state.model.load_state_dict(_part(tensors, "model."))
    state.average.load_state_dict(_part(tensors, "average."))
    for number, optimizer in enumerate(state.optimizers):
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _part(tensors, f"optimizer.{number}.").items():
            index, moment = name.split(".", 1)
            moments.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    state.step = saved["step"]


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _first_difference(old: object, new: object, path: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        found = (_first_difference(old.get(key), new.get(key), f"{path}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, found), None)
    return None if old == new else f"{path} was {old}, is {new}"
