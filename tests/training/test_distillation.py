import numpy as np
import torch

from tcae_cli.training.distillation import draw_keep


def test_draws_depend_on_the_seed_and_the_sample_alone():
    together = draw_keep(3, [5, 9, 100], num_views=4, num_blocks=6, rate=0.5)

    assert together.shape == (3, 4, 6, 2)
    assert torch.equal(together[1:], draw_keep(3, [9, 100], num_views=4, num_blocks=6, rate=0.5))
    assert not torch.equal(together, draw_keep(4, [5, 9, 100], num_views=4, num_blocks=6, rate=0.5))


def test_the_chance_of_being_dropped_grows_with_depth_and_the_mean_stays():
    keep = draw_keep(0, range(4000), num_views=2, num_blocks=3, rate=0.4).numpy()

    np.testing.assert_allclose((keep == 0).mean(axis=(0, 1, 3)), [0.0, 0.2, 0.4], atol=0.02)
    np.testing.assert_allclose(keep.mean(axis=(0, 1, 3)), 1.0, atol=0.03)
