"""What ``mmengine.hub`` asks of a package."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Registers all modules of mmtoken and of mmseg, whose scope the configs are written in.

    Args:
        init_default_scope: Make that scope, ``mmseg``, the default one.
    """
    import mmseg.utils

    import mmtoken.datasets
    import mmtoken.engine
    import mmtoken.hosts
    import mmtoken.methods
    import mmtoken.models  # noqa: F401

    mmseg.utils.register_all_modules(init_default_scope)
