"""What the pages say in prose, and where each figure comes from.

A sentence of :data:`MEASURED` has a place for each of its figures, which are read from the JSON files. What no file of
results holds stands in :data:`GIVEN` with where it comes from instead: a paper or another program (``published``), a
test that holds it (its file and the words in it), a setting of the run (``setting``), or a training's log (``log``).
Pages are named by their folder.
"""

import functools
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


@functools.lru_cache(None)
def rows(file):
    folder = 'tools' if file.startswith('deployment/') else 'configs'
    return json.loads((ROOT / folder / f'{file}.json').read_text())['rows']


def row(file, name='', batch=None):
    """A row by the beginning of its name; the first without one."""
    found = (r for r in rows(file) if batch in (None, r.get('batch')))
    return next(r for r in found if (r.get('config') or r['name']).startswith(name))


def value(file, name, key):
    """Metric of a row, in percent for a detector's."""
    metric = row(file, name)['metrics'][key]
    return 100 * metric if key.startswith('coco') else metric


def loss(file, name, key):
    return value(file, '', key) - value(file, name, key)


def gap(file, better, worse, key):
    return value(file, better, key) - value(file, worse, key)


def macs(file, name):
    return row(file, name)['mac_ratio']


def speed(file, name):
    return row(file, name)['speedup']['ratio']


def ends(values):
    values = list(values)
    return min(values), max(values)


def efficiencies(file, word, batch=1):
    """The least and the greatest part of the MAC speed-up that became speed, among rows with a word in their names."""
    names = [(r.get('config') or r['name'], r) for r in rows(file) if r.get('batch') in (None, batch)]
    return ends(r['efficiency'] for name, r in names if word in name and 'input' not in name)


def losses(file, key, names):
    return ends(loss(file, name, key) for name in names)


MIOU, DICE, AP, PLATELETS = 'mIoU', 'Dice.vessel', 'coco/bbox_mAP', 'coco/Platelets_precision'
MASK_AP = 'coco/segm_mAP'
CURVE, BEST = 'mixed_scale/results/drive_curve', '0.fine=0.7, 1.keep=0.4'
DRIVE = 'baselines/results/dinov2-s14_subpatch_drive'
LARGE = 'mixed_scale/results/dinov2-s14_subpatch_drive-1120x1176'
OWN = f'{LARGE}_own-head'
CAMVID, SEGMENTER = 'baselines/results/dinov2-s14_linear_camvid', 'baselines/results/dinov2-s14_segmenter_camvid'
CELLS = 'baselines/results/dinov2-s14_retinanet_bccd'
MASKS = 'baselines/results/dinov2-s14_mask-rcnn_minicoco'
ROOM, COCO = 'baselines/results/dinov2-s14_dpt_rgbd', 'baselines/results/dinov2-s14_linear_minicoco'
TUNED, DENSE = 'dovit/results/dinov2-s14_fcn-deep-tuned_camvid', 'dinov2-s14_fcn-deep-tuned_camvid-336x252'
DEEP = 'dovit/results/dinov2-s14_fcn-deep_camvid'
SHORT = 'baselines/results/segmenter_vit-s_latency'
MASKS_FT = 'cropr/results/dinov2-s14_mask-rcnn-ft_minicoco'
CELLS_QUERIES = 'cropr/results/dinov2-s14_retinanet_bccd'
CROPPED, CELLS_FT = 'cropr/results/dinov2-s14_subpatch-ft_drive', 'cropr/results/dinov2-s14_retinanet-ft_bccd'
TILES, SWIN = 'expedit/results/dinov2-s14_linear_camvid_tiles_latency', 'expedit/results/swin-l_macs'
ONNX = 'deployment/results/dinov2-s14_linear_camvid_cpu'
PROP = ('dtop-prop-t95', 'dtop-prop-t98', 'dtop-prop-t99_', 'dtop-prop-t995')
DOVIT = ('dovit-t80', 'dovit-t90', 'dovit-t95', 'dovit-t98')


