from .reducer import DoViT

__all__ = ['DoViT']
