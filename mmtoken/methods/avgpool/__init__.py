from .reducer import AvgPool

__all__ = ['AvgPool']
