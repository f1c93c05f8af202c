from .reducer import DToP

__all__ = ['DToP']
