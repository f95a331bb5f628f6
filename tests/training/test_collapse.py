"""A collapse of self-distillation is reported once, in a sentence."""

import math

import pytest

from tcae_cli.training.collapse import CollapseWatch

MOST = math.log(8192)
HEALTHY = {"teacher_entropy": 0.7 * MOST, "feature_spread": 0.03}


def told(watch, steps, **figures) -> list[tuple[int, str]]:
    """Return the sentence reported at each of these steps."""
    said = ((step, watch.look(step, HEALTHY | figures)) for step in steps)
    return [(step, sentence) for step, sentence in said if sentence is not None]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (
            {"teacher_entropy": 0.99 * MOST},
            ["teacher_entropy", "ln 8192 = 9.01", "8.92", "does not distinguish images", "teacher_temp_warmup"],
        ),
        ({"teacher_entropy": 0.01 * MOST}, ["teacher_entropy", "0.09", "one prototype", "teacher_temp"]),
        ({"feature_spread": 4e-4}, ["feature_spread", "0.0004", "the same class token", "teacher_temp_warmup"]),
    ],
)
def test_a_collapse_that_lasts_500_steps_is_told_once_with_figure_meaning_and_what_to_try(figures, words):
    [(step, sentence)] = told(CollapseWatch(8192), range(1000, 3000, 50), **figures)

    assert step == 1500
    for word in [*words, "step 1,500", "collapsed", "optimizer.lr", "train.batch_size", "teacher_momentum 0.9995"]:
        assert word in sentence


@pytest.mark.parametrize(
    "figures",
    [
        {"teacher_entropy": 0.97 * MOST},
        {"teacher_entropy": 0.03 * MOST},
        {"feature_spread": 1.1e-3},
    ],
)
def test_a_healthy_run_is_left_alone(figures):
    assert told(CollapseWatch(8192), range(0, 5000, 50), **figures) == []


def test_a_symptom_that_passes_within_500_steps_is_not_told():
    watch = CollapseWatch(8192)
    for start in (0, 500, 1000):
        assert told(watch, range(start, start + 450, 50), feature_spread=0.0) == []
        assert told(watch, [start + 450]) == []


def test_it_is_told_again_only_after_a_recovery():
    watch = CollapseWatch(8192)
    assert len(told(watch, range(0, 2000, 50), feature_spread=0.0)) == 1
    assert told(watch, [2000]) == []
    assert [step for step, _ in told(watch, range(2050, 4000, 50), feature_spread=0.0)] == [2550]


def test_two_symptoms_are_told_each_when_it_has_lasted():
    watch = CollapseWatch(8192)
    told(watch, range(0, 200, 50), feature_spread=0.0)
    both = told(watch, range(200, 1000, 50), feature_spread=0.0, teacher_entropy=MOST)

    assert [(step, sentence.split()[2]) for step, sentence in both] == [
        (500, "feature_spread"),
        (700, "teacher_entropy"),
    ]


def test_the_entropy_is_judged_by_the_number_of_prototypes():
    figures = {"teacher_entropy": math.log(256)}

    assert told(CollapseWatch(256), range(0, 600, 50), **figures)
    assert not told(CollapseWatch(8192), range(0, 600, 50), **figures)
