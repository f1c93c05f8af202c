"""Toy hosts, shared by the tests and the documentation: four blocks of width 32, patches of 4 pixels."""

from collections.abc import Callable

from torch import nn

#: Side of a toy patch in pixels, and the grid that position tables are made for.
PATCH, SIDE = 4, 8
DEPTH = 4


def toy_hosts() -> dict[str, Callable[..., nn.Module]]:
    """Factories of toy backbones by host name.

    Each takes the host's own keywords, such as ``reducer`` and ``out_indices``, and ``size=(height, width)`` in pixels
    for hosts whose position tables are made for one size. Hosts whose upstream package is not installed are left out.
    """
    from mmtoken import hosts  # noqa: F401  registers them
    from mmtoken.registry import MODELS

    def factory(name: str, **fixed) -> Callable[..., nn.Module]:

        def build(size=(PATCH * SIDE, PATCH * SIDE), **kwargs) -> nn.Module:
            args = {k: v(size) if callable(v) else v for k, v in fixed.items()}
            host = MODELS.build(dict(type=f'mmtoken.{name}', **{**args, **kwargs}))
            randomize(host)
            return host.eval()

        return build

    plain = dict(embed_dims=32, num_layers=DEPTH, num_heads=2, patch_size=PATCH)
    tables = dict(img_size=lambda size: tuple(size))
    toys = dict(
        TokenVisionTransformer=dict(img_size=PATCH * SIDE, final_norm=True, **plain),
        TokenBEiT=dict(final_norm=True, **plain, **tables),
        TokenMAE=dict(final_norm=True, **plain, **tables),
        TokenDINOv2=dict(
            arch=dict(embed_dims=32, num_layers=DEPTH, num_heads=2),
            img_size=PATCH * SIDE,
            patch_size=PATCH,
            num_registers=2,
            layer_scale=1.0,
        ),
        TokenPretrainViT=dict(
            arch=dict(embed_dims=32, num_layers=DEPTH, num_heads=2, feedforward_channels=128),
            img_size=PATCH * SIDE,
            patch_size=PATCH,
        ),
    )
    return {name: factory(name, **args) for name, args in toys.items() if name in MODELS.module_dict}


def randomize(module: nn.Module, std: float = 0.2) -> None:
    """Gives every parameter a value that matters; fresh ViTs have zero tokens, biases and position tables."""
    for name, parameter in module.named_parameters():
        if 'norm' in name or '.ln' in name:
            continue
        nn.init.normal_(parameter, std=std if parameter.dim() != 1 else 0.05)
