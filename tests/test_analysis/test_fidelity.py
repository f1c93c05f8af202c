"""tools/misc/fidelity.py: the output of each model against that of the first one."""

import json

import cv2
import pytest
import torch
import torch.nn.functional as F

from mmtoken.analysis import segmentor_macs
from mmtoken.analysis.loading import build_model, read_config


def labels(town, config, size=(84, 112)):
    """Label map of each picture, run at a size and enlarged again; and the MACs of one."""
    model, maps = build_model(read_config(town / config), str(town / 'weights.pth')), []
    for path in sorted((town / 'data/images/val').glob('*.jpg')):
        image = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1).float()[None]
        image = (image - 128) / 64
        if size != (84, 112):
            image = F.interpolate(image, size, mode='bilinear', antialias=True)
        with torch.no_grad():
            out = model.encode_decode(image, [dict(img_shape=size, pad_shape=size)])
        maps.append(F.interpolate(out, (84, 112), mode='bilinear', align_corners=False).argmax(1))
    return torch.cat(maps), segmentor_macs(model, image).total


def test_each_model_against_the_first(town, call, tmp_path, capsys):
    out = tmp_path / 'out.json'
    args = [town / 'dense.py', town / 'pooled.py', '--checkpoint', town / 'weights.pth', '--smaller-input', 0.5]
    call('../misc/fidelity', *args, '--images', town / 'data/images/val', '--num', 4, '--device', 'cpu', '--out', out)
    found = {row['config']: row for row in json.loads(out.read_text())['rows']}
    assert list(found) == ['dense', 'pooled', 'dense, ×0.5 input']
    dense, macs = labels(town, 'dense.py')
    for name, ours in (
        ('dense', (dense, macs)),
        ('pooled', labels(town, 'pooled.py')),
        ('dense, ×0.5 input', labels(town, 'dense.py', (42, 56))),
    ):
        agreement = (ours[0] == dense).float().mean()
        assert found[name]['metrics'] == {'label agreement': pytest.approx(float(agreement), abs=1e-6)}
        assert found[name]['macs'] == ours[1] and found[name]['mac_ratio'] == ours[1] / macs
    assert found['pooled']['metrics']['label agreement'] < 1
    assert '| pooled ' in capsys.readouterr().out


def test_a_broken_run_goes_on_where_nothing_has_changed(town, call, tmp_path):
    out = tmp_path / 'out.json'
    args = [town / 'dense.py', town / 'pooled.py', '--checkpoint', town / 'weights.pth', '--device', 'cpu']
    args += ['--images', town / 'data/images/val', '--out', out]
    call('../misc/fidelity', *args, '--num', 2)
    whole = out.read_text()
    cut = json.loads(whole)
    del cut['rows'][1]
    cut['rows'][0]['macs'] = 1  # a mark that shows whether the row was made again
    out.write_text(json.dumps(cut))
    call('../misc/fidelity', *args, '--num', 2)
    again = json.loads(out.read_text())['rows']
    assert again[0]['macs'] == 1 and again[1] == json.loads(whole)['rows'][1]
    call('../misc/fidelity', *args, '--num', 3)
    assert json.loads(out.read_text())['rows'][0]['macs'] > 1


def test_maps_of_the_backbones_with_random_weights(town, call, tmp_path):
    """The same in all models; nearer to those of the dense one the less is reduced."""
    out = tmp_path / 'out.json'
    args = [town / 'dense.py', town / 'pooled.py', '--features', '--smaller-input', 0.5, '--shape', 84, 112]
    call('../misc/fidelity', *args, '--images', town / 'data/images/val', '--num', 2, '--device', 'cpu', '--out', out)
    dense, pooled, smaller = json.loads(out.read_text())['rows']
    assert dense['metrics'] == {'cosine 0': pytest.approx(1)}
    assert 0 < pooled['metrics']['cosine 0'] < 1 - 1e-4 and -1 < smaller['metrics']['cosine 0'] < 1 - 1e-4
    assert dense['macs'] < labels(town, 'dense.py')[1], 'without the head'
    assert pooled['mac_ratio'] == pooled['macs'] / dense['macs'] < 1


@pytest.mark.parametrize(
    'args, words',
    [
        (['--num', 0], ['--num 0']),
        (['--smaller-input', 1.5], ['--smaller-input 1.5']),
        (['--images', 'gone'], ['gone', 'no pictures']),
    ],
)
def test_what_may_be_typed(town, refuses, tmp_path, args, words):
    images = [] if '--images' in args else ['--images', town / 'data/images/val']
    args = [town / 'dense.py', '--checkpoint', town / 'weights.pth', *images, *args, '--out', tmp_path / 'a.json']
    refuses('../misc/fidelity', *args, words=words)


def test_outputs_of_random_weights_are_not_compared(town, refuses, tmp_path):
    args = [town / 'dense.py', '--images', town / 'data/images/val', '--out', tmp_path / 'a.json']
    refuses('../misc/fidelity', *args, words=['--checkpoint', 'random weights', '--features'])
