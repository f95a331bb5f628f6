import math

import pytest

from tcae_cli.recipe.schema import OptimizerSpec, SelfDistillationSpec
from tcae_cli.training.schedule import has_begun, learning_rate, teacher_momentum, teacher_temp

STEPS = 100


def test_the_learning_rate_warms_up_and_falls_by_a_cosine():
    spec = OptimizerSpec(lr=1.0, min_lr=0.1, warmup=0.1)
    rates = [learning_rate(spec, step, STEPS) for step in range(STEPS)]

    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0 and rates[-1] == pytest.approx(0.1)
    assert rates[10 + 44] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 44 / 89)))


def test_the_teachers_temperature_rises_linearly_over_its_share_of_the_run():
    spec = SelfDistillationSpec(teacher_temp=(0.04, 0.07), teacher_temp_warmup=0.3)

    assert [teacher_temp(spec, step, STEPS) for step in (0, 15, 30, 99)] == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_the_teachers_momentum_rises_to_one():
    spec = SelfDistillationSpec(teacher_momentum=0.996)

    assert [teacher_momentum(spec, step, STEPS) for step in (0, 50, 100)] == pytest.approx([0.996, 0.998, 1.0])


def test_shares_of_a_run_begin_at_their_step():
    assert [has_begun(0.375, step, 16) for step in (5, 6, 7)] == [False, True, True]
    assert has_begun(0.0, 0, 16) and not has_begun(1.0, 15, 16)
