"""AGORA and BEDLAM as SAT-HMR's authors prepared them, a dict by picture in ``.npz``; and BEDLAM's own labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmtoken.registry import DATASETS
from mmtoken.unpickle.arrays import read_npz

from ..synthetic.backdrop import find_photos
from . import agora
from .base import PeopleDataset

#: What is read of a scene of BEDLAM's own labels.
SCENE = ('imgname', 'pose_cam', 'shape', 'trans_cam', 'cam_ext', 'cam_int')


def annotations(path: str | Path, found: dict) -> dict[str, dict]:
    """Returns ``annots`` of what a file holds.

    Raises:
        ValueError: If there is no such thing.
    """
    annots = found.get('annots')
    if not isinstance(annots, dict):
        raise ValueError(f'{path}: holds no dict named annots; it is not one of the files that SAT-HMR names')
    return annots


@DATASETS.register_module()
class AGORADataset(PeopleDataset):
    """AGORA: ``annots_smpl_train_fit.npz`` or ``annots_smpl_validation.npz``, and the pictures of 1280×720.

    Or AGORA's own tables, ``train_0_withjv.pkl`` and so on, with the folder ``smpl_gt`` of its SMPL fits and pictures
    of either size; kids get no labels then, as SMPL's ten betas do not describe them. Files of AGORA were not at hand
    when this was written: the layout is that which AGORA's own evaluation reads, and any other is refused.

    Without ``ann_file`` it is the test set, all pictures of the folder, for a submission
    (:class:`~mmtoken.hmr.metrics.HumanMeshMetric` with ``format_only``). People whom AGORA calls not valid are left
    out.

    Args:
        ann_file (str): The file, or a table or the folder of several, or none for the test set.
        fits (str, optional): Folder that holds ``smpl_gt``. By default that of the tables.
        **kwargs: Those of :class:`PeopleDataset`.
    """

    def __init__(self, ann_file: str = '', fits: str | None = None, **kwargs):
        self.fits = fits
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
        if not self.ann_file.endswith('.npz'):
            yield from agora.pictures(self.ann_file, self.data_prefix['img'], self.fits)
            return
        for name, about in annotations(self.ann_file, read_npz(self.ann_file)).items():
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
    """BEDLAM: ``bedlam_smpl_train_6fps.npz`` or the like, or the labels of BEDLAM's makers.

    These are an ``.npz`` for each scene with one row a person (``imgname``, ``pose_cam``, ``shape``, ``trans_cam``,
    ``cam_ext``, ``cam_int``), as BEDLAM's ``df_full_body_smpl.py`` makes them; the pictures of a scene are those of
    ``<scene>/png/`` below the folder of pictures. Only labels of SMPL can be used, of 72 numbers a pose. They leave
    people out of whom hardly anything is in the picture.

    Portraits (``closeup``) are stored lying and are stood up.

    Args:
        ann_file (str): The file, or a folder of scenes.
        **kwargs: Those of :class:`PeopleDataset`.
    """

    def pictures(self) -> Iterator[dict]:
        path = Path(self.ann_file)
        scenes = sorted(path.glob('*.npz')) if path.is_dir() else [path]
        for scene in scenes:
            found = read_npz(scene, ('annots', *SCENE))
            if not {'annots', 'imgname'} & found.keys():
                raise ValueError(
                    f"{scene}: holds neither annots, as SAT-HMR's files, nor imgname, as BEDLAM's own labels"
                )
            yield from self.prepared(scene, found) if 'annots' in found else self.scene(scene, found)

    def prepared(self, path: Path, found: dict) -> Iterator[dict]:
        """Yields the pictures of a file that SAT-HMR's authors prepared."""
        for name, about in annotations(path, found).items():
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

    def scene(self, path: Path, found: dict) -> Iterator[dict]:
        """Yields the pictures of a scene; a person's joints are those of ``pose_cam``, moved by ``cam_ext``."""
        names, poses = np.asarray(found['imgname']), np.asarray(found['pose_cam'])
        if poses.ndim != 2 or poses.shape[1] != 72:
            raise ValueError(
                f'{path}: pose_cam is {poses.shape}, poses of SMPL are (N, 72); take the labels of SMPL, not of SMPL-X'
            )
        transl = found['trans_cam'] + found['cam_ext'][:, :3, 3]
        for name in dict.fromkeys(names.tolist()):
            here = np.flatnonzero(names == name)
            yield dict(
                name=f'{path.stem}/png/{name}',
                pose=poses[here],
                betas=found['shape'][here, :10],
                transl=transl[here],
                cam_intrinsics=found['cam_int'][here[0]],
                quarter_turns=int('closeup' in path.stem),
            )
