"""Metrics, registered in :data:`mmtoken.registry.METRICS`."""
