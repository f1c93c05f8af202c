"""mmdet's COCO dataset, with a look at the annotations; the tools put it in upstream's place."""

import logging
import math
from typing import Any

from mmdet.datasets import CocoDataset as StockCocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log

from mmtoken.registry import DATASETS

from .loading import first_line


class CheckedCOCO(COCO):
    """pycocotools' reader of annotations; says in one line what is wrong with a file.

    Args:
        annotation_file (str): A JSON file with the lists ``images``, ``annotations`` and ``categories``.

    Raises:
        ValueError: If it is none, or an annotation has no box ``[x, y, width, height]``, no area, or an image or a
            category that is not listed.
    """

    def __init__(self, annotation_file: str):
        self.file = annotation_file
        try:
            super().__init__(annotation_file)
        except (ValueError, AssertionError, KeyError, TypeError, AttributeError) as error:
            reason = f'{error} is missing' if isinstance(error, KeyError) else first_line(error)
            raise ValueError(f'{self.file}: is no COCO annotation file ({reason})') from error
        for key in ('images', 'annotations', 'categories'):
            if not isinstance(self.dataset.get(key), list):
                raise ValueError(f'{self.file}: is no COCO annotation file: it has no list {key!r}')
        outside = sum(map(self.is_outside, self.dataset['annotations']))
        if outside:
            number = len(self.dataset['annotations'])
            message = f'{self.file}: {outside} of {number} boxes lie outside of their pictures'
            remedy = 'bbox is [x, y, width, height] in pixels of the picture'
            if outside == number:
                raise ValueError(f'{message}; {remedy}')
            print_log(f'{message} and are left out; {remedy}', 'current', logging.WARNING)

    def is_outside(self, annotation: dict) -> bool:
        """Returns whether no pixel of a box lies in its picture.

        Raises:
            ValueError: See :class:`CheckedCOCO`.
        """
        what = f'{self.file}: annotation {annotation.get("id")}'
        for key, known in (('image_id', self.imgs), ('category_id', self.cats)):
            if annotation.get(key) not in known:
                raise ValueError(f'{what} has {key}={annotation.get(key)!r}, which is not listed; mend or remove it')
        box = annotation.get('bbox')
        numbers = isinstance(box, list) and all(isinstance(n, (int, float)) and math.isfinite(n) for n in box)
        if not numbers or len(box) != 4:
            raise ValueError(f'{what} has bbox={box!r}; give [x, y, width, height] in pixels')
        if not isinstance(annotation.get('area'), (int, float)):
            raise ValueError(f'{what} has no area, by which mmdet leaves boxes out and scores by size; give it')
        image = self.imgs[annotation['image_id']]
        x, y, width, height = box
        return min(x + width, image['width']) <= max(x, 0) or min(y + height, image['height']) <= max(y, 0)

    def get_cat_ids(self, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()) -> list:
        """Returns ids of categories; mmdet numbers those that it finds, so one that is missing would shift the rest.

        Raises:
            ValueError: If the file lacks a class of the dataset.
        """
        known = [category['name'] for category in self.dataset['categories']]
        names = [cat_names] if isinstance(cat_names, str) else cat_names
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f'{self.file}: has no class {missing[0]!r} of the dataset, but {", ".join(map(repr, known[:10]))}'
                f'{" …" if len(known) > 10 else ""}; set metainfo=dict(classes=(…)) to the names in the file'
            )
        return super().get_cat_ids(cat_names, sup_names, cat_ids)


@DATASETS.register_module()
class CocoDataset(StockCocoDataset):
    """mmdet's ``CocoDataset``, which also looks at the annotations.

    Args:
        *args: Those of mmdet's class.
        **kwargs: Those of mmdet's class.

    Raises:
        ValueError: In one line that names the file, if it is no COCO file, lacks a class, a picture or, for masks, a
            ``segmentation``.
    """

    COCOAPI = CheckedCOCO

    def load_data_list(self) -> list[dict]:
        data = super().load_data_list()
        if any(getattr(step, 'with_mask', False) for step in self.pipeline.transforms):
            bare = next((d for d in data for instance in d['instances'] if 'mask' not in instance), None)
            if bare is not None:
                raise ValueError(
                    f'{self.ann_file}: image {bare["img_id"]} has objects without a segmentation, which with_mask=True '
                    'of LoadAnnotations needs; add them, or train a detector of boxes, such as RetinaNet'
                )
        return data

    def filter_data(self) -> list[dict]:
        kept = super().filter_data()
        if not kept:
            raise ValueError(
                f'{self.ann_file}: of {len(self.data_list)} pictures none is left; see filter_cfg={self.filter_cfg}, '
                'which leaves out pictures that are small or hold no object'
            )
        return kept
