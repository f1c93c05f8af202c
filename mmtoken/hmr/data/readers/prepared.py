"""AGORA and BEDLAM as SAT-HMR's authors prepared them: an ``.npz`` with ``annots``, a dict by picture."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmtoken.hmr.unpickle import read_npz
from mmtoken.registry import DATASETS

from ..synthetic.backdrop import find_photos
from .base import PeopleDataset


def annotations(path: str) -> dict[str, dict]:
    """Returns ``annots`` of a file.

    Raises:
        ValueError: If there is no such thing.
    """
    found = read_npz(path).get('annots')
    if not isinstance(found, dict):
        raise ValueError(f'{path}: holds no dict named annots; it is not one of the files that SAT-HMR names')
    return found


@DATASETS.register_module()
class AGORADataset(PeopleDataset):
    """AGORA: ``annots_smpl_train_fit.npz`` or ``annots_smpl_validation.npz``, and the pictures of 1280×720.

    Without ``ann_file`` it is the test set, all pictures of the folder, for a submission
    (:class:`~mmtoken.hmr.metrics.HumanMeshMetric` with ``format_only``). People whom AGORA calls not valid are left
    out.

    Args:
        ann_file (str): The file, or none for the test set.
        **kwargs: Those of :class:`PeopleDataset`.
    """

    def __init__(self, ann_file: str = '', **kwargs):
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """As the base; for the test set, the pictures of the folder."""
        if self.ann_file:
            return super().load_data_list()
        return [dict(img_path=path, img_id=i) for i, path in enumerate(find_photos(self.data_prefix['img']))]

    def get_data_info(self, idx: int) -> dict:
        """As the base; pictures of the test set have no people."""
        return super().get_data_info(idx) if self.ann_file else super(PeopleDataset, self).get_data_info(idx)

    def pictures(self) -> Iterator[dict]:
        for name, about in annotations(self.ann_file).items():
            valid = np.flatnonzero(about['isValid'])
            people = [about['smpl_gt'][i] for i in valid]
            yield dict(
                name=name,
                pose=[np.append(one['global_orient'], one['body_pose']) for one in people],
                betas=[np.ravel(one['betas'])[:10] for one in people],
                transl=[np.ravel(one['transl']) for one in people],
                cam_rot=np.asarray(about['cam_rot'])[valid].reshape(-1, 3, 3),
                cam_trans=np.asarray(about['cam_trans'])[valid].reshape(-1, 3),
                cam_intrinsics=np.reshape(about['cam_intrinsics'], (-1, 3, 3))[0],
            )


@DATASETS.register_module()
class BEDLAMDataset(PeopleDataset):
    """BEDLAM: ``bedlam_smpl_train_6fps.npz`` or the like. Portraits (``closeup``) are stored lying and are stood up."""

    def pictures(self) -> Iterator[dict]:
        for name, about in annotations(self.ann_file).items():
            yield dict(
                name=name,
                pose=np.stack(about['pose_world'])[:, :72],
                betas=np.stack(about['shape'])[:, :10],
                transl=np.stack(about['trans_world']),
                cam_rot=np.stack(about['cam_rot']),
                cam_trans=np.stack(about['cam_trans']),
                cam_intrinsics=about['cam_int'],
                quarter_turns=int('closeup' in Path(name).as_posix()),
            )
