"""A tiny tokenizer in the miniature's form."""

import itertools
from typing import Any

import numpy as np
import pytest

from ziya_visual.train.pretrain_lm import corpus_texts, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(itertools.chain(corpus_texts(np.random.default_rng(0), 50)))
