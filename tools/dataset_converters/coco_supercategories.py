"""Turn COCO's classes into its super-categories: person, vehicle, …

    python tools/dataset_converters/coco_supercategories.py data/coco data/coco_supercategories

reads, of ``annotations/{panoptic,instances}_{train,val}[2017].json``, those that are there. Panoptic maps, PNGs in the
folders of the same names, become label maps of 27 classes: ``labels/{train,val}/*.png``, with links to the pictures in
``images/{train,val}``, which ``configs/_base_/datasets/minicoco_semantic.py`` reads; 255 is what COCO leaves without a
segment, and crowds. Instances become ``annotations/instances_{train,val}.json`` of 12 classes, which
``configs/_base_/datasets/minicoco.py`` reads with COCO's own pictures. Classes are numbered in the order in which COCO
lists them.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import write_image, write_json

IGNORED = 255


def fail(message: str):
    raise UserError(f'coco_supercategories.py: {message}')


def label_map(path: Path, segments: list[dict], classes: dict[int, int]) -> np.ndarray:
    """Returns the classes ``(H, W)``, uint8, of a panoptic PNG.

    Args:
        path (Path): Its colours are ids: red + 256 · green + 65536 · blue.
        segments (list[dict]): With ``id``, ``category_id`` and ``iscrowd``.
        classes (dict[int, int]): Number of the class by category.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        fail(f'no readable panoptic map: {path}')
    ids = picture[..., ::-1].astype(np.int64) @ [1, 256, 65536]
    known = {0: IGNORED}
    for segment in segments:
        known[segment['id']] = IGNORED if segment.get('iscrowd') else classes[segment['category_id']]
    present, place = np.unique(ids, return_inverse=True)
    if strange := [i for i in present.tolist() if i not in known]:
        fail(f'{path} holds the segment {strange[0]}, which the JSON does not list for it')
    return np.array([known[i] for i in present.tolist()], np.uint8)[place].reshape(ids.shape)


def read(src: Path, kind: str, split: str) -> tuple[dict, list[str], dict[int, int], str]:
    """Reads the annotations of a split.

    Args:
        src (Path): Folder of COCO.
        kind (str): ``panoptic`` or ``instances``.
        split (str): ``train`` or ``val``.

    Returns:
        tuple: What the file holds, empty if there is none; names of the super-categories; number of that of each
        category; and the year in the name of the file.
    """
    for end in ('', '2017'):
        path = src / f'annotations/{kind}_{split}{end}.json'
        if path.is_file():
            data = json.loads(path.read_text())
            names = list(dict.fromkeys(category['supercategory'] for category in data['categories']))
            classes = {category['id']: names.index(category['supercategory']) for category in data['categories']}
            return data, names, classes, end
    return {}, [], {}, ''


def convert_instances(src: Path, dst: Path, split: str) -> tuple[int, list[str]]:
    """Converts the instances of a split; returns the number of its pictures and the names of the classes."""
    data, names, classes, _ = read(src, 'instances', split)
    if data:
        data['categories'] = [dict(id=number, name=name, supercategory=name) for number, name in enumerate(names, 1)]
        for annotation in data['annotations']:
            annotation['category_id'] = classes[annotation['category_id']] + 1
        write_json(dst / f'annotations/instances_{split}.json', data)
    return len(data.get('images', [])), names


def convert_panoptic(src: Path, dst: Path, split: str) -> tuple[int, list[str]]:
    """Converts the panoptic maps of a split; returns the number of its pictures and the names of the classes."""
    data, names, classes, end = read(src, 'panoptic', split)
    annotations = data.get('annotations', [])
    for annotation in annotations:
        stem = Path(annotation['file_name']).stem
        picture = src / f'{split}{end}' / f'{stem}.jpg'
        if not picture.is_file():
            fail(f'no picture {picture}')
        labels = label_map(
            src / f'annotations/panoptic_{split}{end}' / f'{stem}.png', annotation['segments_info'], classes
        )
        write_image(dst / 'labels' / split / f'{stem}.png', labels)  # before the picture, which would be trained on
        link = dst / 'images' / split / picture.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(picture.resolve())
    return len(annotations), names


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', type=Path, help='folder of COCO with annotations, train and val')
    parser.add_argument('dst', type=Path, help='folder to write')
    args = parser.parse_args(argv)
    for split in ('train', 'val'):
        found = False
        for kind, convert in (('panoptic', convert_panoptic), ('instances', convert_instances)):
            number, names = convert(args.src, args.dst, split)
            if names:
                found = True
                print(f'{split}: {kind} of {number} pictures, {len(names)} classes')
        if not found:
            fail(f'no file annotations/panoptic_{split}.json or instances_{split}.json, nor with 2017, in {args.src}')
    print(f'ready: data_root={str(args.dst)!r}')


if __name__ == '__main__':
    main()
