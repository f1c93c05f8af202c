"""KITTI's depths, and the crop that they are learnt and scored on."""

from pathlib import Path

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset

from mmtoken.core.arguments import check_int, check_list
from mmtoken.registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class KITTIDepthDataset(BaseDataset):
    """Pictures and depth maps of KITTI, by a list such as that of Eigen's split (arXiv 1406.2283).

    A line of the list holds the paths of a picture and of its depth map, below ``data_prefix``; what follows, such as
    the focal length, is not read. Pictures whose depth map is ``None`` are left out. Depths are PNGs of 16 bits in
    1/256 metre.

    The arguments are those of mmengine's ``BaseDataset``: ``ann_file`` is the list, ``data_prefix`` holds the folders,
    ``img_path`` and ``depth_map_path``.

    Raises:
        ValueError: If a line has no two paths, or no line has any.
    """

    def load_data_list(self) -> list[dict]:
        """Returns ``img_path`` and ``depth_map_path`` of each pair, in the order of the list."""
        pictures, depths = (Path(self.data_prefix.get(key) or '') for key in ('img_path', 'depth_map_path'))
        found = []
        for number, line in enumerate(Path(self.ann_file).read_text().splitlines(), 1):
            paths = line.split()[:2]
            if len(paths) == 1:
                raise ValueError(f'{self.ann_file}: line {number} must name a picture and its depth map: {line!r}')
            if paths and paths[1] != 'None':
                pair = dict(img_path=str(pictures / paths[0]), depth_map_path=str(depths / paths[1]))
                found.append(dict(pair, seg_fields=[]))
        if not found:
            raise ValueError(f'{self.ann_file}: names no picture with a depth map; give the list of a split')
        return found


@TRANSFORMS.register_module()
class BottomCrop(BaseTransform):
    """Keeps the bottom of a picture, in the middle of its width, and of its maps; what is cut off counts nowhere.

    Of KITTI's pictures, which differ by a few pixels, 352 × 1216 is the custom: there is no depth above.

    Args:
        size (tuple[int, int]): Height and width in pixels.

    Raises:
        ValueError: If it is no pair of positive integers.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = tuple(check_int('BottomCrop.size', side, 1) for side in check_list('BottomCrop.size', size, 2))

    def transform(self, results: dict) -> dict:
        """Cuts ``img`` and each of ``seg_fields``; ``ori_shape`` is that of the crop from here on.

        Raises:
            ValueError: If the picture is smaller.
        """
        (height, width), whole = self.size, results['img'].shape[:2]
        if whole[0] < height or whole[1] < width:
            raise ValueError(
                f'{results.get("img_path")}: the picture is {whole[0]}×{whole[1]}, smaller than BottomCrop.size='
                f'{self.size}; set a smaller one'
            )
        top, left = whole[0] - height, (whole[1] - width) // 2
        for key in ('img', *results.get('seg_fields', [])):
            results[key] = results[key][top : top + height, left : left + width]
        results['img_shape'] = results['ori_shape'] = self.size
        return results