def over(file, name):
    """How far a row is above the dense model on a smaller picture that takes the same time."""
    return row(file, name)['verdict']['margin']


def over_tuned(name):
    """How far a row on DRIVE is above the line from the dense model to the one tuned on ×0.8, at the same time."""
    time = lambda n: row(f'{CROPPED}_latency', n)['ms_per_image']['median']  # noqa: E731
    small = value(CROPPED, 'dinov2-s14_subpatch-ft_drive-336x350', DICE)
    least = time('dinov2-s14_subpatch-ft_drive-420x434, ×0.8')
    part = (time(name) - least) / (time('') - least)
    return value(CROPPED, name, DICE) - small - part * (value(CROPPED, '', DICE) - small)


def gain_of_weights(file, settings):
    """How much weighing the keys gains Expedit, least and most."""
    return ends(value(file, f'expedit-prop-{s}_', MIOU) - value(file, f'expedit-{s}_', MIOU) for s in settings)


def misprint(names):
    """How far our count is from the printed one at most, in percent."""
    return max(abs(row(SWIN, name)['macs'] / 1e9 / row(SWIN, name)['printed'] - 1) * 100 for name in names)


MEASURED = {
    '.': [
        (
            '{:.2f} of the MACs and {:.1f} times as fast on a CPU for half a point of Dice; a smaller picture that is '
            'as fast loses seven',
            lambda: (macs(CURVE, BEST), speed(CURVE, BEST)),
        ),
        (
            'changes little ({:.2f} at ×0.8, {:.2f} at ×0.65)',
            lambda: [value(DRIVE, f'dinov2-s14_subpatch_drive-{size}', DICE) for size in ('672x700', '546x574')],
        ),
        (
            'SViT loses {:.1f} points of Dice at {:.1f} times the speed, {:.1f} less than a smaller picture',
            lambda: (loss(CROPPED, 'svit', DICE), speed(f'{CROPPED}_latency', 'svit'), over_tuned('svit')),
        ),
        (
            'at 1120×1176 it takes less time than the dense model at 840×882 and is {:.1f} points better',
            lambda: [value(LARGE, 'mixed-f65-tome-k50x8', DICE) - value(DRIVE, '', DICE)],
        ),
        (
            'ToMe: {:.1f} points of Dice at ×{:.2f} of the MACs and {:.1f} at ×{:.2f}; on CamVid {:.1f} mIoU at '
            '×{:.2f}; on blood cells {:.1f} points of AP at ×{:.2f}, where the same head on smaller pictures loses '
            '{:.0f} to {:.0f}',
            lambda: (
                *(f(DRIVE, name, *k) for name in ('tome-k50_', 'tome-k24x8') for f, k in ((loss, [DICE]), (macs, []))),
                loss(CAMVID, 'tome-r150x8', MIOU),
                macs(f'{CAMVID}_latency', 'tome-r150x8'),
                loss(f'{CELLS}_tome', 'keep=0.35', AP),
                macs(f'{CELLS}_tome', 'keep=0.35'),
                loss(f'{CELLS}_tome', 'input ×0.8', AP),
                loss(f'{CELLS}_tome', 'input ×0.5', AP),
            ),
        ),
        (
            'nothing on CamVid at ×{:.2f} and {:.1f} mIoU at ×{:.2f}',
            lambda: (
                macs(f'{CAMVID}_latency', 'expedit-prop-l6-g67'),
                loss(CAMVID, 'expedit-prop-l6-g50', MIOU),
                macs(f'{CAMVID}_latency', 'expedit-prop-l6-g50'),
            ),
        ),
        (
            'on DRIVE it loses {:.1f} at ×{:.2f}',
            lambda: (loss(DRIVE, 'expedit-prop-l6-g50', DICE), macs(DRIVE, 'expedit-prop-l6-g50')),
        ),
        (
            'tuned with it, it loses nothing at ×{:.2f} of the MACs on CamVid at 336×252, where the smaller picture '
            'loses {:.1f} at ×{:.2f}',
            lambda: (
                macs(f'{TUNED}_latency', 'dtop-t95'),
                loss(TUNED, f'{DENSE}, ×0.8', MIOU),
                macs(f'{TUNED}_latency', f'{DENSE}, ×0.8'),
            ),
        ),
        (
            'Expedit and ToMe reach {:.2f} and {:.2f} of their MAC speed-up',
            lambda: [row(SHORT, name)['efficiency'] for name in ('expedit', 'tome')],
        ),
    ],
    'configs/baselines': [
        (
            'is {:.1f} to {:.1f} mIoU above it and Expedit with weighed keys {:.1f} at its mildest',
            lambda: [over(SEGMENTER, name) for name in ('tome-r80', 'tome-r110', 'expedit-prop-l6-g67')],
        ),
        (
            'at {:.1f} times the MACs of 546×574 it is {:.0f} points above it',
            lambda: (
                macs(DRIVE, 'tome-k24x8') / macs(DRIVE, 'dinov2-s14_subpatch_drive-546x574'),
                loss(DRIVE, 'dinov2-s14_subpatch_drive-546x574', DICE) - loss(DRIVE, 'tome-k24x8', DICE),
            ),
        ),
        ('the same AP for ×{:.2f} of the MACs', lambda: [macs(f'{CELLS}_mixed-tome', '1.keep=0.5')]),
        ('the latter at ×{:.2f} of the MACs', lambda: [macs(CELLS, 'dinov2-s14_retinanet_bccd-434x322')]),
        (
            'Expedit loses up to {:.3f}, and average pooling',
            lambda: [loss(MASKS + '_expedit', 'grid=0.5', 'coco/segm_mAP') / 100],
        ),
        ('At ×0.5, for ×{:.2f} of the MACs, AP is within', lambda: [macs(CELLS, 'dinov2-s14_retinanet_bccd-336x252')]),
        (
            'loses the platelets ({:.3f} instead of {:.3f})',
            lambda: [row(f'{CELLS}_avgpool', name)['metrics'][PLATELETS] for name in ('grid=0.67', 'dense')],
        ),
        (
            'and Expedit {:.1f} to {:.1f} points',
            lambda: losses(f'{CELLS}_expedit', AP, [f'grid={grid}' for grid in (0.8, 0.67, 0.5)]),
        ),
        (
            'the picture loses nothing and the model is {:.1f} times as fast',
            lambda: [speed(f'{ROOM}_tome', 'input ×0.65')],
        ),
        ('loses nothing here, at ×{:.2f} of the multiply-adds', lambda: [macs(f'{COCO}_tome', 'input ×0.5')]),
        ('ToMe and Expedit lose up to {:.1f} points', lambda: [loss(f'{COCO}_tome', 'keep=0.35', MIOU)]),
    ],
    'configs/cropr': [
        (
            '{:.1f} points above them at 60 %, {:.1f} below at 20 %',
            lambda: [
                gap(CROPPED, a, b, 'Dice.vessel') for a, b in (('cropr-k60', 'random-k60'), ('random-k20', 'cropr-k20'))
            ],
        ),
        (
            'gains at each rate**, {:.1f} points at 20 %',
            lambda: [gap(CROPPED, 'cropr-rare-k20', 'cropr-k20', DICE)],
        ),
        (
            'by {:.1f} points at 60 %, {:.1f} at 40 % and {:.1f} at 10 %, and {:.1f} below at 20 %',
            lambda: [
                *(gap(CROPPED, f'cropr-rare-{k}', f'random-{k}', DICE) for k in ('k60', 'k40', 'k10')),
                gap(CROPPED, 'random-k20', 'cropr-rare-k20', DICE),
            ],
        ),
        ('**SViT loses {:.1f} points, less than Cropr at any rate', lambda: [loss(CROPPED, 'svit', DICE)]),
        (
            'SViT is {:.1f} points above, ToMe at half {:.1f}, {:.1f} at 60 %, {:.1f} at 40 % and level at 20 %',
            lambda: [over_tuned(name) for name in ('svit', 'tome-k50', 'cropr-rare-k60', 'cropr-rare-k40')],
        ),
        (
            'stay below random tokens**, by {:.1f}, {:.1f} and {:.1f} points of AP',
            lambda: [gap(CELLS_FT, f'random-{k}', f'cropr-{k}', AP) for k in ('k60', 'k40', 'k20')],
        ),
        (
            'gain {:.1f} points at 60 %, {:.1f} at 40 % and nothing at 20 %**: {:.1f} above random tokens at 60 %, '
            '{:.1f} and {:.1f} below them at the others',
            lambda: [
                *(gap(CELLS_FT, f'cropr-warm-{k}', f'cropr-{k}', AP) for k in ('k60', 'k40')),
                gap(CELLS_FT, 'cropr-warm-k60', 'random-k60', AP),
                *(gap(CELLS_FT, f'random-{k}', f'cropr-warm-{k}', AP) for k in ('k40', 'k20')),
            ],
        ),
        (
            'they are {:.1f} points above random tokens at 60 % and {:.1f} at 40 %',
            lambda: [gap(CELLS_FT, f'cropr-warm-{k}', f'random-{k}', PLATELETS) for k in ('k60', 'k40')],
        ),
        (
            '{:.1f} points below the full one, {:.1f} times as fast',
            lambda: [
                loss(CELLS_FT, 'dinov2-s14_retinanet-ft_bccd-546x406', AP),
                speed(f'{CELLS_FT}_latency', 'dinov2-s14_retinanet-ft_bccd-672x504, ×0.8 input'),
            ],
        ),
        ('nothing was trained with, loses {:.1f} points too', lambda: [loss(CELLS_FT, 'tome-k50x8', AP)]),
        (
            'Cropr is {:.1f} points below at 60 %, level at 40 % and {:.1f} above at 20 %',
            lambda: (
                gap(MASKS_FT, 'random-k60', 'cropr-k60', MASK_AP),
                gap(MASKS_FT, 'cropr-k20', 'random-k20', MASK_AP),
            ),
        ),
        (
            'lose nothing and are {:.1f} and {:.1f} times as fast',
            lambda: [
                speed(f'{MASKS_FT}_latency', n) for n in ('dinov2-s14_mask-rcnn-ft_minicoco-448x448, ×0.8', 'tome')
            ],
        ),
        (
            'by {:.1f} points of AP where 40 % are left and by {:.1f} where 20 % are',
            lambda: [gap(CELLS_QUERIES, f'cropr-{k}', f'random-{k}', AP) for k in ('k40', 'k20')],
        ),
    ],
    'configs/dovit': [
        (
            'it loses {:.1f} mIoU at ×{:.2f} and {:.1f} at ×{:.2f}',
            lambda: [
                part
                for name in ('dovit-t98', 'dovit-t95')
                for part in (loss(TUNED, name, MIOU), macs(f'{TUNED}_latency', name))
            ],
        ),
        ('loses nothing at ×{:.2f}', lambda: [macs(f'{TUNED}_latency', 'dtop-t95')]),
        ('it costs {:.1f} to {:.1f} mIoU at', lambda: losses(DEEP, MIOU, DOVIT)),
        (
            'Time follows: {:.2f} to {:.2f} of the MAC speed-up at batch 1',
            lambda: efficiencies(f'{DEEP}_latency', 'dovit'),
        ),
    ],
    'configs/dtop': [
        ('at ×{:.2f} of the MACs it has the mIoU of its twin', lambda: [macs(f'{TUNED}_latency', 'dtop-t95')]),
        (
            'without tuning (below) it loses {:.1f} at ×{:.2f}',
            lambda: (loss(DEEP, 'dtop-t95', MIOU), macs(f'{DEEP}_latency', 'dtop-t95')),
        ),
        ('behind the MACs ({:.2f} to {:.2f})', lambda: efficiencies(f'{TUNED}_latency', 'dtop')),
        (
            'Without it the published settings lose {:.1f} at −{:.0f} %',
            lambda: (loss(DEEP, 'dtop-t95', MIOU), 100 - 100 * macs(f'{DEEP}_latency', 'dtop-t95')),
        ),
        ('what they stand for lose {:.1f} to {:.1f} at', lambda: losses(DEEP, MIOU, PROP)),
        (
            'Time follows: {:.2f} to {:.2f} of the MAC speed-up at batch 1',
            lambda: efficiencies(f'{DEEP}_latency', 'dtop'),
        ),
    ],
    'configs/expedit': [
        (
            'It gained {:.1f} to {:.1f} mIoU under the linear head and {:.1f} to {:.1f} under the Segmenter head',
            lambda: (
                *gain_of_weights(CAMVID, ('l4-g67', 'l6-g50', 'l6-g67')),
                *gain_of_weights(SEGMENTER, ('l6-g50', 'l6-g67')),
            ),
        ),
        (
            'it is {:.1f} points worse than switched on without any',
            lambda: [value(f'{TUNED}_untuned', 'expedit', MIOU) - value(TUNED, 'expedit', MIOU)],
        ),
        (
            'which costs {:.1f} to {:.1f} GMACs more',
            lambda: ends(
                (
                    row(TILES, f'expedit-prop-l6-g{g}')['macs']
                    - row(f'{CAMVID}_latency', f'expedit-prop-l6-g{g}')['macs']
                )
                / 1e9
                for g in (50, 60, 67)
            ),
        ),
        (
            'DINO and ADE20K are theirs to {:.1f} %',
            lambda: [misprint([r['config'] for r in rows(SWIN) if 'dino-' in r['config'] or 'ade20k' in r['config']])],
        ),
    ],
    'configs/mixed_scale': [
        (
            'Three and a half times as fast for {:.1f} points, without training anything',
            lambda: [loss(OWN, 'mixed-f60-tome-k40x8', DICE)],
        ),
        (
            'The fitted selector reaches {:.1f} times for {:.1f}',
            lambda: [
                speed(f'{OWN}_latency', 'mixed-coarse-f40-tome-k50x6'),
                loss(OWN, 'mixed-coarse-f40-tome-k50x6', DICE),
            ],
        ),
        (
            '(×0.75 input) and is {:.1f} points better',
            lambda: [value(LARGE, 'mixed-f65-tome-k50x8', DICE) - value(DRIVE, '', DICE)],
        ),
    ],
    'configs/tome': [
        ('Half of the MACs cost {:.1f} mIoU', lambda: [loss(TUNED, 'tome-k35x8', MIOU)]),
    ],
    'tools/deployment': [
        (
            'Every method keeps at least {:.2f} of what it saves',
            lambda: [
                min(row(ONNX, n)['efficiency'] for n in ('tome', 'expedit-prop-l6-g67', 'expedit-prop-l6-g50', 'mixed'))
            ],
        ),
        (
            'is another {:.1f} to {:.1f} times as fast',
            lambda: ends(
                speed(ONNX, f'{name}-int8') / speed(ONNX, name)
                for name in (
                    'dense',
                    'dense-x0.65',
                    'tome-r110',
                    'expedit-prop-l6-g67',
                    'expedit-prop-l6-g50',
                    'mixed-f50',
                )
            ),
        ),
    ],
    'tools/analysis_tools': [
        ('at 512×512: : {:.3f} GMACs', lambda: [row(SHORT)['macs'] / 1e9]),
    ],
    'demo': [('the dense model with it has {:.2f} mIoU', lambda: [value(CAMVID, '', MIOU)])],
    'mmtoken/methods/tome': [
        (
            'differ by {:.1f} %',
            lambda: [row('tome/results/dinov2-s14_linear_camvid_bf16')['median (%)']],
        ),
    ],
}

