"""What the host tests share: weights that matter, and comparisons relative to the scale of what is compared."""

import importlib.util

import pytest
import torch

PATCH, DEPTH = 4, 3


def _let_torchvision_load():
    """Declares two of torchvision's C++ ops where they do not load: PyPI's CUDA build beside a CPU torch.

    mmpretrain imports torchvision, but the hosts call none of its ops. Gives back what keeps the declarations alive.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:  # also what mmtoken.compat makes of torchvision's own RuntimeError
        if importlib.util.find_spec('torchvision') is not None:
            library = torch.library.Library('torchvision', 'FRAGMENT')
            library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
            library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
            return library


_TORCHVISION_OPS = _let_torchvision_load()


def _randomize(module, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        is_factor = parameter.dim() == 1 and name.rsplit('.', 1)[-1] != 'bias'  # norm weights, gammas
        parameter.data.copy_(1 + 0.3 * values if is_factor else 0.2 * values)


def _assert_same(got, expected, tolerance):
    assert type(got) is type(expected), (type(got), type(expected))
    if isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            _assert_same(one, other, tolerance)
        return
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert torch.isfinite(expected).all()
    if tolerance == 0:
        assert torch.equal(got, expected)
        return
    scale = expected.abs().max()
    assert scale > 0, 'the test compares zeros'
    assert (got - expected).abs().max() <= tolerance * scale


def _gradients(module, outputs, *inputs):
    """Gradients of all parameters (None where there is none) and of the inputs, for a fixed random loss."""
    generator = torch.Generator().manual_seed(2)
    flat = [t for out in outputs for t in (out if isinstance(out, list) else [out])]
    loss = sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in flat)
    module.zero_grad()
    loss.backward()  # not autograd.grad, which upstream's gradient checkpointing refuses
    return [t.grad for t in (*module.parameters(), *inputs)]


@pytest.fixture
def randomize():
    """Gives every parameter a value that matters: no zero tables, no unit gammas, no idle norms."""
    return _randomize


@pytest.fixture
def assert_same():
    """Same structure, shapes, dtypes, and values to ``tolerance`` times the largest one; 0 asks for equal bits."""
    return _assert_same


@pytest.fixture
def gradients():
    return _gradients


@pytest.fixture
def stock():
    """mmseg's classes by the name of the host over them."""
    from mmseg.models import backbones

    return dict(TokenVisionTransformer=backbones.VisionTransformer, TokenBEiT=backbones.BEiT, TokenMAE=backbones.MAE)


@pytest.fixture
def twins(stock):
    """Makes a host and its stock twin with the same weights, in eval mode."""
    from mmseg.registry import MODELS

    def make(name, size=(24, 24), dtype=torch.float32, reducer=None, **kwargs):
        # BEiT and MAE run at one size only; VisionTransformer resizes its table, so it is given another one.
        img_size = (24, 24) if name == 'TokenVisionTransformer' else size
        args = dict(img_size=img_size, patch_size=PATCH, embed_dims=32, num_layers=DEPTH, num_heads=4, mlp_ratio=2)
        args.update(kwargs)
        theirs = stock[name](**args)
        _randomize(theirs)
        ours = MODELS.build(dict(type=f'mmtoken.{name}', reducer=reducer, **args))
        assert isinstance(ours, stock[name])
        ours.load_state_dict(theirs.state_dict(), strict=reducer is None)
        ours.eval(), theirs.eval()  # the stock class gives back None
        return ours.to(dtype), theirs.to(dtype)

    return make
