from .reducer import ToMe

__all__ = ['ToMe']
