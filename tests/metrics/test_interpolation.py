import math

import numpy as np
import pytest
import torch

from tcae_cli.metrics.interpolation import NearestNeighbours, draw, slerp

NUM_ROWS, WIDTH, K = 60, 12, 10


def vectors(count=NUM_ROWS, seed=0):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.5


def found(references, queries, num_neighbours=K, block=7, order=lambda starts: starts):
    """Neighbours of those rows of the references, which come in blocks."""
    neighbours = NearestNeighbours(references[queries], torch.tensor(queries), num_neighbours)
    for start in order(range(0, len(references), block)):
        rows = torch.arange(start, min(start + block, len(references)))
        neighbours.add(references[rows], rows)
    return neighbours


def plain_neighbours(references, query, num_neighbours=K):
    """Find the neighbours as the definition reads, in float64."""
    z = references.double().numpy()
    similarity = z @ z[query] / (np.linalg.norm(z, axis=1) * np.linalg.norm(z[query]))
    similarity[query] = -np.inf
    return sorted(np.argsort(-similarity, kind="stable")[:num_neighbours].tolist())


# Neighbours


@pytest.mark.parametrize("block", [1, 7, NUM_ROWS])
@pytest.mark.parametrize("order", [list, reversed], ids=["forwards", "backwards"])
def test_neighbours_equal_those_of_a_sorted_list_whatever_the_blocks_and_their_order(block, order):
    references, queries = vectors(), [0, 31, 59]
    neighbours = found(references, queries, block=block, order=order)

    assert neighbours.rows().tolist() == [plain_neighbours(references, query) for query in queries]
    expected = (references[queries][:, None] - references[neighbours.rows()]).square().mean(dim=2)
    torch.testing.assert_close(neighbours.distances(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 4, NUM_ROWS])
@pytest.mark.parametrize("order", [list, reversed], ids=["forwards", "backwards"])
def test_of_equally_similar_rows_the_lower_are_kept_whatever_the_blocks_and_their_order(block, order):
    far, near = torch.zeros(WIDTH), torch.zeros(WIDTH)
    far[0], near[1] = 2, 2  # lengths and products are exact
    references = torch.stack([near if row % 3 == 1 else far for row in range(NUM_ROWS)])

    neighbours = found(references, [1], num_neighbours=4, block=block, order=order)
    assert neighbours.rows().tolist() == [[4, 7, 10, 13]]
    neighbours = found(references, [1], num_neighbours=21, block=block, order=order)
    assert neighbours.rows().tolist() == [[0, 2, *range(4, NUM_ROWS, 3)]]


def test_a_row_is_no_neighbour_of_itself_but_its_copy_is():
    references = vectors()
    references[40] = references[3]

    neighbours = found(references, [3], num_neighbours=1)
    assert neighbours.rows().tolist() == [[40]]
    assert float(neighbours.distances()) < 1e-6


def test_length_does_not_make_a_neighbour_but_distance_shows_it():
    references = torch.eye(3, WIDTH)
    references[1] = 100 * references[0]

    neighbours = found(references, [0], num_neighbours=1)
    assert neighbours.rows().tolist() == [[1]]
    assert float(neighbours.distances()) == pytest.approx(99**2 / WIDTH)


def test_latents_of_zeros_are_similar_to_nothing_and_have_neighbours():
    references = torch.cat([torch.zeros(2, WIDTH), -torch.ones(1, WIDTH), torch.ones(2, WIDTH)])

    assert found(references, [0], num_neighbours=2).rows().tolist() == [[1, 2]]
    assert found(references, [3], num_neighbours=3).rows().tolist() == [[0, 1, 4]]
    assert found(references, [3], num_neighbours=4).rows().tolist() == [[0, 1, 2, 4]]


def test_neighbours_that_are_not_there_come_first_and_are_never_drawn():
    neighbours = found(vectors(3), [1], num_neighbours=4)

    assert neighbours.rows().tolist() == [[-1, -1, 0, 2]]
    assert neighbours.distances().isinf().tolist() == [[True, True, False, False]]
    assert {int(draw(neighbours.distances(), torch.tensor([number]))) for number in (0.0, 0.3, 0.99, 1.0)} == {2, 3}


# What is drawn


def test_neighbours_are_drawn_as_often_as_the_softmax_of_their_distances_says():
    distances = torch.tensor([0.5, 2.0, 0.0, 1.0])
    uniform = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]

    drawn = draw(distances.expand(len(uniform), 4), uniform)
    assert drawn.bincount().double() / len(drawn) == pytest.approx((-distances).softmax(0).double(), abs=1e-4)


def test_each_query_draws_from_its_own_neighbours():
    distances = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 40.0], [40.0, 0.0]])

    assert draw(distances, torch.tensor([0.49, 0.51, 0.9, 0.1])).tolist() == [0, 1, 0, 1]


def test_numbers_at_their_limits_and_distances_of_any_size_draw_a_neighbour_that_is_near():
    distances = torch.tensor([[1e8, 3.0, 1e8], [1e8, 3.0, 3.0]])

    assert draw(distances, torch.zeros(2)).tolist() == [1, 1]
    assert draw(distances, torch.full((2,), math.nextafter(1, 0), dtype=torch.float64)).tolist() == [1, 2]
    assert draw(torch.full((1, 10), 0.1), torch.ones(1)).tolist() == [9]


# Ways between two latents


def test_the_middle_of_a_quarter_of_a_circle_is_on_the_circle():
    one, other = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])

    torch.testing.assert_close(slerp(one, other, 0.5), torch.tensor([math.sqrt(2), math.sqrt(2), 0.0]))
    third = torch.tensor([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6), 0.0])
    torch.testing.assert_close(slerp(one, other, 1 / 3), third)


def test_a_batch_goes_each_its_own_way_with_the_weights_of_its_angle():
    one, other = vectors(6), 3 * vectors(6, seed=1)
    for x, y, between in zip(one.double().numpy(), other.double().numpy(), slerp(one, other, 0.3), strict=True):
        angle = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        expected = (np.sin(0.7 * angle) * x + np.sin(0.3 * angle) * y) / np.sin(angle)
        assert between.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_way_begins_and_ends_where_it_should(alpha):
    one, other = vectors(6), vectors(6, seed=1)

    torch.testing.assert_close(slerp(one, other, alpha), other if alpha else one)


@pytest.mark.parametrize(
    "other",
    [torch.tensor([2.0, 4.0]), torch.tensor([-1.0, -2.0]), torch.zeros(2), torch.tensor([3.0, 6.00001])],
    ids=["parallel", "opposite", "zero", "nearly parallel"],
)
def test_where_there_is_no_arc_the_way_is_straight(other):
    one = torch.tensor([1.0, 2.0])

    torch.testing.assert_close(slerp(one, other, 0.25), 0.75 * one + 0.25 * other)
    torch.testing.assert_close(slerp(other, one, 0.25), 0.25 * one + 0.75 * other)


def test_between_zeros_are_zeros():
    assert not slerp(torch.zeros(3), torch.zeros(3), 0.5).any()
