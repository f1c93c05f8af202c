"""Costs of a model, measured honestly: multiply-adds, latency, and pictures of its tokens."""

from .flops import CONVENTION, MacReport, count_macs, inference_path, part_table, segmentor_macs
from .latency import environment, interleave, paired_ratio, spread
from .tokens import colorize_groups, overlay_groups

__all__ = [
    'CONVENTION', 'MacReport', 'colorize_groups', 'count_macs', 'environment', 'inference_path', 'interleave',
    'overlay_groups', 'paired_ratio', 'part_table', 'segmentor_macs', 'spread'
]
