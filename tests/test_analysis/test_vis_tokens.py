"""vis_tokens.py, and what its figures are made of."""

import cv2
import numpy as np
import pytest

from mmtoken.analysis.figures import paint_labels, paint_tokens

COLORS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)


def test_tokens_are_painted_by_what_became_of_them():
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    index = np.array([[0, 0, 1], [-1, -1, 2]])
    left = np.array([[-1, -1, -1], [2, 1, -1]])
    out = paint_tokens(picture, index, left, COLORS).astype(int)
    white = (out == 255).all(-1)
    cells = out.reshape(2, 20, 3, 20, 3).swapaxes(1, 2)[:, :, 1:, 1:]  # without the borders on their first pixels
    pixels = picture.reshape(2, 20, 3, 20, 3).swapaxes(1, 2)[:, :, 1:, 1:].astype(int)
    np.testing.assert_allclose(cells[0, :2], np.broadcast_to(picture[:20, :40].mean((0, 1)), (2, 19, 19, 3)), atol=1)
    np.testing.assert_array_equal(cells[[0, 1], [2, 2]], pixels[[0, 1], [2, 2]])  # tokens of their own
    for column, block in ((0, 2), (1, 1)):
        expected = 0.4 * pixels[1, column].mean(-1, keepdims=True) + 0.6 * COLORS[block]
        np.testing.assert_allclose(cells[1, column], expected, atol=0.51)
    assert white[20, :40].all() and white[20:, 20].all() and white[:, 40].all()
    assert not white[:20, 20].all() and not white[20, 41:].any()  # nor between two tokens of their own


def test_labels_without_a_colour_stay_clear():
    picture = np.full((2, 2, 3), 100, np.uint8)
    out = paint_labels(picture, np.array([[0, 1], [255, -1]]), COLORS, alpha=0.5)
    assert out.tolist() == [[[175, 50, 50], [50, 175, 50]], [[100] * 3, [100] * 3]]


@pytest.mark.parametrize(
    'config, counts', [('pooled', '48, 12, 12, 12'), ('tome', '40, 32, 24, 16'), ('stacked', '48, 12, 8, 4')]
)
def test_a_picture_from_end_to_end(town, call, tmp_path, capsys, config, counts):
    out = tmp_path / 'new' / 'tokens.png'
    call('vis_tokens', town / f'{config}.py', town / 'weights.pth', town / 'data/images/val/0.jpg', '--out', out)
    printed = capsys.readouterr().out
    assert f'tokens in each block: {counts}\n' in printed and f'{out}\n' in printed
    drawn = cv2.imread(str(out))
    assert drawn.shape[1] == 2400 and len(np.unique(drawn[::9, ::9].reshape(-1, 3), axis=0)) > 300


def test_a_strip_is_one_row(town, call, tmp_path):
    from mmtoken.analysis.figures import strip_figure
    from mmtoken.analysis.tokens import TokenTrace

    out = tmp_path / 'strip.jpg'
    call('vis_tokens', town / 'tome.py', town / 'weights.pth', town / 'data/images/val/0.jpg', '--strip', '--out', out)
    height, width = cv2.imread(str(out)).shape[:2]
    assert width == 1350 and height < width / 2
    index = np.arange(4).reshape(1, 2, 2)
    trace = TokenTrace([index, np.array([[[0, 0], [1, 2]]])], [np.array([4]), np.array([3])])
    figure = strip_figure(np.zeros((20, 20, 3), np.uint8), trace, 1, None)
    assert [axes.get_title() for axes in figure.axes] == ['input', 'block 1: 3 of 4 tokens']


def test_tokens_that_leave_and_another_size(town, call, tmp_path, capsys, loud):
    call(
        'vis_tokens',
        town / 'loud.py',
        town / 'weights.pth',
        town / 'data/images/val/1.jpg',
        '--out',
        tmp_path / 'a.png',
        '--layers',
        1,
        2,
        '--shape',
        70,
        126,
    )
    first, second, *rest = capsys.readouterr().out.split('block: ')[1].split('\n')[0].split(', ')
    assert first == second == '45' and 0 < int(rest[0]) < 45 and rest[0] == rest[1]
    assert cv2.imread(str(tmp_path / 'a.png')) is not None


def test_a_panel_tells_the_part_of_patches_that_exited():
    from mmtoken.analysis.figures import tokens_figure
    from mmtoken.analysis.tokens import TokenTrace

    whole = np.arange(4).reshape(1, 2, 2)
    trace = TokenTrace([whole, np.array([[[0, -1], [1, 2]]])], [np.array([4]), np.array([3])])
    figure = tokens_figure(np.zeros((20, 20, 3), np.uint8), trace, [0, 1], 'a')
    titles = [axes.get_title() for axes in figure.axes]
    assert 'block 0: 4 tokens' in titles and 'block 1: 3 tokens, 25% of patches exited' in titles


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(config='dense.py'), ['dense.py: model.backbone.reducer is missing', "type='mmtoken.ToMe'"]),
        (dict(config='gone.py'), ['config file not found', 'gone.py']),
        (dict(checkpoint='gone.pth'), ['checkpoint not found', 'gone.pth']),
        (dict(image='gone.jpg'), ['image: cannot read', 'gone.jpg']),
        (dict(image='weights.pth'), ['image: cannot read', 'weights.pth', 'JPEG']),
        (dict(more=['--device', 'cuda:99']), ['--device cuda:99', '--device cpu']),
        (dict(more=['--out', 'x.foo']), ['--out x.foo', '.png', '.svg']),
        (dict(more=['--out', '/proc/none/x.png']), ['--out /proc/none/x.png: cannot make the folder']),
        (dict(checkpoint='dense.py'), ['checkpoint', 'dense.py cannot be read', 'weights of a model']),
        (
            dict(config='upstream.py'),
            ['model.backbone.type=mmseg.VisionTransformer takes no reducer', 'use mmtoken.TokenVisionTransformer'],
        ),
        (
            dict(config='foreign.py'),
            ['model.backbone.type=mmseg.ResNet takes no reducer', 'one of', 'mmtoken.TokenDINOv2'],
        ),
        (dict(more=['--layers', '2', '4']), ['--layers 4', 'blocks 0 to 3']),
        (dict(more=['--cfg-options', 'model.backbone.reducer.grid=(9,9)']), ["larger than the image's 6x8 tokens"]),
    ],
)
def test_bad_input_is_one_line(town, refuses, change, words):
    for name, kind in (('upstream', 'VisionTransformer'), ('foreign', 'ResNet')):
        (town / f'{name}.py').write_text(f"_base_ = ['pooled.py']\nmodel = dict(backbone=dict(type='mmseg.{kind}'))\n")
    given = {**dict(config='pooled.py', checkpoint='weights.pth', image='data/images/val/0.jpg', more=[]), **change}
    refuses(
        'vis_tokens', *[town / given[key] for key in ('config', 'checkpoint', 'image')], *given['more'], words=words
    )


def test_a_missing_package_is_named(town, refuses, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'matplotlib' else find(name, *a))
    refuses('vis_tokens', town / 'pooled.py', 'x', 'y', words=['matplotlib not installed', "'mmtoken[analysis]'"])
