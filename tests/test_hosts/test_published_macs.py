"""MACs of published detection backbones, attention included, as counted by hand from their papers' settings."""

from pathlib import Path

import pytest
import torch

import mmtoken
from mmtoken.analysis import model_parts, segmentor_macs
from mmtoken.registry import MODELS

pytest.importorskip('timm')

PAGE = (Path(mmtoken.__file__).parent / 'hosts' / 'README.md').read_text(encoding='utf-8')
EVA = dict(
    type='mmtoken.TokenTimmEva', model='eva02_large_patch14_224', patch_size=16, img_size=1536, class_token=False
)
#: Backbone, side of the picture, GMACs of its blocks: linear layers, and q·k and the sum over v at each pair of tokens.
PUBLISHED = {
    'ViTDet-B, windows of 14 but for 4 blocks': (
        dict(type='mmtoken.TokenTimmSAM', model='samvit_base_patch16'),
        1024,
        461,
    ),
    'ViTDet-B, all global': (
        dict(type='mmtoken.TokenTimmSAM', model='samvit_base_patch16', window_size=0),
        1024,
        657,
    ),
    'ViT-B': (dict(type='mmtoken.TokenTimmViT', model='vit_base_patch16_224', class_token=False), 1024, 657),
    'ViTDet-L, windows of 14 but for 4 blocks': (
        dict(type='mmtoken.TokenTimmSAM', model='samvit_large_patch16'),
        1024,
        1407,
    ),
    'EVA-02-L, windows of 16 but for 8 blocks': (
        dict(EVA, window_size=16, global_blocks=tuple(range(2, 24, 3))),
        1536,
        4252,
    ),
    'EVA-02-L, all global': (EVA, 1536, 6957),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_macs_of_the_blocks(name):
    """They are within 1 % of the formula, which knows no relative positions and nothing that fills up windows."""
    cfg, side, gmacs = PUBLISHED[name]
    with torch.device('meta'):
        model = MODELS.build(cfg).eval()
    report = segmentor_macs(model, (side, side))
    assert not report.missed
    blocks = model_parts(report, model)['blocks']
    assert blocks == pytest.approx(gmacs * 1e9, rel=0.01)
    assert f'| {name} | {side}×{side} | {blocks / 1e9:.0f} | {gmacs} |' in PAGE