HEADS = 'tests/test_models/test_atm_heads.py'
GIVEN = {
    '.': [('setting', 'trained on ×0.65')],
    'configs/baselines': [
        ('setting', 'at ×0.8 and ×0.65 even the full picture'),
        ('setting', 'shrinks the picture to ×0.65 first'),
        ('setting', 'Shrink first: at ×0.65'),
        ('setting', 'of the places above 0.5'),
        ('log', 'the loss of the classes falls from 0.74 to 0.29'),
        ('published: COCO 2017', 'a published one sees 117,000'),
        ('setting', 'Differences of 0.002 are noise'),
        ((HEADS, 'rel=0.001'), 'agree with them to 0.1 %'),
    ],
    'configs/cropr': [
        ('setting', '×0.8 is 336×350, ×0.65 is 280×280'),
        ('log', 'the auxiliary losses end at 0.381 to 0.382'),
        ('log', '(12.5 % vessel, 0.3775)'),
        ('log', 'Its losses end at 0.42 to 0.45'),
        ('log', 'the shares is 0.56 (75 % of the patches within the field of view hold a vessel), and 0.49 if'),
        ('setting', '×0.8 is 532×406, one column of patches less than above, ×0.65 is 434×322'),
        ('setting', 'The picture at ×0.8, tuned at its size'),
        ('setting', 'within half a point of the dense model at 1.5 times'),
        ('log', 'Their losses end at 0.90 to 0.92'),
        ('setting', 'so differences of 0.002 say nothing'),
        ('setting', '×0.8 is 364×364'),
        ('log', 'they end between 0.84 and 1.07'),
        ('log', 'Its auxiliary losses end at 0.82 to 0.90, below the 0.98 of the shares'),
        ('log', 'is 0.98 (51 % of the cells hold none, 37 % red cells, 11 % white ones, 0.6 % platelets)'),
    ],
    'configs/dovit': [
        ('setting', 'tuned at 0.95'),
        ('setting', 'at threshold 0.95'),
        ('published: arXiv 2308.01944', '(−40 % of the MACs for at most 0.8 mIoU)'),
        ('published: arXiv 2308.01944', '−40 % to −60 % of the MACs for at most 0.8 mIoU'),
    ],
    'configs/dtop': [
        ('setting', 'tuned at 0.95'),
        ('published: arXiv 2308.01045', "the paper's mark is −25 % of the MACs for at most 0.3 mIoU"),
        ('published: arXiv 2308.01045', 'The paper loses 0.3 to 0.5 mIoU'),
    ],
    'configs/expedit': [
        ('setting', 'at grid 0.67'),
        ('published: arXiv 2210.01035', "the paper's is 0.02"),
        (('tests/test_hosts/test_swin.py', 'published'), 'one block more clustered, to 0.4 %'),
    ],
    'configs/mixed_scale': [('setting', '×0.75, ×0.6 and ×0.49 of this size')],
    'configs/sat_hmr': [
        ('setting', 'people from a confidence of 0.3 on'),
        ('setting', 'for people below a scale of 0.3'),
        ('setting', "The threshold of SAT's confidence, 0.15, was set"),
        ('log', 'reached an F1 of 0.560 and a MVE of 296.0'),
        (('tests/test_hmr/test_model/test_human_mesh.py', '221.9'), 'has 221.9 M parameters'),
    ],
    'tools/analysis_tools': [
        ('setting', '×0.8, ×0.65 and ×0.5 of the sides'),
        ('published: fvcore counts the same', '48.214 GMACs'),
    ],
    'tools/deployment': [('log', 'reached 0.58 and 0.71 before it clustered in tiles')],
    'demo': [('setting', '×0.65 as large')],
    'mmtoken/hosts': [('setting', 'such as 0.67')],
    'mmtoken/methods/cropr': [
        (('tests/test_methods/test_cropr.py', '203.4'), '361.1 → 203.4 GMACs on EVA-02-L (189.7 with ), 61.4 → 34.5')
    ],
    'mmtoken/methods/expedit': [('published: arXiv 2210.01035, released models', 'T from 0.005 to 1')],
    'mmtoken/methods/sat': [
        ('published: arXiv 2411.19824', '(65 to 263 GMACs) to the 0.1 GMACs'),
        ('published: arXiv 2411.19824', '(6.4 of these 7.1 GMACs'),
    ],
    'mmtoken/models/heads': [('setting', "(0.05 % of ViT-B's MACs)")],
}
