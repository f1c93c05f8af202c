"""What every test starts from: mmtoken imported (its compat hooks in place) and the same random numbers."""

import random

import numpy as np
import pytest
import torch

import mmtoken  # noqa: F401


@pytest.fixture(autouse=True)
def _same_random_numbers():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if 'gpu' in item.keywords:
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))
