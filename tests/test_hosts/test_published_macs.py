"""MACs of published detection backbones, attention included, as counted by hand from their papers' settings.

And of one of them with methods that reduce over the picture or inside windows, as the page has them.
"""

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


#: A method, and its arguments where it reduces over the picture and inside windows.
METHODS = {
    'Expedit, ×0.67 and 9×9': ('Expedit', dict(layer=6, grid=0.67, proportional=True), dict(grid=(9, 9))),
    'Expedit, ×0.5 and 7×7': ('Expedit', dict(layer=6, grid=0.5, proportional=True), dict(grid=(7, 7))),
    'ToMe, keep 0.5': ('ToMe', dict(keep=0.5), {}),
    'ToMe, keep 0.3': ('ToMe', dict(keep=0.3), {}),
    'AvgPool, ×0.5 and 7×7': ('AvgPool', dict(layer=6, grid=0.5), dict(grid=(7, 7))),
}


@pytest.mark.parametrize('name', METHODS)
def test_macs_over_the_picture_and_inside_windows(name):
    kind, args, inside = METHODS[name]
    cells = []
    for within, more in (('grid', {}), ('window', inside)):
        reducer = dict(type=f'mmtoken.{kind}', **{**args, **more})
        with torch.device('meta'):
            model = MODELS.build(dict(PUBLISHED['ViTDet-B, windows of 14 but for 4 blocks'][0], reducer=reducer,
                                      img_size=1024, reduce_within=within)).eval()  # fmt: skip
        report = segmentor_macs(model, (1024, 1024))
        parts = model_parts(report, model)
        cost = (parts['reduce'] + parts['restore']) / 1e9
        cells.append(f'{report.tokens[-1]:.0f} | {report.total / 1e9:.1f} | {cost:.1f}')
        assert not report.missed
    assert f'| {name} | {cells[0]} | {cells[1]} |' in PAGE, cells
