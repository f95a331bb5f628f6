"""Named sizes of the model; B is the paper's (arXiv:2604.07340), S, L and tiny are ours."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 192, "depths": (2, 3), "num_heads": 3},
    "S": {"width": 384, "depths": (8, 4), "num_heads": 6},
    "B": {"width": 768, "depths": (8, 4), "num_heads": 12},
    "L": {"width": 1024, "depths": (16, 8), "num_heads": 16},
}
