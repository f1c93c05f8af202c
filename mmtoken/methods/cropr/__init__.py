from .module import CroprModule
from .reducer import Cropr

__all__ = ['Cropr', 'CroprModule']
