"""MACs of published detection backbones, attention included, as counted by hand from their papers' settings."""

import pytest
import torch

from mmtoken.analysis import model_parts, segmentor_macs
from mmtoken.registry import MODELS

pytest.importorskip('timm')

EVERYWHERE = dict(window_size=0)
EVA = dict(
    type='mmtoken.TokenTimmEva', model='eva02_large_patch14_224', patch_size=16, img_size=1536, class_token=False
)
#: Backbone, side of the picture, GMACs of its blocks: linear layers, and q·k and the sum over v at each pair of tokens.
PUBLISHED = {
    'ViTDet-B': (dict(type='mmtoken.TokenTimmSAM', model='samvit_base_patch16'), 1024, 461),
    'ViTDet-L': (dict(type='mmtoken.TokenTimmSAM', model='samvit_large_patch16'), 1024, 1407),
    'ViTDet-B, all global': (dict(type='mmtoken.TokenTimmSAM', model='samvit_base_patch16', **EVERYWHERE), 1024, 657),
    'ViT-B': (dict(type='mmtoken.TokenTimmViT', model='vit_base_patch16_224', class_token=False), 1024, 657),
    'EVA-02-L': (dict(EVA, window_size=16, global_blocks=range(2, 24, 3)), 1536, 4252),
    'EVA-02-L, all global': (EVA, 1536, 6957),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_macs_of_the_blocks(name):
    cfg, side, gmacs = PUBLISHED[name]
    with torch.device('meta'):
        model = MODELS.build(cfg).eval()
    report = segmentor_macs(model, (side, side))
    assert not report.missed
    assert model_parts(report, model)['blocks'] == pytest.approx(gmacs * 1e9, rel=0.01)
