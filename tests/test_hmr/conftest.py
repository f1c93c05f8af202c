"""A body for all tests, and a file in SMPL's format that holds other numbers."""

import numpy as np
import pytest

from mmtoken.hmr.body import PARENTS
from mmtoken.registry import BODY_MODELS


@pytest.fixture(scope='session')
def body():
    return BODY_MODELS.build(dict(type='FreeBody'))


@pytest.fixture(scope='session')
def smpl_arrays():
    """Random arrays of the shapes of SMPL's; the joint regressor and the skin weights are sparse, as its are."""
    random = np.random.default_rng(0)
    regressor, weights = np.zeros((24, 6890)), np.zeros((6890, 24))
    for joint in range(24):
        regressor[joint, random.choice(6890, 10, replace=False)] = 0.1
    weights[np.arange(6890), random.integers(24, size=6890)] = 1
    return dict(
        v_template=random.normal(size=(6890, 3)),
        shapedirs=random.normal(size=(6890, 3, 10)),
        posedirs=random.normal(size=(6890, 3, 207)).astype(np.float32),
        J_regressor=regressor,
        weights=weights,
        kintree_table=np.array([[2**32 - 1, *PARENTS[1:]], range(24)], np.uint32),
        f=random.integers(6890, size=(13776, 3)).astype(np.uint32),
    )
