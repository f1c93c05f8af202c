"""Costs of a model, measured honestly: multiply-adds, latency, and pictures of its tokens."""

from .counter import MacReport, count_macs
from .flops import inference_path, model_parts, part_table, segmentor_macs
from .latency import environment, interleave, paired_ratio, spread
from .operators import CONVENTION
from .tokens import TokenTrace, average_groups, colorize_groups, overlay_groups, trace_tokens

__all__ = [
    'CONVENTION',
    'MacReport',
    'TokenTrace',
    'average_groups',
    'colorize_groups',
    'count_macs',
    'environment',
    'inference_path',
    'interleave',
    'model_parts',
    'overlay_groups',
    'paired_ratio',
    'part_table',
    'segmentor_macs',
    'spread',
    'trace_tokens',
]
