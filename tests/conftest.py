"""What every test starts from: mmtoken imported (its compat hooks in place) and the same random numbers."""

import random
from functools import cache
from pathlib import Path

import mmengine.config.utils
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

import mmtoken  # noqa: F401


@pytest.fixture(autouse=True)
def _same_random_numbers():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_global_outlives_a_test():
    """A config of mmdet that a test builds would else decide what the next test's ``CrossEntropyLoss`` is."""
    kinds = DefaultScope, MessageHub, Visualizer
    before = [kind._instance_dict.copy() for kind in kinds]
    yield
    for kind, instances in zip(kinds, before):
        kind._instance_dict.clear()
        kind._instance_dict.update(instances)


@pytest.fixture(scope='session', autouse=True)
def _model_indices_are_read_once():
    """mmengine reads a hundred YAML files for each config of mmseg that another derives from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, 'load', cache(mmengine.config.utils.load))
        yield


def pytest_collection_modifyitems(items):
    unstable = [item.nodeid for item in items if ' at 0x' in item.nodeid]
    if unstable:
        raise pytest.UsageError(f'two workers would name this test differently; give it an id: {unstable[0]}')
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):  # a keyword would be the folder's name too
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


@pytest.fixture(scope='session')
def newcomers():
    """The made-up methods and hosts of ``tests/contract``, without their names in the registries."""
    from mmtoken.registry import MODELS, REDUCERS

    registries = (MODELS, REDUCERS)
    for registry in registries:
        registry.import_from_location()
    known = [set(registry.module_dict) for registry in registries]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / 'contract'))
        import newcomers
    for registry, names in zip(registries, known):
        for name in set(registry.module_dict) - names:
            del registry.module_dict[name]
    return newcomers


@pytest.fixture
def plain_dumps(monkeypatch):
    """mmengine formats each runner's config four times over, for a second in all."""
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: repr(self.to_dict())))


@pytest.fixture
def loud(monkeypatch, newcomers):
    """``mmtoken.Loud``, a method whose token count depends on the picture; known while the test runs."""
    from mmtoken.registry import REDUCERS

    monkeypatch.setitem(REDUCERS.module_dict, 'Loud', newcomers.Loud)
