"""Attention kernels against the explicit softmax in double precision."""

import pytest
import torch

from mmtoken.core import attention_scores, dense_attention, ragged_attention, self_attention

LENGTHS = torch.tensor([5, 1, 9, 5])


def explicit(q, k, v, scale=None, bias=0.0):
    """softmax(scale·q·kᵀ + bias)·v in fp64."""
    q, k, v = q.double(), k.double(), v.double()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (scale * q @ k.transpose(-1, -2) + bias).softmax(-1) @ v


def make_qkv(*shape, dtype=torch.float32):
    return [torch.randn(*shape).to(dtype).requires_grad_() for _ in range(3)]


def close(a, b, tolerance=1e-5):
    return torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize('scale', [None, 0.7])
def test_dense_is_softmax_attention(scale):
    q, k, v = make_qkv(2, 3, 7, 8)
    assert close(dense_attention(q, k, v, scale=scale), explicit(q, k, v, scale))


def test_queries_and_keys_may_differ_in_number():
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    key_bias = torch.randn(2, 7)
    out = dense_attention(q, k, v, key_bias=key_bias, channels=False)
    assert out.shape == q.shape and close(out, explicit(q, k, v, bias=key_bias[:, None, None]))


@pytest.mark.parametrize('shape', [(2, 3, 7, 7), (1, 3, 7, 7), (2, 1, 1, 7)])
def test_additive_bias(shape):
    q, k, v = make_qkv(2, 3, 7, 8)
    bias = torch.randn(shape)
    assert close(dense_attention(q, k, v, bias=bias), explicit(q, k, v, bias=bias.double()))


@pytest.mark.parametrize('channels', [False, True, None])
@pytest.mark.parametrize('scale', [None, 0.3])
def test_key_bias_by_mask_and_by_channels(channels, scale):
    q, k, v = make_qkv(2, 3, 7, 8)
    key_bias = torch.randint(1, 400, (2, 7)).float().log().requires_grad_()
    inputs = (q, k, v, key_bias)
    out = dense_attention(q, k, v, scale=scale, key_bias=key_bias, channels=channels)
    expected = explicit(q, k, v, scale, key_bias.double()[:, None, None])
    assert out.shape == v.shape and close(out, expected)
    weight = torch.randn(out.shape)
    got = torch.autograd.grad((out * weight).sum(), inputs)
    for a, b in zip(got, torch.autograd.grad((expected * weight).sum(), inputs)):
        assert close(a, b, 3e-5)


@pytest.mark.parametrize('channels', [False, True])
def test_key_bias_on_top_of_a_bias(channels):
    q, k, v = make_qkv(2, 3, 7, 8)
    bias, key_bias = torch.randn(1, 3, 7, 7), torch.randn(2, 7)
    out = dense_attention(q, k, v, bias=bias, key_bias=key_bias, channels=channels)
    assert close(out, explicit(q, k, v, bias=bias.double() + key_bias.double()[:, None, None]))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('channels', [False, True])
def test_key_bias_in_half_precision(dtype, channels):
    q, k, v = make_qkv(2, 3, 7, 8, dtype=dtype)
    key_bias = torch.randint(1, 400, (2, 7)).float().log()
    out = dense_attention(q, k, v, key_bias=key_bias, channels=channels)
    assert out.dtype == dtype
    assert close(out, explicit(q, k, v, bias=key_bias.double()[:, None, None]), 3e-2)


def test_channels_carry_the_bias_more_finely_than_one_half_precision_number():
    """bf16 knows 6.90625 and 6.9375 only; the difference of these two biases is between."""
    q = k = torch.zeros(1, 1, 2, 8, dtype=torch.bfloat16)
    v = torch.tensor([1.0, -1.0], dtype=torch.bfloat16).view(1, 1, 2, 1).expand(1, 1, 2, 8)
    key_bias = torch.tensor([[6.921, 6.907]])
    out = dense_attention(q, k, v, key_bias=key_bias, channels=True)
    assert close(out, explicit(q, k, v, bias=key_bias.double()[:, None, None]), 3e-3)


def packed_reference(q, k, v, lengths, scale=None, key_bias=None):
    parts, start = [], 0
    for length in lengths.tolist():
        part = slice(start, start + length)
        bias = 0.0 if key_bias is None else key_bias.double()[part]
        one = explicit(*(t[part].transpose(0, 1) for t in (q, k, v)), scale, bias)
        parts.append(one.transpose(0, 1))
        start += length
    return torch.cat(parts)


