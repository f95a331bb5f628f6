"""What a run saves to resume from is gathered by every rank and kept by the first."""

import torch
from torch import Tensor, nn

from tcae_cli.runtime import distributed
from tcae_cli.training.ema import averaged_copy
from tcae_cli.training.state import STATE_FILE, RunState, save_state


def test_only_the_first_rank_copies_the_state_to_the_host(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    state = RunState(model, model, averaged_copy(model), [torch.optim.AdamW(model.parameters())])
    copied = []
    to_host = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: copied.append(tensor) or to_host(tensor))

    monkeypatch.setattr(distributed, "rank", lambda: 1)
    save_state(tmp_path, state, {})
    assert not copied and not (tmp_path / STATE_FILE).exists()

    monkeypatch.setattr(distributed, "rank", lambda: 0)
    save_state(tmp_path, state, {})
    assert copied and (tmp_path / STATE_FILE).exists()
