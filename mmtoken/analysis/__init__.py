"""Costs of a model, measured honestly: multiply-adds, latency, and pictures of its tokens."""

from .flops import CONVENTION, MacReport, count_macs, inference_path, model_parts, part_table, segmentor_macs
from .latency import environment, interleave, paired_ratio, spread
from .tokens import colorize_groups, overlay_groups

__all__ = [
    'CONVENTION', 'MacReport', 'colorize_groups', 'count_macs', 'environment', 'inference_path', 'interleave', 'model_parts',
    'overlay_groups', 'paired_ratio', 'part_table', 'segmentor_macs', 'spread'
]
