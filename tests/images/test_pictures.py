"""Pictures of originals above their reconstructions."""

import numpy as np
import torch

from tcae_cli.images.image_file import decode_image
from tcae_cli.images.pictures import to_pixels, write_pairs


def images(count: int, level: int) -> list[np.ndarray]:
    return [np.full((8, 8, 3), level, np.uint8)] * count


def test_lines_of_originals_are_above_lines_of_reconstructions(tmp_path):
    path = write_pairs(tmp_path / "new" / "seen.png", images(9, 10), images(9, 20))
    sheet = decode_image(path.read_bytes())
    assert path == tmp_path / "new" / "seen.png"
    assert sheet.shape == (4 + 4 * 12, 4 + 8 * 12, 3)
    assert [int(sheet[8 + 12 * line, 8, 0]) for line in range(4)] == [10, 20, 10, 20]
    assert sheet[8 + 24, 8 + 12, 0] == 255  # the second pair of lines has one image


def test_a_file_that_exists_is_kept_unless_it_is_to_be_replaced(tmp_path):
    path = tmp_path / "seen.png"
    assert write_pairs(path, images(1, 1), images(1, 1)) == path
    first = path.read_bytes()
    assert write_pairs(path, images(1, 2), images(1, 2)) == tmp_path / "seen-2.png"
    assert write_pairs(path, images(1, 2), images(1, 2)) == tmp_path / "seen-3.png"
    assert path.read_bytes() == first
    assert write_pairs(path, images(1, 2), images(1, 2), replace=True) == path
    assert path.read_bytes() == (tmp_path / "seen-2.png").read_bytes()


def test_channels_come_last_in_pixels():
    tensor = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    assert np.array_equal(to_pixels(tensor), tensor.numpy().transpose(0, 2, 3, 1))
