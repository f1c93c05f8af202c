"""Pictures of crowds that are drawn when they are asked for, with exact labels."""

import numpy as np
from mmengine.dataset import BaseDataset

from mmtoken.core.arguments import check_int, check_range
from mmtoken.registry import BODY_MODELS, DATASETS

from .people import boxes_of
from .synthetic.backdrop import find_photos
from .synthetic.crowd import CrowdRenderer


@DATASETS.register_module()
class SyntheticCrowd(BaseDataset):
    """Several people on a ground, near and far, rendered with all that is known about them.

    Picture number i depends on the seed and on i alone, so a dataset needs no files, is the same on every machine
    with the same OpenCV and numpy, and may be as long as the training wants new pictures. Take another seed for
    validation.

    Args:
        length (int): Number of pictures. Defaults to 10000.
        size (tuple[int, int]): Height and width of a picture, pixels. Defaults to (644, 644).
        people (tuple[int, int]): Least and most people who look for a place; some find none. Defaults to (1, 8).
        scales (tuple[float, float]): Range of the scale, the box's diagonal over the longest side of the picture. Its
            logarithm is uniform, so that there are many small people. It is that of somebody who stands: who crouches
            or joins others may be somewhat outside. Defaults to (0.06, 1.0).
        things (tuple[int, int]): Least and most boxes that stand about. Defaults to (0, 4).
        fov (tuple[float, float]): Range of the field of view over the longest side, degrees. Defaults to (60, 60),
            which SAT-HMR assumes.
        backgrounds (str, optional): Folder of photos that show no people, to stand behind them; None draws backgrounds.
        seed (int): Another seed, other pictures. Defaults to 0.
        body_model (dict, optional): Config of the body model; None is ``dict(type='FreeBody')``.
        **kwargs: Those of mmengine's ``BaseDataset``: ``pipeline``, ``test_mode``, ``indices``, …

    Raises:
        ValueError: For a bad argument, or a folder without pictures.
    """

    METAINFO = dict(classes=('person',), palette=[(220, 20, 60)])

    def __init__(
        self,
        length: int = 10000,
        size: tuple[int, int] = (644, 644),
        people: tuple[int, int] = (1, 8),
        scales: tuple[float, float] = (0.06, 1.0),
        things: tuple[int, int] = (0, 4),
        fov: tuple[float, float] = (60, 60),
        backgrounds: str | None = None,
        seed: int = 0,
        body_model: dict | None = None,
        **kwargs,
    ):
        self.length, self.seed = check_int('length', length, 1), check_int('seed', seed, 0)
        height, width = (check_int('size', n, 28) for n in size)
        for key, (low, high), least in (('people', people, 0), ('things', things, 0)):
            check_int(key, high, check_int(key, low, least))
        scales, fov = check_range('scales', scales, 0.01, 2), check_range('fov', fov, 5, 150)
        photos = [] if backgrounds is None else find_photos(backgrounds)
        body = BODY_MODELS.build(body_model or dict(type='FreeBody'))
        self.renderer = CrowdRenderer(body, (height, width), people, scales, things, fov, photos)
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Returns a number and a name for each picture."""
        return [dict(img_id=i, img_path=f'crowd-{self.seed}-{i:06d}.png') for i in range(self.length)]

    def get_data_info(self, idx: int) -> dict:
        """Draws a picture: ``img``, ``depth (H, W)`` and the fields of :data:`mmtoken.hmr.data.people.FIELDS`."""
        info = super().get_data_info(idx)
        drawn = self.renderer.render(np.random.default_rng((self.seed, info['img_id'])))
        number, size = len(drawn['pose']), drawn['img'].shape[:2]
        return dict(
            info,
            img=drawn['img'],
            depth=drawn['depth'],
            img_shape=size,
            ori_shape=size,
            height=size[0],
            width=size[1],
            cam_intrinsics=drawn['cam_intrinsics'],
            all_people=True,
            dataset='crowd',
            gt_pose=drawn['pose'],
            gt_betas=drawn['betas'],
            gt_transl=drawn['transl'],
            gt_keypoints_3d=drawn['keypoints_3d'],
            gt_keypoints=drawn['keypoints'],
            gt_keypoints_visible=drawn['visible'],
            gt_bboxes=boxes_of(drawn['keypoints'], size),
            gt_smpl_valid=np.ones(number, bool),
            gt_valid_3d=np.ones(number, bool),
        )
