"""What the tools do for detectors beside what they do for segmentors."""

import copy
import os
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, Registry

from .configs import datasets_of
from .errors import UserError


def is_detection(cfg: Config) -> bool:
    """Returns whether a config is one of mmdet's."""
    return cfg.get('default_scope') == 'mmdet'


def check_detection(cfg: Config, splits: list[str]) -> None:
    """Checks classes and annotation files of a detector's config, and has its COCO files read and scored by ours.

    Args:
        cfg (Config): The whole config; mmdet's ``CocoDataset`` and ``CocoMetric`` become mmtoken's.
        splits (list[str]): The loaders to look at, of ``train``, ``val`` and ``test``.

    Raises:
        UserError: If a head has another number of classes than a dataset, or a metric's annotation file is missing.
    """
    if not is_detection(cfg):
        return
    from mmdet.datasets import CocoDataset
    from mmdet.evaluation import CocoMetric

    heads = list(_heads(cfg.model, 'model'))
    for split in splits:
        for key, dataset in datasets_of(cfg.get(f'{split}_dataloader') or {}, f'{split}_dataloader'):
            kind = _class_of(dataset, DATASETS)
            meta = {**(getattr(kind, 'METAINFO', None) or {}), **(dataset.get('metainfo') or {})}
            classes = meta.get('classes') or ()
            for name, number in heads:
                if classes and not isinstance(classes, str) and number != len(classes):
                    raise UserError(
                        f'{name}.num_classes={number}, but {key} has {len(classes)} classes; set it to {len(classes)}, '
                        f'or {key}.metainfo=dict(classes=(…)) to the names of yours'
                    )
            if kind is CocoDataset:
                dataset['type'] = 'mmtoken.CocoDataset'
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            if _class_of(evaluator, METRICS) is CocoMetric:
                evaluator['type'] = 'mmtoken.CocoMetric'
            file = evaluator.get('ann_file')
            if isinstance(file, str) and '://' not in file and not os.path.isfile(file):
                raise UserError(
                    f'{split}_evaluator.ann_file: no such file: {file}; set it to where the annotations lie'
                )


def _class_of(part: dict, registry: Registry) -> Any:
    """The class that a config names, by itself or by its name in mmdet's scope."""
    kind = part.get('type')
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry('mmdet') as inner:
        return inner.get(kind)


def _heads(part: Any, key: str) -> Iterator[tuple[str, int]]:
    """Every (config key, number of classes) of the heads for boxes and masks."""
    if isinstance(part, (list, tuple)):
        for i, item in enumerate(part):
            yield from _heads(item, f'{key}[{i}]')
    elif isinstance(part, dict):
        if key.split('.')[-1].split('[')[0] in ('bbox_head', 'mask_head') and isinstance(part.get('num_classes'), int):
            yield key, part['num_classes']
        for name, item in part.items():
            yield from _heads(item, f'{key}.{name}')


def add_tta(cfg: Config) -> None:
    """Gives a detector's config the test-time augmentation of mmdet's ``tools/test.py``, a flip, if it has none.

    Raises:
        UserError: If the model gives masks, which mmdet's merges none of, as it would say after the first picture.
    """
    cfg.setdefault('tta_model', dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5))))
    parts = {'model': cfg.model, 'model.roi_head': cfg.model.get('roi_head') or {}}
    masks = [f'{name}.{key}' for name, part in parts.items() for key in ('mask_head', 'panoptic_head') if part.get(key)]
    if masks and cfg.tta_model.type in ('DetTTAModel', 'mmdet.DetTTAModel'):
        raise UserError(f"--tta: mmdet's DetTTAModel merges boxes only, and {masks[0]} gives masks; leave --tta out")
    cfg.tta_model.setdefault('tta_cfg', {}).setdefault('max_per_img', 100)
    if cfg.get('tta_pipeline') is None:
        *steps, pack = copy.deepcopy(cfg.test_dataloader.dataset.pipeline)
        keys = (*pack.get('meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')), 'flip')
        pack = dict(pack, meta_keys=(*keys, 'flip_direction'))
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def dump_predictions(cfg: Config, path: str) -> None:
    """Has the predictions of a test written as mmdet's ``--out`` does.

    Raises:
        UserError: If the file's name does not say that it holds a pickle.
    """
    if not path.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {path}: predictions of a detector go into a pickle; give a name that ends with .pkl')
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    cfg.test_evaluator = [*evaluators, dict(type='DumpDetResults', out_file_path=path)]
