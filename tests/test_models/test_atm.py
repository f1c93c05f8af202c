"""The ATM decoder against its equations, written out for one image and one head at a time."""

import pytest
import torch

from mmtoken.models.heads.atm import ATMDecoder, token_scores
from mmtoken.testing import randomize

LENGTHS = torch.tensor([5, 1, 9, 5])


def decoder(**kwargs):
    args = {**dict(in_channels=16, num_classes=5, channels=12, num_layers=3, num_heads=3), **kwargs}
    model = ATMDecoder(**args)
    randomize(model)
    return model.double().eval()


def heads_attend(q, k, v, heads):
    """What K queries ``(K, d)`` read from N tokens ``(N, d)``, and the mean of the heads' scores ``(K, N)``."""
    width = q.shape[-1] // heads
    read, scores = [], 0
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        score = q[:, part] @ k[:, part].T / width**0.5
        read.append(score.softmax(-1) @ v[:, part])
        scores = scores + score / heads
    return torch.cat(read, -1), scores


def by_the_equations(model, tokens):
    """Mask logits ``(N, K)`` and class logits ``(K, 2)`` after each layer, of one image's tokens ``(N, C)``."""
    x, q, results = model.stage.norm(model.stage.proj(tokens)), model.queries, []
    for layer in model.stage.layers:
        if layer.query_attention:
            read, _ = heads_attend(*layer.qkv(q).chunk(3, -1), layer.num_heads)
            q = layer.norm1(q + layer.proj(read))
        read, scores = heads_attend(layer.cross_q(q), *layer.cross_kv(x).chunk(2, -1), layer.num_heads)
        q = layer.norm2(q + layer.cross_proj(read))
        q = layer.norm3(q + layer.ffn(q))
        results.append((scores.T, model.classify(q)))
    return results


@pytest.mark.parametrize('query_attention', [True, False])
def test_decoder_is_its_equations(query_attention):
    model = decoder(query_attention=query_attention)
    tokens = torch.randn(2, 7, 16, dtype=torch.double)
    layers, last = model.every_layer(tokens), model(tokens)
    assert len(layers) == 3
    for i, image in enumerate(tokens):
        for (masks, classes), (want_masks, want_classes) in zip(layers, by_the_equations(model, image)):
            torch.testing.assert_close(masks[i], want_masks)
            torch.testing.assert_close(classes[i], want_classes)
    for got, want in zip(last, layers[-1]):
        assert torch.equal(got, want), 'asking for every layer changes nothing in the last'


@pytest.mark.parametrize('lengths', [(5, 1, 9, 5), (4, 0, 6), (0,)])
def test_a_packed_batch_is_its_images_alone(lengths):
    model = decoder().float()
    lengths = torch.tensor(lengths)
    tokens = torch.randn(int(lengths.sum()), 16)
    masks, classes = model(tokens, lengths)
    scores, start = token_scores(masks, classes, lengths), 0
    assert masks.shape == scores.shape == (len(tokens), 5) and classes.shape == (len(lengths), 5, 2)
    assert classes.isfinite().all()
    for i, length in enumerate(lengths.tolist()):
        part = slice(start, start + length)
        if length:
            alone = model(tokens[None, part])
            torch.testing.assert_close(masks[part], alone[0][0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(classes[i], alone[1][0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(scores[part], token_scores(*alone)[0], atol=1e-5, rtol=1e-5)
        start += length


def test_gradients_of_a_packed_batch_are_those_of_its_images():
    model = decoder()
    tokens = torch.randn(int(LENGTHS.sum()), 16, dtype=torch.double)
    weight = torch.randn(len(tokens), 5, dtype=torch.double)
    packed = torch.autograd.grad((token_scores(*model(tokens, LENGTHS), LENGTHS) * weight).sum(), model.parameters())
    alone = [token_scores(*model(image[None]))[0] for image in tokens.split(LENGTHS.tolist())]
    expected = torch.autograd.grad((torch.cat(alone) * weight).sum(), model.parameters())
    for got, want in zip(packed, expected):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('lengths', [None, LENGTHS])
def test_bf16_autocast_stays_close(lengths):
    model = decoder().float()
    tokens = torch.randn(20, 16) if lengths is not None else torch.randn(2, 10, 16)
    exact = token_scores(*model(tokens, lengths), lengths)
    with torch.autocast('cpu', torch.bfloat16):
        rough = token_scores(*model(tokens, lengths), lengths)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0)


def test_scores_are_presence_times_mask():
    masks, classes = torch.randn(2, 7, 5), torch.randn(2, 5, 2)
    scores = token_scores(masks, classes)
    present = classes[1, 3, 0].exp() / classes[1, 3].exp().sum()
    torch.testing.assert_close(scores[1, 2, 3], present / (1 + (-masks[1, 2, 3]).exp()))
    assert token_scores(masks.double(), classes.double()).dtype == torch.double


def test_dropout_is_for_training_only():
    model, tokens = decoder(dropout=0.5), torch.randn(1, 7, 16, dtype=torch.double)
    assert torch.equal(model(tokens)[1], model(tokens)[1])
    model.train()
    assert not torch.equal(model(tokens)[1], model(tokens)[1])


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(num_heads=5), 'num_heads=5 does not divide channels=12'),
        (dict(num_layers=0), 'num_layers=0 of an ATM decoder must be an integer >= 1'),
        (dict(dropout=1.0), r'dropout of an ATM decoder is 1.0; give a rate in \[0, 1\)'),
    ],
)
def test_errors_say_what_would_be_right(wrong, message):
    with pytest.raises(ValueError, match=message):
        decoder(**wrong)
