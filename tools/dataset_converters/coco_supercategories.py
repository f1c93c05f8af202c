"""Turn COCO's panoptic maps into label maps of its 27 super-categories: person, vehicle, …, sky.

    python tools/dataset_converters/coco_supercategories.py data/coco data/coco_supercategories

reads ``annotations/panoptic_{train,val}[2017].json`` with the PNGs in the folders of the same names, and writes
``labels/{train,val}/*.png`` and links to the pictures in ``images/{train,val}``, which
``configs/_base_/datasets/minicoco_semantic.py`` reads. Classes are numbered in the order in which COCO lists them; 255
is what COCO leaves without a segment, and crowds.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import write_image

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


def convert(src: Path, dst: Path, split: str) -> tuple[int, list[str]]:
    """Converts one split; returns the number of its pictures and the names of the classes."""
    end = next((end for end in ('', '2017') if (src / f'annotations/panoptic_{split}{end}.json').is_file()), None)
    if end is None:
        fail(f'no file annotations/panoptic_{split}.json or panoptic_{split}2017.json in {src}')
    data = json.loads((src / f'annotations/panoptic_{split}{end}.json').read_text())
    names = list(dict.fromkeys(category['supercategory'] for category in data['categories']))
    classes = {category['id']: names.index(category['supercategory']) for category in data['categories']}
    for annotation in data['annotations']:
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
    return len(data['annotations']), names


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', type=Path, help='folder of COCO with annotations, train and val')
    parser.add_argument('dst', type=Path, help='folder to write')
    args = parser.parse_args(argv)
    for split in ('train', 'val'):
        number, names = convert(args.src, args.dst, split)
        print(f'{split}: {number} pictures, {len(names)} classes')
    print(f'ready: data_root={str(args.dst)!r}')


if __name__ == '__main__':
    main()
