"""Loading of pictures, labels and depths that names the file with a fault; the tools put it in upstream's place."""

import io
from contextlib import suppress

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations, LoadDepthAnnotation
from PIL import Image, UnidentifiedImageError

from mmtoken.registry import TRANSFORMS


def first_line(error: Exception) -> str:
    """Returns what an error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``; raises ``ValueError`` with the file's name for what is no picture."""

    def transform(self, results: dict) -> dict | None:
        try:
            return super().transform(results)
        except Exception as error:  # OpenCV, Pillow and the file system have one each
            raise ValueError(
                f'{results["img_path"]}: cannot be read as a picture ({first_line(error)}); mend or remove it'
            ) from error


@TRANSFORMS.register_module()
class LoadLabels(LoadAnnotations):
    """mmseg's ``LoadAnnotations``, which also looks at the labels.

    Args:
        num_classes (int, optional): Classes of the decode head; other ids would fail in training without a name, and
            count nowhere in testing. None does not look.
        ignore_index (int): The id that counts nowhere. Defaults to 255.
        **kwargs: Those of mmseg's class.

    Raises:
        ValueError: With the file's name, if it cannot be read, has another size than its picture or holds other ids.
    """

    def __init__(self, num_classes: int | None = None, ignore_index: int = 255, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def transform(self, results: dict) -> dict:
        path = results.get('seg_map_path')
        try:
            wide = self.beyond_a_byte(path)
            results = super().transform(results)
        except Exception as error:
            raise ValueError(
                f'{path}: cannot be read as a label map ({first_line(error)}); mend or remove it'
            ) from error
        if wide is not None:
            raise ValueError(
                f'{path}: holds the id {wide}, and ids are kept in one byte: 0 to 255; write other ids, or none for '
                'pixels that count nowhere'
            )
        labels, size = results['gt_seg_map'], results.get('ori_shape')
        if size is not None and labels.shape != tuple(size):
            raise ValueError(
                f'{path}: the label map is {_times(labels.shape)}, its picture {_times(size)}; both must have one '
                'size, and labels one channel'
            )
        if self.num_classes is not None:
            present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
            wrong = [i for i in present.tolist() if i >= self.num_classes and i != self.ignore_index]
            if wrong:
                raise ValueError(
                    f'{path}: holds the id {wrong[0]}, but decode_head.num_classes={self.num_classes}: known are 0 to '
                    f'{self.num_classes - 1} and ignore_index={self.ignore_index}'
                )
        return results

    def beyond_a_byte(self, path: str) -> int | float | None:
        """Returns an id that upstream's cast to eight bits would turn into another, unseen; None if there is none."""
        data = fileio.get(path, backend_args=self.backend_args)
        with suppress(UnidentifiedImageError), Image.open(io.BytesIO(data)) as image:  # reads the header alone
            if image.mode in ('1', 'L', 'P', 'RGB', 'RGBA'):
                return None
        stored = mmcv.imfrombytes(data, flag='unchanged', backend=self.imdecode_backend)
        wrong = stored[stored != stored.astype(np.uint8)]
        return wrong[0].item() if wrong.size else None


@TRANSFORMS.register_module()
class LoadDepth(LoadDepthAnnotation):
    """mmseg's ``LoadDepthAnnotation``, which also looks at the depths. What was not measured becomes 0.

    Args:
        max_depth (float, optional): Depths beyond, in metres, were not measured; sensors often store the largest number
            there. None has no limit.
        **kwargs: Those of mmseg's class; ``depth_rescale_factor`` makes metres of what is stored.

    Raises:
        ValueError: With the file's name, if it cannot be read, has another size than its picture, or its depths are not
            of the order of ``max_depth``.
    """

    def __init__(self, max_depth: float | None = None, **kwargs):
        super().__init__(**kwargs)
        self.max_depth = max_depth

    def transform(self, results: dict) -> dict:
        path = results.get('depth_map_path')
        try:
            results = super().transform(results)
        except Exception as error:
            raise ValueError(
                f'{path}: cannot be read as a depth map ({first_line(error)}); mend or remove it'
            ) from error
        depth, size = results['gt_depth_map'], results.get('ori_shape')
        if size is not None and depth.shape != tuple(size):
            raise ValueError(
                f'{path}: the depth map is {_times(depth.shape)}, its picture {_times(size)}; both must have one size, '
                'and depths one channel'
            )
        limit = np.inf if self.max_depth is None else self.max_depth
        measured = (depth > 0) & (depth <= limit) & np.isfinite(depth)
        deepest = depth.max(where=measured, initial=0)
        if deepest <= (0 if self.max_depth is None else limit / 1000):
            stored = depth / self.depth_rescale_factor
            raise ValueError(
                f'{path}: holds no depth in metres up to max_depth={self.max_depth}: stored are {stored.min():g} to '
                f'{stored.max():g}, of which depth_rescale_factor={self.depth_rescale_factor:g} makes metres; set '
                'either, or remove the picture'
            )
        results['gt_depth_map'] = np.where(measured, depth, 0)
        return results


def _times(shape: tuple) -> str:
    return '×'.join(map(str, shape))
