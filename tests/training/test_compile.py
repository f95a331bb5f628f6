"""Compiled blocks: how many graphs a step has, copied and sharded; one rank is a process group of its own."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from tcae_cli.losses.patchgan import PatchGan
from tcae_cli.losses.reconstruction import ReconstructionLoss
from tcae_cli.model.layers import Blocks
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.training.blank import blank_batch
from tcae_cli.training.run import new_state
from tcae_cli.training.sharding import checkpoints_blocks, copied, prepare_blocks
from tcae_cli.training.step import Trainer, training_step

from ..small_recipes import CROPS, FULL, GAME, HEADS, recipe

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch looks at it


@pytest.fixture
def graphs(monkeypatch) -> Iterator[CompileCounterWithBackend]:
    """Counts the graphs that are compiled, and computes them eagerly."""
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    torch.compiler.reset()
    counters.clear()
    settings = torch._dynamo.config.patch(optimize_ddp=True, recompile_limit=8)  # torch's own
    with settings, torch._functorch.config.patch(donated_buffer=True):
        yield counter


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "ranks"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def loss_of_a_step(recipe: Recipe) -> float:
    torch.manual_seed(0)
    state = new_state(recipe, TCAE(recipe.model), PatchGan().eval(), CPU)
    trainer = Trainer(recipe, CPU, ReconstructionLoss(recipe.loss, lambda name: None))
    return float(training_step(trainer, state, blank_batch(recipe, 4))["loss"])


def test_every_block_of_a_sharded_model_with_checkpointing_is_compiled_once_for_each_kind_of_view(graphs, alone):
    game = GAME | {"discriminator_start": 0.0, "generator_start": 0.0}
    loss = {"self_distillation": {**HEADS, **CROPS, "num_local_crops": 3}, "adversarial": game}
    settings = {"checkpointing": True, "sharded": True}
    model = FULL["model"] | {"depths": [2, 2]}
    eager = recipe(model=model, loss=FULL["loss"] | loss, train=settings)
    compiled = recipe(model=model, loss=FULL["loss"] | loss, train={**settings, "compile": True})

    assert loss_of_a_step(compiled) == pytest.approx(loss_of_a_step(eager))
    # On two grids each: the student encodes three kinds of views and decodes one, the teacher encodes one, and the
    # discriminator's images are encoded and decoded without a gradient.
    assert graphs.frame_count == 2 * (3 + 1 + 1 + 2)
    assert not counters["unimplemented"] and not counters["graph_break"]


def test_a_wide_block_that_is_copied_over_ranks_is_one_graph(graphs, alone):
    """Its weights are more than DDP sends at once."""
    blocks = Blocks(1, width=1024, num_heads=16)
    prepare_blocks(blocks, recipe(train={"compile": True}))
    copied(blocks, CPU)(torch.zeros(1, 4, 1024)).sum().backward()

    assert graphs.frame_count == 1
    assert all(parameter.grad is not None for parameter in blocks.parameters())


@pytest.mark.parametrize(("width", "asked", "wanted"), [(768, None, False), (1024, None, True), (1024, False, False)])
def test_blocks_are_checkpointed_from_the_l_preset_on_unless_the_recipe_decides(width, asked, wanted):
    assert checkpoints_blocks(recipe(model={"width": width}, train={"checkpointing": asked})) == wanted
