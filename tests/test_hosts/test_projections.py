"""Projections run through their modules: adapters, parametrisations, quantised layers and hooks take part."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mmtoken.testing import toy_hosts

HOSTS = toy_hosts()
hosts = pytest.mark.parametrize('name', HOSTS)


def seeded(name, **kwargs):
    torch.manual_seed(0)
    return HOSTS[name](**kwargs)


def attentions(host):
    """The module that holds the joint projection, and that of the output, of each block."""
    for block in host.blocks:
        attn = getattr(block.attn, 'attn', getattr(block.attn, 'w_msa', block.attn))
        yield attn, 'out_proj' if isinstance(attn, nn.MultiheadAttention) else 'proj'


class Adapter(nn.Module):
    """A low-rank adapter around a linear layer, as LoRA (arXiv 2106.09685) puts it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class JointAdapter(nn.Module):
    """An adapter around torch's attention: it changes the weights while the attention runs, and puts them back."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Parameter(torch.randn(2, base.embed_dim) * 0.1)
        self.up = nn.Parameter(torch.randn(3 * base.embed_dim, 2) * 0.1)

    def forward(self, query, *args, **kwargs):
        base, weight = self.base_layer, self.base_layer.in_proj_weight
        del base.in_proj_weight
        base.in_proj_weight = weight.detach() + self.up @ self.down
        out = base(query, *args, **kwargs)
        del base.in_proj_weight
        base.register_parameter('in_proj_weight', weight)
        return out


@hosts
def test_adapters_change_the_output_and_learn(name):
    host, x = seeded(name), torch.randn(2, 3, 32, 32)
    before = host(x)[-1]
    linear, joint = [], []
    for attn, out in list(attentions(host)):
        wrapped = Adapter(getattr(attn, out))
        setattr(attn, out, wrapped)
        linear.append(wrapped)
        if hasattr(attn, 'qkv'):
            attn.qkv = Adapter(attn.qkv)
            linear.append(attn.qkv)
    if name == 'TokenVisionTransformer':
        for block in host.blocks:
            block.attn.attn = JointAdapter(block.attn.attn)
            joint.append(block.attn.attn)
    for adapter in linear:
        nn.init.zeros_(adapter.up.weight)
    for adapter in joint:
        nn.init.zeros_(adapter.up)
    torch.testing.assert_close(host(x)[-1], before, rtol=1e-4, atol=1e-5)
    for adapter in linear:
        nn.init.normal_(adapter.up.weight, std=0.1)
    for adapter in joint:
        nn.init.normal_(adapter.up, std=0.1)
    out = host(x)[-1]
    assert not torch.allclose(out, before, atol=1e-3)
    out.square().sum().backward()
    learned = [p for a in linear for p in (a.down.weight, a.up.weight)] + [p for a in joint for p in (a.down, a.up)]
    assert len(learned) == 2 * 2 * len(host.blocks)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned)


@hosts
def test_adapters_of_peft(name):
    peft = pytest.importorskip('peft', reason='in no extra of mmtoken: pip install peft')
    host, x = seeded(name), torch.randn(2, 3, 32, 32)
    before = host(x)[-1]
    targets = r'layers\.\d+\.attn\.attn' if name == 'TokenVisionTransformer' else r'.*\d+\.attn\.(w_msa\.)?(qkv|proj)'
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=targets, r=2, init_lora_weights=False), host)
    out = host(x)[-1]
    assert not torch.allclose(out, before, atol=1e-3)
    out.square().sum().backward()
    learned = {n: p for n, p in host.named_parameters() if 'lora_' in n}
    assert len(learned) == 4 * len(host.blocks)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned.values())


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


@hosts
def test_parametrised_weights_take_part(name):
    """A parametrisation that doubles a weight gives what the doubled weight gives, to the last bit."""
    x, results = torch.randn(2, 3, 32, 32), []
    for parametrised in (False, True):
        host = seeded(name)
        for attn, out in attentions(host):
            joint = (attn, 'in_proj_weight') if hasattr(attn, 'in_proj_weight') else (attn.qkv, 'weight')
            for module, weight in (joint, (getattr(attn, out), 'weight')):
                if parametrised:
                    parametrize.register_parametrization(module, weight, Twice())
                else:
                    getattr(module, weight).data.mul_(2)
        with torch.no_grad():
            results.append(host(x)[-1])
    assert torch.equal(*results)
    assert not torch.equal(results[0], seeded(name)(x)[-1])


@hosts
def test_hooks_are_called(name):
    host, calls = seeded(name), []
    for attn, out in attentions(host):
        joint = attn if isinstance(attn, nn.MultiheadAttention) else attn.qkv
        joint.register_forward_hook(lambda *args: calls.append('joint'))
        getattr(attn, out).register_forward_hook(lambda *args: calls.append('out'))
    host(torch.randn(1, 3, 32, 32))
    assert calls == ['out', 'joint'] * len(host.blocks) or calls == ['joint', 'out'] * len(host.blocks)


@hosts
def test_layers_of_another_kind(name):
    """Linear layers that hold no float weight, as quantised ones do, in the place of the projections."""

    class Rounded(nn.Module):
        def __init__(self, base):
            super().__init__()
            scale = base.weight.detach().abs().amax() / 127
            self.register_buffer('codes', (base.weight.detach() / scale).round().to(torch.int8))
            self.register_buffer('offset', None if base.bias is None else base.bias.detach())
            self.scale = scale.item()

        def forward(self, x):
            return nn.functional.linear(x, self.codes.to(x.dtype) * self.scale, self.offset)

    host, x = seeded(name), torch.randn(2, 3, 32, 32)
    exact = host(x)[-1]
    for attn, out in attentions(host):
        setattr(attn, out, Rounded(getattr(attn, out)))
        if hasattr(attn, 'qkv'):
            attn.qkv = Rounded(attn.qkv)
    got = host(x)[-1]
    assert not torch.equal(got, exact)
    assert (got - exact).norm() < 0.1 * exact.norm()


def test_the_attention_of_torch_still_runs_as_torchs():
    attn, x = next(attentions(seeded('TokenVisionTransformer')))[0], torch.randn(2, 5, 32)
    stock = nn.MultiheadAttention(32, 2, batch_first=attn.batch_first)
    stock.load_state_dict(attn.state_dict())
    for one, other in zip(attn(x, x, x), stock(x, x, x)):
        torch.testing.assert_close(one, other)
