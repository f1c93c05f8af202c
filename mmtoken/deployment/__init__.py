"""From a trained model to a graph that runs without Python: ONNX."""

from .graph import OUTPUTS, Servable
from .onnx import FORBIDDEN, export_onnx, forbidden_operators, operators
from .runtime import compare, quantize, session

__all__ = [
    'FORBIDDEN',
    'OUTPUTS',
    'Servable',
    'compare',
    'export_onnx',
    'forbidden_operators',
    'operators',
    'quantize',
    'session',
]
