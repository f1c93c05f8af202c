"""One file for each upstream ViT family; every file here is imported, and so registered, when it can be.

A host whose upstream package is not installed is left out; any other failure is an error of ours and is raised.
"""

import importlib
import pkgutil

#: Packages that a host may do without: it is then left out.
UPSTREAM = ('mmseg', 'mmpretrain', 'mmdet', 'torchvision')

for _module in pkgutil.iter_modules(__path__):
    try:
        importlib.import_module(f'{__name__}.{_module.name}')
    except ImportError as error:
        if (error.name or '').split('.')[0] not in UPSTREAM:
            raise

from mmtoken.core import TokenHost  # noqa: E402

__all__ = ['TokenHost']