@pytest.mark.parametrize('backend', ['padded', 'loop', 'auto'])
@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('scale', [None, 0.7])
def test_ragged_attention_stays_inside_each_image(backend, with_bias, scale):
    q, k, v = make_qkv(int(LENGTHS.sum()), 3, 8)
    key_bias = torch.randint(1, 60, (len(q),)).float().log().requires_grad_() if with_bias else None
    inputs = (q, k, v, key_bias) if with_bias else (q, k, v)
    out = ragged_attention(q, k, v, LENGTHS, scale=scale, key_bias=key_bias, backend=backend)
    expected = packed_reference(q, k, v, LENGTHS, scale, key_bias)
    assert out.shape == v.shape and close(out, expected)
    weight = torch.randn(out.shape)
    got = torch.autograd.grad((out * weight).sum(), inputs)
    for a, b in zip(got, torch.autograd.grad((expected * weight).sum(), inputs)):
        assert close(a, b, 3e-5)


@pytest.mark.parametrize('backend', ['padded', 'loop'])
def test_ragged_attention_in_bf16(backend):
    q, k, v = make_qkv(int(LENGTHS.sum()), 3, 8, dtype=torch.bfloat16)
    key_bias = torch.randint(1, 60, (len(q),)).float().log()
    out = ragged_attention(q, k, v, LENGTHS, key_bias=key_bias, backend=backend)
    assert out.dtype == torch.bfloat16
    assert close(out, packed_reference(q, k, v, LENGTHS, key_bias=key_bias), 3e-2)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('with_bias', [False, True])
def test_varlen_equals_padded_on_a_gpu(dtype, with_bias):
    from mmtoken.core.attention import varlen_attn

    if varlen_attn is None:
        pytest.skip('this torch has no varlen attention with a scale')
    q, k, v = (t.detach().cuda() for t in make_qkv(int(LENGTHS.sum()), 3, 32, dtype=dtype))
    key_bias = torch.randint(1, 60, (len(q),)).float().log().cuda() if with_bias else None
    lengths = LENGTHS.cuda()
    varlen = ragged_attention(q, k, v, lengths, key_bias=key_bias, backend='varlen')
    assert close(varlen, packed_reference(q, k, v, lengths, key_bias=key_bias), 3e-2)
    assert torch.equal(varlen, ragged_attention(q, k, v, lengths, key_bias=key_bias)), 'auto takes it where it can'


def cross_inputs(lengths, heads=3, width=8, number=6, dtype=torch.float32):
    q = torch.randn(len(lengths), heads, number, width).to(dtype).requires_grad_()
    return [q, *make_qkv(int(lengths.sum()), heads, width, dtype=dtype)[1:]]


def cross_reference(q, k, v, lengths, scale=None, key_bias=None):
    outs, start = [], 0
    for image, length in enumerate(lengths.tolist()):
        part = slice(start, start + length)
        bias = 0.0 if key_bias is None else key_bias.double()[part]
        outs.append(explicit(q[image], k[part].transpose(0, 1), v[part].transpose(0, 1), scale, bias))
        start += length
    return torch.stack(outs)


@pytest.mark.parametrize('backend', ['padded', 'loop', 'auto'])
@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('lengths', [(5, 1, 9, 5), (5, 0, 9), (0, 0), (12,)])
def test_queries_that_are_no_tokens_read_their_own_image_only(backend, with_bias, lengths):
    lengths = torch.tensor(lengths)
    inputs = cross_inputs(lengths)
    if with_bias:
        inputs.append(torch.randint(1, 60, (len(inputs[1]),)).float().log().requires_grad_())
    key_bias = inputs[3] if with_bias else None
    out = ragged_attention(*inputs[:3], lengths, scale=0.7, key_bias=key_bias, backend=backend)
    expected = cross_reference(*inputs[:3], lengths, 0.7, key_bias)
    assert out.shape == inputs[0].shape and close(out, expected)
    weight = torch.randn(out.shape)
    got = torch.autograd.grad((out * weight).sum(), inputs, materialize_grads=True)
    for a, b in zip(got, torch.autograd.grad((expected * weight).sum(), inputs)):
        assert close(a, b, 3e-5)


@pytest.mark.parametrize('backend', ['padded', 'loop'])
def test_queries_that_are_no_tokens_in_bf16(backend):
    q, k, v = cross_inputs(LENGTHS, dtype=torch.bfloat16)
    out = ragged_attention(q, k, v, LENGTHS, backend=backend)
    assert out.dtype == torch.bfloat16 and close(out, cross_reference(q, k, v, LENGTHS), 3e-2)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('lengths', [(5, 1, 9, 5), (5, 0, 9)])
