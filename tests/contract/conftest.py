"""Gives each test of the contract its cases."""

from .cases import COMPLETE, PAIRS, TOYS, Case, covering


def pytest_generate_tests(metafunc):
    """Fills in arguments by their names.

    ``case``: method × host. ``static``: of static methods. ``cover``: a few static ones, in which each method and each
    host comes up. ``rung``: method × host × example. ``method``, ``host``: alone.
    """
    rungs = [Case(c.method, c.host, tuple(example.items())) for c in PAIRS for example in c.type.examples]
    static = [c for c in PAIRS if not c.type.dynamic]
    params = dict(method=COMPLETE, host=TOYS, case=PAIRS, static=static, cover=covering(static), rung=rungs)
    for name in [name for name in params if name in metafunc.fixturenames]:  # in one order for every worker
        ids = [p if isinstance(p, str) else p.id for p in params[name]]
        metafunc.parametrize(name, params[name], ids=ids)
