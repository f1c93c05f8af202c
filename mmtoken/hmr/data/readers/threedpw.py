"""3DPW as its makers give it out: a pickle for each sequence."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmtoken.registry import DATASETS
from mmtoken.unpickle.arrays import read_pickle

from .base import PeopleDataset

GENDERS = dict(f='female', m='male')


@DATASETS.register_module()
class ThreeDPWDataset(PeopleDataset):
    """3DPW: a folder of ``sequenceFiles``, such as ``sequenceFiles/test``, and ``imageFiles`` as the pictures.

    Only one or two people of a picture have labels. Set ``genders`` for the official figures; people without a body of
    their gender have ``body_model``. Frames whose camera did not follow (``campose_valid``) are left out person by
    person.

    Args:
        ann_file (str): The folder.
        step (int): Take every so many frames. Defaults to 1.
        **kwargs: Those of :class:`PeopleDataset`.
    """

    def __init__(self, ann_file: str, step: int = 1, **kwargs):
        self.step = step
        super().__init__(ann_file=ann_file, **kwargs)

    def pictures(self) -> Iterator[dict]:
        for path in sorted(Path(self.ann_file).glob('*.pkl')):
            sequence = read_pickle(path)
            for frame in range(0, len(sequence['cam_poses']), self.step):
                there = [i for i, valid in enumerate(sequence['campose_valid']) if valid[frame]]
                if not there:
                    continue
                camera = np.asarray(sequence['cam_poses'][frame])
                yield dict(
                    name=f'{sequence["sequence"]}/image_{frame:05d}.jpg',
                    pose=[sequence['poses'][i][frame] for i in there],
                    betas=[np.ravel(sequence['betas'][i])[:10] for i in there],
                    transl=[sequence['trans'][i][frame] for i in there],
                    cam_rot=np.tile(camera[:3, :3], (len(there), 1, 1)),
                    cam_trans=np.tile(camera[:3, 3], (len(there), 1)),
                    cam_intrinsics=sequence['cam_intrinsics'],
                    gender=[GENDERS.get(str(sequence['genders'][i]).lower()[:1]) for i in there],
                    all_people=False,
                )