def test_queries_that_are_no_tokens_on_a_gpu(dtype, lengths):
    from mmtoken.core.attention import varlen_attn

    lengths = torch.tensor(lengths)
    q, k, v = (t.detach().cuda() for t in cross_inputs(lengths, width=32, dtype=dtype))
    for backend in ('padded', 'loop') + (('varlen',) if varlen_attn is not None else ()):
        out = ragged_attention(q, k, v, lengths.cuda(), backend=backend)
        assert close(out, cross_reference(q, k, v, lengths), 3e-2), backend


@pytest.mark.parametrize('heads', [1, 3])
def test_attention_scores_are_the_mean_over_heads_before_the_softmax(heads):
    q, k = torch.randn(4, 6, heads * 8), torch.randn(4, 9, heads * 8)
    split = [t.double().unflatten(-1, (heads, 8)).transpose(1, 2) for t in (q, k)]
    expected = (split[1] @ split[0].transpose(-1, -2) / 8**0.5).mean(1)
    assert close(attention_scores(q, k, heads), expected)
    lengths = torch.tensor([9, 2, 0, 5])
    packed = torch.cat([k[i, :n] for i, n in enumerate(lengths)])
    cut = torch.cat([expected[i, :n] for i, n in enumerate(lengths)])
    assert close(attention_scores(q, packed, heads, lengths), cut)


def test_errors_say_what_would_be_right():
    q, k, v = make_qkv(int(LENGTHS.sum()), 3, 8)
    with pytest.raises(ValueError, match="backend='flash' is not.*padded"):
        ragged_attention(q, k, v, LENGTHS, backend='flash')
    with pytest.raises(ValueError, match="backend='varlen' needs.*CUDA"):
        ragged_attention(q, k, v, LENGTHS, backend='varlen')


def test_self_attention_splits_the_joint_projection_head_by_head():
    batch, length, heads, width = 2, 6, 3, 4
    qkv = torch.randn(batch, length, 3 * heads * width)
    out, keys = self_attention(qkv, heads)
    q, k, v = qkv.split(heads * width, dim=-1)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        assert close(out[..., part], explicit(q[..., part], k[..., part], v[..., part]))
        assert torch.equal(keys[:, :, h], k[..., part])


def test_self_attention_of_a_packed_batch_is_that_of_its_images():
    qkv, key_bias = torch.randn(int(LENGTHS.sum()), 36), torch.rand(int(LENGTHS.sum()))
    out, keys = self_attention(qkv, 3, lengths=LENGTHS, key_bias=key_bias)
    start = 0
    for length in LENGTHS.tolist():
        part = slice(start, start + length)
        alone, alone_keys = self_attention(qkv[None, part], 3, key_bias=key_bias[None, part])
        assert close(out[part], alone[0]) and torch.equal(keys[part], alone_keys[0])
        start += length


@pytest.mark.parametrize('backend', ['auto', 'loop', 'padded'])
@pytest.mark.parametrize('lengths', [LENGTHS, torch.tensor([5, 5])], ids=['unequal', 'equal'])
@pytest.mark.parametrize('shape', [(None, 3), (1, 3), (None, 1)], ids=str)
def test_a_position_bias_of_a_packed_batch_is_that_of_its_images(backend, lengths, shape):
    longest = int(lengths.max())
    qkv, key_bias = torch.randn(int(lengths.sum()), 3, 3, 12), torch.rand(int(lengths.sum()))
    bias = torch.randn(shape[0] or len(lengths), shape[1], longest, longest)
    q, k, v = qkv.unbind(1)
    out = ragged_attention(q, k, v, lengths, bias=bias, key_bias=key_bias, backend=backend)
    start = 0
    for i, length in enumerate(lengths.tolist()):
        part = slice(start, start + length)
        alone = [t[part].transpose(0, 1) for t in (q, k, v)]
        pairs = bias.expand(len(lengths), -1, -1, -1)[i, :, :length, :length] + key_bias[part]
        assert close(out[part].transpose(0, 1), explicit(*alone, bias=pairs.double()))
        start += length


def test_dropout_reaches_the_attention_weights():
    q, k, v = make_qkv(2, 3, 7, 8)
    dropped = dense_attention(q, k, v, dropout_p=0.5)
    assert not close(dropped, explicit(q, k, v))


def test_narrow_values_are_fused_on_a_cpu_too():
    q, k, v = (torch.randn(2, 3, n, d, requires_grad=True) for n, d in ((5, 8), (7, 8), (7, 4)))
    with torch.profiler.profile() as profile:
        out = dense_attention(q, k, v)
    assert any('flash_attention_for_cpu' in event.name for event in profile.events())
    expected = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(out, expected)
    grads = [torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (out, expected)]
    torch.testing.assert_close(*grads)
