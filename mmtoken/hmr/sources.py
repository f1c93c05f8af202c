"""Where pictures come from: files, folders, videos, webcams, arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.logging import MMLogger

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


@dataclass
class Frame:
    """A picture and its name.

    Args:
        image (np.ndarray): ``(H, W, 3)``, uint8, BGR, upright.
        name (str): Without an ending; unlike those of the other pictures of its source.
        path (str): File that it is from; empty for none.
    """

    image: np.ndarray
    name: str
    path: str = ''


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture upright, as its EXIF says.

    Raises:
        ValueError: If the file is no picture.
    """
    try:
        image = mmcv.imread(str(path))
    except (OSError, cv2.error):
        image = None
    if image is None or not image.size:
        raise ValueError(f'{path} cannot be read as a picture; give another file, such as a JPEG.')
    return image


class Pictures:
    """Single pictures: an array, a file, several of both, or the pictures of a folder and its subfolders.

    A file of a folder that cannot be read is left out with a warning.
    """

    fps: float | None = None

    def __init__(self, inputs: Any):
        self.careful = True
        if isinstance(inputs, (str, Path)) and Path(inputs).is_dir():
            self.root = Path(inputs)
            inputs = sorted(p for p in self.root.rglob('*') if p.suffix.lower() in PICTURES)
            if not inputs:
                raise ValueError(f'inputs={str(self.root)!r} holds no pictures ({", ".join(PICTURES)}).')
            self.careful = False
        self.items = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Frame]:
        names: set[str] = set()
        for number, item in enumerate(self.items):
            if isinstance(item, np.ndarray):
                image, path, name = item, '', f'{number:06d}'
            else:
                path = str(item)
                try:
                    image, name = read_picture(Path(item)), Path(item).stem
                except ValueError as error:
                    if self.careful:
                        raise
                    MMLogger.get_current_instance().warning(str(error))
                    continue
            if image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f'A picture of shape {image.shape} is none; give arrays (height, width, 3), BGR.')
            while name in names:
                name += '_'
            names.add(name)
            yield Frame(image, name, path)


class Video:
    """Frames of a video file or a webcam, as long as they can be read.

    Args:
        source (str | int): File, or number of a webcam.

    Raises:
        ValueError: If it cannot be opened.
    """

    def __init__(self, source: str | int):
        self.source = source
        self.capture = cv2.VideoCapture(source)
        if not self.capture.isOpened():
            kind = 'webcam' if isinstance(source, int) else 'video'
            raise ValueError(f'inputs={source!r}: no {kind} can be opened there; give another file or number.')
        self.fps = self.capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.number = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)) if isinstance(source, str) else 0

    def __len__(self) -> int:
        return max(self.number, 0)

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        try:
            while True:
                good, image = self.capture.read()
                if not good:
                    break
                yield Frame(image, f'{number:06d}', str(self.source))
                number += 1
        finally:
            self.capture.release()
        if number < len(self):
            MMLogger.get_current_instance().warning(f'{self.source} breaks off after {number} of {len(self)} frames.')


def open_source(inputs: Any) -> Pictures | Video:
    """Returns the source of the pictures.

    Args:
        inputs (str | Path | int | np.ndarray | Sequence): A picture, a folder, a video, the number of a webcam
            (also as text), an array ``(H, W, 3)`` in BGR, or several pictures.

    Raises:
        ValueError: If there is nothing.
    """
    if isinstance(inputs, bool) or inputs is None:
        raise ValueError(f'inputs={inputs!r} is none; give a picture, folder, video, webcam number or array.')
    if isinstance(inputs, int) or (isinstance(inputs, str) and inputs.isdigit()):
        return Video(int(inputs))
    if isinstance(inputs, (str, Path)):
        if not Path(inputs).exists() and '://' not in str(inputs):
            raise ValueError(f'inputs={str(inputs)!r}: no such file or folder.')
        if Path(inputs).suffix.lower() in VIDEOS or '://' in str(inputs):
            return Video(str(inputs))
    return Pictures(inputs)


def batches(frames: Iterator[Frame] | Sequence[Frame], size: int) -> Iterator[list[Frame]]:
    """Yields lists of ``size`` frames; the last may be shorter."""
    held: list[Frame] = []
    for frame in frames:
        held.append(frame)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
