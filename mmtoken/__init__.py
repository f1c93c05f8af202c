"""mmtoken: token reduction for plain vision transformers in OpenMMLab.

Importing the package sets the upstream packages right (see :mod:`mmtoken.compat`) without importing any of them.
"""

from . import compat

__version__ = '0.1.0'

compat.apply()
