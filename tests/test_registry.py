"""Each registry of mmtoken is a child of mmengine's of the same kind, and finds what its locations register."""

import mmengine.registry
import pytest

import mmtoken.registry

CHILDREN = [
    'MODELS',
    'DATASETS',
    'TRANSFORMS',
    'HOOKS',
    'METRICS',
    'VISUALIZERS',
    'TASK_UTILS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
]


@pytest.mark.parametrize('name', CHILDREN)
def test_child_is_reached_from_its_parent_by_scope(name):
    ours, parent = getattr(mmtoken.registry, name), getattr(mmengine.registry, name)
    assert ours.parent is parent and ours.scope == 'mmtoken'
    ours.import_from_location()  # raises for a location that cannot be imported
    kind = type('Newcomer', (), {})
    ours.register_module(module=kind)
    try:
        assert parent.get('mmtoken.Newcomer') is kind
    finally:
        del ours.module_dict['Newcomer']


def test_list_is_complete():
    found = {
        name
        for name, registry in vars(mmtoken.registry).items()
        if isinstance(registry, mmengine.registry.Registry)
        and registry.scope == 'mmtoken'
        and registry.parent is not None
    }
    assert found == set(CHILDREN)
