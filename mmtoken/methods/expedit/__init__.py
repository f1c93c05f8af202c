from .reducer import Expedit

__all__ = ['Expedit']
