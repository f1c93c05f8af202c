"""AGORA's submission: one pickle a person, all in one zip."""

import io
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmtoken.engine.files import replacing

#: Size of AGORA's pictures: joints are given in their pixels.
WIDTH, HEIGHT = 3840, 2160


def person_record(keypoints: np.ndarray, transl: np.ndarray, pose: np.ndarray, betas: np.ndarray, size: tuple) -> dict:
    """Returns what AGORA's evaluation reads of a person.

    Args:
        keypoints (np.ndarray): ``(24, 2)``, pixels of a picture of ``size``.
        transl (np.ndarray): ``(3,)``, metres.
        pose (np.ndarray): ``(24, 3)``, axis-angle.
        betas (np.ndarray): ``(10,)``.
        size (tuple): Height and width of the picture that the pixels are those of.
    """
    onto = np.array([WIDTH / size[1], HEIGHT / size[0]])
    params = dict(transl=transl[None], betas=betas[None, :10], global_orient=pose[None, :1], body_pose=pose[None, 1:])
    params = {name: np.asarray(value, np.float32) for name, value in params.items()}
    return dict(joints=(keypoints[:24] * onto).astype(np.float32), params=params)


def write_submission(path: str | Path, people: Iterable[tuple[str, int, dict]]) -> None:
    """Writes ``predictions/<picture>_personId_<i>.pkl`` for each person into a zip.

    Args:
        path (str | Path): Of the zip.
        people (Iterable): Path of the picture, number of the person in it, and :func:`person_record`.
    """
    with replacing(path) as part, zipfile.ZipFile(part, 'w', zipfile.ZIP_DEFLATED) as archive:
        for picture, number, record in people:
            buffer = io.BytesIO()
            pickle.dump(record, buffer, protocol=4)
            archive.writestr(f'predictions/{Path(picture).stem}_personId_{number}.pkl', buffer.getvalue())
