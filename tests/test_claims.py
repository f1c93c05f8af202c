"""The figures in the prose of the README are those of the JSON files: each sentence that has one is built from them."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'README.md'

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason='needs a checkout')

CURVE = 'mixed_scale/results/drive_curve'
DRIVE = 'baselines/results/dinov2-s14_subpatch_drive'
LARGE = 'mixed_scale/results/dinov2-s14_subpatch_drive-1120x1176'
CAMVID = 'baselines/results/dinov2-s14_linear_camvid'
CELLS = 'baselines/results/dinov2-s14_retinanet_bccd_tome'
TUNED, DENSE = 'dovit/results/dinov2-s14_fcn-deep-tuned_camvid', 'dinov2-s14_fcn-deep-tuned_camvid-336x252'
SHORT = 'baselines/results/segmenter_vit-s_latency'


def row(file, name):
    """A row by the beginning of its name; the first without one."""
    rows = json.loads((ROOT / f'configs/{file}.json').read_text())['rows']
    return next(row for row in rows if (row.get('config') or row['name']).startswith(name))


def value(file, name, key):
    """Metric of a row, in percent for a detector's."""
    metric = row(file, name)['metrics'][key]
    return 100 * metric if key.startswith('coco') else metric


def loss(file, name, key):
    return value(file, '', key) - value(file, name, key)


def macs(file, name):
    return row(file, name)['mac_ratio']


DICE, AP = 'Dice.vessel', 'coco/bbox_mAP'
BEST = '0.fine=0.7, 1.keep=0.4'
#: Sentences with a place for each of the figures that follow.
CLAIMS = [
    (
        '{:.2f} of the MACs and {:.1f} times as fast on a CPU for half a point of Dice; a smaller picture that is as '
        'fast loses seven',
        lambda: (macs(CURVE, BEST), row(CURVE, BEST)['speedup']['ratio']),
    ),
    (
        'changes little ({:.2f} at ×0.8, {:.2f} at ×0.65)',
        lambda: [value(DRIVE, f'dinov2-s14_subpatch_drive-{size}', DICE) for size in ('672x700', '546x574')],
    ),
    (
        'at 1120×1176 it takes less time than the dense model at 840×882 and is {:.1f} points better',
        lambda: [value(LARGE, 'mixed-f65-tome-k50x8', DICE) - value(DRIVE, '', DICE)],
    ),
    (
        'ToMe: {:.1f} points of Dice at ×{:.2f} of the MACs and {:.1f} at ×{:.2f}; on CamVid {:.1f} mIoU at ×{:.2f}; '
        'on blood cells {:.1f} points of AP at ×{:.2f}, where the same head on smaller pictures loses {:.0f} to {:.0f}',
        lambda: (
            *(f(DRIVE, name, *k) for name in ('tome-k50_', 'tome-k24x8') for f, k in ((loss, [DICE]), (macs, []))),
            loss(CAMVID, 'tome-r150x8', 'mIoU'),
            macs(f'{CAMVID}_latency', 'tome-r150x8'),
            loss(CELLS, 'keep=0.35', AP),
            macs(CELLS, 'keep=0.35'),
            loss(CELLS, 'input ×0.8', AP),
            loss(CELLS, 'input ×0.5', AP),
        ),
    ),
    (
        'nothing on CamVid at ×{:.2f} and {:.1f} mIoU at ×{:.2f}',
        lambda: (
            macs(f'{CAMVID}_latency', 'expedit-prop-l6-g67'),
            loss(CAMVID, 'expedit-prop-l6-g50', 'mIoU'),
            macs(f'{CAMVID}_latency', 'expedit-prop-l6-g50'),
        ),
    ),
    (
        'on DRIVE it loses {:.1f} at ×{:.2f}',
        lambda: (loss(DRIVE, 'expedit-prop-l6-g50', DICE), macs(DRIVE, 'expedit-prop-l6-g50')),
    ),
    (
        'tuned with it, it loses nothing at ×{:.2f} of the MACs on CamVid at 336×252, where the smaller picture loses '
        '{:.1f} at ×{:.2f}',
        lambda: (
            macs(f'{TUNED}_latency', 'dtop-t95'),
            loss(TUNED, f'{DENSE}, ×0.8', 'mIoU'),
            macs(f'{TUNED}_latency', f'{DENSE}, ×0.8'),
        ),
    ),
    (
        'Expedit and ToMe reach {:.2f} and {:.2f} of their MAC speed-up',
        lambda: [row(SHORT, name)['efficiency'] for name in ('expedit', 'tome')],
    ),
]
#: What a figure may be without being a result: a size of a picture, a version, a licence, a paper.
OTHER = re.compile(r'on ×0\.65|torch 2\.13\.0|arXiv \d+\.\d+|(Apache-|BY-NC )\d\.0|wheel 0\.1\.1')


def prose():
    """The page without code, tables, headings and targets of links, in one line."""
    text = re.sub(r'```.*?```', '', PAGE.read_text(encoding='utf-8'), flags=re.S)
    text = '\n'.join(line for line in text.splitlines() if not line.startswith(('|', '#', '!', '[!')))
    return ' '.join(re.sub(r'\]\([^)]*\)|`[^`]*`', '', text).split())


@pytest.mark.parametrize('sentence, figures', CLAIMS, ids=lambda x: x[:30] if isinstance(x, str) else '')
def test_a_sentence_says_what_was_measured(sentence, figures):
    assert sentence.format(*figures()) in prose()


def test_half_a_point_and_seven_and_nothing():
    assert abs(loss(TUNED, 'dtop-t95', 'mIoU')) < 0.05
    assert 0.45 < loss(CURVE, BEST, DICE) < 0.55
    assert round(value(CURVE, '', DICE) - row(CURVE, BEST)['verdict']['rival']) == 7


def test_every_figure_belongs_to_a_sentence():
    text = prose()
    for sentence, figures in CLAIMS:
        text = text.replace(sentence.format(*figures()), '')
    assert not re.findall(r'.{30}\d\.\d.{10}', OTHER.sub('', text))


def test_lines_are_short():
    code = False
    for number, line in enumerate(PAGE.read_text(encoding='utf-8').splitlines(), 1):
        code ^= line.startswith('```')
        assert code or line.startswith('|') or len(line) <= 120, f'line {number} has {len(line)} characters'
