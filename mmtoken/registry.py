"""Registries of mmtoken: children of mmengine's, in the scope ``mmtoken``.

mmengine imports ``<scope>.registry`` when it first meets a scope prefix, and then the ``locations`` named here, so
``type='mmtoken.TokenVisionTransformer'`` works in any mmseg or mmdet config without ``custom_imports``.
"""

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry, build_from_cfg

from mmtoken.core.registry import REDUCERS


def build_in_own_scope(cfg: dict, registry: Registry) -> Any:
    """Builds from a registry that no package above has, without mmengine's warning that the default scope lacks it."""
    return build_from_cfg({**cfg, '_scope_': registry.scope}, registry)


MODELS = Registry(
    'models',
    parent=MMENGINE_MODELS,
    scope='mmtoken',
    locations=['mmtoken.hosts', 'mmtoken.models', 'mmtoken.hmr.model'],
)
BODY_MODELS = Registry('body model', build_func=build_in_own_scope, scope='mmtoken', locations=['mmtoken.hmr.body'])
DATASETS = Registry(
    'datasets', parent=MMENGINE_DATASETS, scope='mmtoken', locations=['mmtoken.datasets', 'mmtoken.hmr.data']
)
TRANSFORMS = Registry(
    'transforms',
    parent=MMENGINE_TRANSFORMS,
    scope='mmtoken',
    locations=['mmtoken.datasets', 'mmtoken.hmr.data'],
)
HOOKS = Registry('hooks', parent=MMENGINE_HOOKS, scope='mmtoken', locations=['mmtoken.engine', 'mmtoken.methods'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmtoken',
    locations=['mmtoken.engine'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmtoken', locations=['mmtoken.engine']
)
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='mmtoken', locations=['mmtoken.evaluation', 'mmtoken.hmr.metrics']
)
VISUALIZERS = Registry('visualizer', parent=MMENGINE_VISUALIZERS, scope='mmtoken', locations=['mmtoken.hmr.render'])
TASK_UTILS = Registry('task util', parent=MMENGINE_TASK_UTILS, scope='mmtoken', locations=['mmtoken.models'])

__all__ = [
    'BODY_MODELS',
    'DATASETS',
    'HOOKS',
    'METRICS',
    'MODELS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'REDUCERS',
    'TASK_UTILS',
    'TRANSFORMS',
    'VISUALIZERS',
]
