from .reducer import SViT

__all__ = ['SViT']
