"""Drawing of meshes and maps; visualizers are registered in :data:`mmtoken.registry.VISUALIZERS`."""

from .bird import draw_birds_eye
from .maps import draw_scale_map, draw_token_map
from .overlay import draw_meshes, person_colors
from .visualizer import HumanMeshVisualizer

__all__ = [
    'HumanMeshVisualizer',
    'draw_birds_eye',
    'draw_meshes',
    'draw_scale_map',
    'draw_token_map',
    'person_colors',
]
