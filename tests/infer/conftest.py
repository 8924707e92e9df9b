"""What the tests of the engine share."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Of several sizes: the processor makes squares of them."""
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (40, 23), (9, 31)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8).repeat(4, 0))
        for width, height in sizes
    ]
