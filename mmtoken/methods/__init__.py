"""One folder a method; every folder here is imported, and so registered. A broken method raises."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
