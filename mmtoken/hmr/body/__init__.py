"""Body models, registered in :data:`mmtoken.registry.BODY_MODELS`."""

from .free_body import FreeBody
from .joints import FLIP_JOINTS, JOINT_NAMES, PARENTS
from .skinned import BodyOutput, SkinnedBody
from .smpl import SMPL

__all__ = ['FLIP_JOINTS', 'JOINT_NAMES', 'PARENTS', 'SMPL', 'BodyOutput', 'FreeBody', 'SkinnedBody']
