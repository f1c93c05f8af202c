"""Training steps in bfloat16: products are, weights and optimiser are not."""

import torch
from mmengine.optim import build_optim_wrapper
from torch import nn


def test_a_step_runs_under_autocast_and_updates_fp32_weights():
    model = nn.Linear(8, 8)
    cfg = dict(type='mmtoken.BF16OptimWrapper', optimizer=dict(type='SGD', lr=1.0), accumulative_counts=2)
    wrapper, before = build_optim_wrapper(model, cfg), model.weight.detach().clone()
    wrapper.initialize_count_status(model, 0, 2)
    for step in range(2):
        with wrapper.optim_context(model):
            out = model(torch.randn(4, 8))
        assert out.dtype == torch.bfloat16 and not torch.is_autocast_enabled('cpu')
        wrapper.update_params(out.float().square().mean())
        assert torch.equal(model.weight, before) == (step == 0), 'gradients are accumulated'
    assert model.weight.dtype == torch.float32
