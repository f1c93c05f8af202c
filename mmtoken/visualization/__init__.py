"""Visualizers, registered in :data:`mmtoken.registry.VISUALIZERS`."""
