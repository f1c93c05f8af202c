"""What every test starts from: mmtoken imported (its compat hooks in place) and the same random numbers."""

import random
from pathlib import Path

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
        if item.get_closest_marker('gpu'):  # a keyword would be the folder's name too
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


@pytest.fixture
def loud(monkeypatch):
    """``mmtoken.Loud``, a method whose token count depends on the picture; known while the test runs."""
    from mmtoken.registry import REDUCERS

    REDUCERS.import_from_location()
    known = dict(REDUCERS.module_dict)
    monkeypatch.syspath_prepend(str(Path(__file__).parent / 'contract'))
    from newcomers import Loud

    for name in set(REDUCERS.module_dict) - set(known):
        del REDUCERS.module_dict[name]
    monkeypatch.setitem(REDUCERS.module_dict, 'Loud', Loud)
