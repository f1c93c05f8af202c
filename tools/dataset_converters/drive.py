"""Bring DRIVE (retinal vessels) into the folder that ``configs/_base_/datasets/drive.py`` reads.

    python tools/dataset_converters/drive.py DRIVE data/drive

reads the challenge's folder, ``{training,test}/images/*.tif`` with ``1st_manual/*.gif`` (the vessels) and
``mask/*.gif`` (the field of view), and writes ``images/{train,val}/*.jpg`` of quality 95 with
``labels/{train,val}/*.png``: 0 background, 1 vessel, 255 outside the field of view. The 20 training pictures are
``train``; of the 20 test pictures the even ones are ``val``, as in the results of this repository, and the odd ones are
left for a last test. A folder that has this layout already is checked and linked to. DRIVE is for research only, which
keeps it out of this repository.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import write_image

SPLITS = dict(train='training', val='test')
IGNORED = 255


def fail(message: str):
    raise UserError(f'drive.py: {message}')


def read(path: Path, flag: int) -> np.ndarray:
    """A picture of any format that OpenCV reads; also the first frame of a GIF, for builds that lack GIFs."""
    picture = cv2.imread(str(path), flag) if path.is_file() else None
    if picture is None and path.suffix == '.gif' and path.is_file():
        from PIL import Image

        picture = np.asarray(Image.open(path).convert('L'))
    if picture is None:
        fail(f'no readable picture: {path}')
    return picture


def check(images: Path, labels: Path) -> int:
    """Returns how many pictures one split of a finished folder has; each needs a label map of its size."""
    found = sorted(images.glob('*.jpg'))
    if not found:
        fail(f'no .jpg images in {images}')
    for image in found:
        path = labels / f'{image.stem}.png'
        label = read(path, cv2.IMREAD_UNCHANGED)
        if label.ndim != 2 or read(image, cv2.IMREAD_COLOR).shape[:2] != label.shape:
            fail(f'{path} is not a map of class ids of the size of {image}')
        if odd := set(np.unique(label).tolist()) - {0, 1, IGNORED}:
            fail(f'{path} holds the id {min(odd)}: only 0 (background), 1 (vessel) and {IGNORED} (ignored) are known')
    return len(found)


def convert(src: Path, dst: Path, split: str) -> int:
    """Converts one split; returns its number of pictures."""
    found = sorted(src.glob('images/*.tif'))
    if split == 'val':
        found = [path for path in found if int(path.stem.split('_')[0]) % 2 == 0]
    if not found:
        fail(f'no .tif images in {src / "images"}')
    for path in found:
        number = path.stem.split('_')[0]
        image = read(path, cv2.IMREAD_COLOR)
        vessels = read(src / '1st_manual' / f'{number}_manual1.gif', cv2.IMREAD_GRAYSCALE)
        field = read(src / 'mask' / f'{path.stem}_mask.gif', cv2.IMREAD_GRAYSCALE)
        if not image.shape[:2] == vessels.shape == field.shape:
            fail(f'{path}, its vessels and its field of view have different sizes')
        label = np.where(field > 127, (vessels > 127).astype(np.uint8), np.uint8(IGNORED))
        # the label first: an image without one would be trained on
        write_image(dst / 'labels' / split / f'{number}.png', label)
        write_image(dst / 'images' / split / f'{number}.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return len(found)


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', type=Path, help='the folder DRIVE of the challenge, or one in the layout below')
    parser.add_argument('dst', type=Path, nargs='?', default=Path('data/drive'), help='folder to write (data/drive)')
    args = parser.parse_args(argv)

    if (args.src / 'images').is_dir():
        for split in SPLITS:
            print(f'{split}: {check(args.src / "images" / split, args.src / "labels" / split)} images, in order')
        if args.dst.resolve() != args.src.resolve():
            if args.dst.is_symlink() or args.dst.exists():
                fail(f'{args.dst} is there already; remove it, or use the other folder with data_root={args.src}')
            args.dst.parent.mkdir(parents=True, exist_ok=True)
            args.dst.symlink_to(args.src.resolve(), target_is_directory=True)
    else:
        missing = [args.src / folder for folder in SPLITS.values() if not (args.src / folder).is_dir()]
        if missing:
            fail(f'no folder {missing[0]}: give the folder DRIVE with {" and ".join(SPLITS.values())} in it')
        for split, folder in SPLITS.items():
            print(f'{split}: {convert(args.src / folder, args.dst, split)} images')
    print(f'ready: data_root={str(args.dst)!r}')


if __name__ == '__main__':
    main()
