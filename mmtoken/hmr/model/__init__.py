"""The network of the human mesh model: tokens → queries → people. It needs mmdet and scipy."""

import importlib.util

__all__ = []

if importlib.util.find_spec('mmdet'):
    from .human_mesh import TokenHumanMesh

    __all__ += ['TokenHumanMesh']
