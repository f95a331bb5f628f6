"""The state of training, in memory and on disk: one safetensors file, written atomically and restored to the bit."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tcae_cli.autoencoders.checkpoint import read_tensors, read_text, write_tensors
from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.model.joint import JointModel, Teacher
from tcae_cli.model.tcae import TCAE
from tcae_cli.runtime import distributed
from tcae_cli.training.sharding import fill, spread_like, whole

STATE_FILE = "state.safetensors"


@dataclass
class Centers:
    """The moving means that are subtracted from the teacher's logits, [k] each."""

    class_token: Tensor
    patch: Tensor


@dataclass
class RunState:
    """Everything that a run of any model needs to resume as if it had never stopped."""

    model: nn.Module
    forward: nn.Module  # the model as it is called in training
    average: nn.Module
    optimizers: list[Optimizer]
    teacher: Teacher | None = None
    centers: Centers | None = None
    discriminator: nn.Module | None = None
    discriminator_optimizer: Optimizer | None = None
    step: int = 0  # steps done
    first_unit: int | None = None  # of a stream: the first unit that has not been read to its end

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Return every module whose weights are saved, by name."""
        names = ("model", "average", "teacher", "discriminator")
        return ((name, part) for name in names if (part := getattr(self, name)) is not None)

    def all_optimizers(self) -> list[Optimizer]:
        """Return the model's optimisers, then the discriminator's."""
        return [*self.optimizers, *([self.discriminator_optimizer] if self.discriminator_optimizer else [])]


@dataclass
class TrainingState(RunState):
    """The state of an autoencoder's training."""

    model: JointModel
    average: TCAE


def save_state(run: Path, state: RunState, identity: dict[str, object]) -> None:
    """Write modules, centres, moments and the step; every rank must call this, and the first one writes."""
    tensors = {f"{name}.{key}": value for name, part in state.modules() for key, value in part.state_dict().items()}
    if state.centers is not None:
        tensors |= {"centers.class_token": state.centers.class_token, "centers.patch": state.centers.patch}
    for number, optimizer in enumerate(state.all_optimizers()):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in moments.items()}
    is_first_rank = distributed.rank() == 0
    gathered: dict[str, Tensor] = {}
    for name, value in tensors.items():
        tensor = whole(value)  # by every rank
        if is_first_rank:
            gathered[name] = tensor.cpu()
    if is_first_rank:
        header = {"step": state.step, "first_unit": state.first_unit, "identity": identity}
        write_tensors(run / STATE_FILE, gathered, json.dumps(header))


def saved_step(run: Path, identity: dict[str, object]) -> int:
    """Return the number of steps that a run has saved.

    identity: as restore_state takes it, or some of it. Raises as restore_state does.
    """
    saved = _parse(_state_file(run), read_text(_state_file(run)))
    _refuse_other_beginning(run, {key: saved["identity"].get(key) for key in identity}, identity)
    step: int = saved["step"]
    return step


def restore_state(run: Path, state: RunState, identity: dict[str, object]) -> None:
    """Fill a fresh state from the run folder, which any number of ranks may have written.

    identity: the values that must not have changed since save_state wrote them.
    Raises NotFoundError if the run has no state yet, and CheckpointError naming the first difference.
    """
    tensors, header = read_tensors(_state_file(run))
    saved = _parse(_state_file(run), header)
    _refuse_other_beginning(run, saved["identity"], identity)
    try:
        _fill(state, tensors)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{_state_file(run)} is damaged: its tensors are not those of the run it describes; restore it from a copy"
        ) from error
    state.step = saved["step"]
    state.first_unit = saved["first_unit"]


def _parse(path: Path, header: str) -> dict[str, Any]:
    """Return the header of a state. Raises CheckpointError if it is not one."""
    try:
        saved: dict[str, Any] = json.loads(header)
        is_whole = isinstance(saved["identity"], dict) and isinstance(saved["step"], int)
        is_whole &= isinstance(saved["first_unit"], int | None)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CheckpointError(f"{path} is not the state of a run, or it is damaged; restore it from a copy")
    return saved


def _fill(state: RunState, tensors: dict[str, Tensor]) -> None:
    for name, part in state.modules():
        fill(part, _part(tensors, f"{name}."))
    if state.centers is not None:
        state.centers.class_token.copy_(tensors["centers.class_token"])
        state.centers.patch.copy_(tensors["centers.patch"])
    for number, optimizer in enumerate(state.all_optimizers()):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, f"optimizer.{number}.").items():
            index, moment = key.split(".", 1)
            moments.setdefault(int(index), {})[moment] = spread_like(value, parameters[int(index)])
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _state_file(run: Path) -> Path:
    path = run / STATE_FILE
    if not path.is_file():
        raise NotFoundError(f"{run} has no {STATE_FILE} to resume from; start it without --resume")
    return path


def _refuse_other_beginning(run: Path, saved: dict[str, object], identity: dict[str, object]) -> None:
    if changed := _first_difference(saved, identity):
        raise CheckpointError(f"{run} was begun otherwise: {changed}; resume it as it was, or begin another run")


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _first_difference(old: object, new: object, path: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        found = (_first_difference(old.get(key), new.get(key), f"{path}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, found), None)
    return None if old == new else f"{path} was {old}, is {new}"
