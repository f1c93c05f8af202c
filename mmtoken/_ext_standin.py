"""Stand-in for ``mmcv._ext``: loaded under that name by :mod:`mmtoken.compat` where mmcv has no compiled ops."""


def __getattr__(name: str):
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(
            f'mmcv op `{name}` is not in mmcv-lite, and mmtoken has no stand-in for it: it comes with the compiled mmcv '
            '(`pip install --no-build-isolation "mmcv>=2.1,<2.2"` in place of mmcv-lite) or onedl-mmcv')

    return missing
