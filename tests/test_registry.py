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


def test_a_method_under_a_taken_name_is_refused_where_it_is_made_and_leaves_the_others_alone():
    """Before mmtoken's own methods are imported too, which a registration from outside does first."""
    from mmtoken.core import Reducer
    from mmtoken.core.registry import ReducerRegistry

    class Own(ReducerRegistry):
        def import_from_location(self):
            if not self.module_dict:
                self.module_dict.update(ToMe=Reducer, Expedit=Reducer)

    class ToMe(Reducer):
        pass

    registry = Own()
    with pytest.raises(KeyError, match=r'ToMe is taken by mmtoken\.core\.reducer; choose another name, .* force=True'):
        registry.register_module()(ToMe)
    assert registry.get('mmtoken.ToMe') is Reducer and registry.get('Expedit') is Reducer
    registry.register_module(force=True)(ToMe)
    registry.import_from_location()
    assert registry.get('ToMe') is ToMe and registry.get('Expedit') is Reducer
