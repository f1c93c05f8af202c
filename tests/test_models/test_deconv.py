"""DeconvHead: its shape, its names, and what it refuses."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from mmtoken.registry import MODELS


def head(**kwargs):
    torch.manual_seed(0)
    init_default_scope('mmseg')
    cfg = dict(type='mmtoken.DeconvHead', in_channels=8, deconv_channels=(6, 4), num_classes=3, align_corners=False)
    return MODELS.build(ConfigDict(cfg, **kwargs)).eval()


def test_each_layer_doubles_the_map():
    net, x = head(), torch.randn(2, 8, 3, 5)
    out = net.forward([x])
    assert out.shape == (2, 3, 12, 20)
    own = net.deconv_layers
    for layer, norm in (own[0:2], own[3:5]):
        assert layer.kernel_size == (4, 4) and isinstance(norm, nn.BatchNorm2d)
        x = norm(layer(x)).relu()
    assert torch.equal(out, net.conv_seg(x))
    net.forward([torch.randn(2, 8, 3, 5)]).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_without_layers_it_is_linear():
    net, x = head(deconv_channels=()), torch.randn(1, 8, 2, 2)
    assert torch.equal(net.forward([x]), net.conv_seg(x))


@pytest.mark.parametrize(
    'kwargs, words', [(dict(deconv_channels=(6, 0)), 'deconv_channels=0'), (dict(channels=5), 'the last of deconv')]
)
def test_what_it_refuses(kwargs, words):
    with pytest.raises(ValueError, match=words):
        head(**kwargs)
