"""Metrics of human meshes, registered in :data:`mmtoken.registry.METRICS`."""

from .human_mesh import HumanMeshMetric

__all__ = ['HumanMeshMetric']
