"""Reads pickles without trust: nothing that a file names is run, and what it may name is listed here.

:mod:`.checkpoints` tells torch's safe unpickler what mmengine's checkpoints hold; :mod:`.arrays` reads body models,
annotations and weights that are plain pickles.
"""
