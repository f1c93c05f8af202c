"""What a method with a host owes the one who trains it: gradients, checkpoints, deployment."""

import torch

from .cases import HOSTS, TAPS, close, equal, images, run, train_once


def test_gradients_reach_the_image_and_every_parameter(rung):
    host, inputs = rung.new(out_indices=TAPS).train(), images().requires_grad_()
    # random weights: a plain sum over a LayerNorm's channels has no gradient
    train_once(host, inputs, lambda out: out * torch.randn_like(out))
    assert inputs.grad.isfinite().all() and inputs.grad.abs().amax((1, 2, 3)).gt(0).all()
    for name, parameter in host.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.dim() == 1 or parameter.grad.abs().max() > 0, name


def test_gradient_checkpointing_changes_nothing(rung):
    inputs, grads = images(), []
    for with_cp in (False, True):
        host = rung.new(out_indices=TAPS).train()
        host.with_cp = with_cp
        pixels = inputs.clone().requires_grad_()
        torch.manual_seed(0)  # heads have dropout
        train_once(host, pixels, torch.square)
        grads.append([pixels.grad] + [p.grad for p in host.parameters()])
    assert close(*grads)


def test_state_dict_round_trip(rung):
    torch.manual_seed(1)
    host, other = rung.build(), HOSTS[rung.host](reducer=rung.config(dict(rung.args)))
    other.served = True
    assert not equal(run(host, images()), run(other, images()))
    other.load_state_dict(host.state_dict())
    assert equal(run(host, images()), run(other, images()))
    assert [k for k in host.state_dict() if not k.startswith('reducer.')] == list(rung.dense().state_dict())


def test_what_only_training_needs_can_go(rung):
    host, inputs = rung.new(out_indices=TAPS), images()
    before, names = run(host, inputs), set(host.state_dict())
    host.switch_to_deploy()
    assert close(run(host, inputs), before, 1e-5)
    assert set(host.state_dict()) <= names
