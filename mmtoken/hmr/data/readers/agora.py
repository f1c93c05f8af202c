"""AGORA's own labels: a table for each part of the set, and a pickle of SMPL's parameters for each scan."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mmtoken.unpickle.tables import read_table, read_tensors

#: Cameras by a word in the name of the picture: focal length in mm, place in cm in Unreal's axes, yaw and pitch in
#: degrees, as AGORA's own projection has them; other pictures have 28 mm, and place and yaw in their row.
CAMERAS = dict(
    hdri=(50, (0, 0, 170), 0, 0),
    cam00=(18, (400, -275, 265), 135, 30),
    cam01=(18, (400, 225, 265), -135, 30),
    cam02=(18, (-490, 170, 265), -45, 30),
    cam03=(18, (-490, -275, 265), 45, 30),
    ag2=(28, (0, 0, 170), 0, 15),
)
#: What their cameras are higher than their rows say, metres.
HIGHER = 1.7
#: Width and height of the sensor, mm.
SENSOR = np.array([36, 20.25])
#: Endings of the names of pictures, and their heights and widths.
SIZES = {'_1280x720.png': (720, 1280), '.png': (2160, 3840)}


def pictures(ann_file: str, images: str, fits: str | None = None) -> Iterator[dict]:
    """Yields the pictures, see :meth:`.base.PeopleDataset.pictures`.

    Args:
        ann_file (str): A table, ``train_0_withjv.pkl`` or the like, or the folder of several.
        images (str): Folder of the pictures, of either size, which may lie in folders below it.
        fits (str, optional): Folder below which the paths of ``gt_path_smpl`` are. By default that of the tables.

    Raises:
        ValueError: If a picture is missing, or a file is another one.
    """
    path = Path(ann_file)
    root = Path(fits) if fits is not None else path if path.is_dir() else path.parent
    there = {file.name: str(file.relative_to(images)) for file in sorted(Path(images).rglob('*.png'))}
    scan = cache(read_scan)
    for table in sorted(path.glob('*.pkl')) if path.is_dir() else [path]:
        columns = read_table(table)
        for values in zip(*columns.values()):
            row = dict(zip(columns, values))
            stem = Path(row['imgPath']).name.removesuffix('.png').removesuffix('_1280x720')
            name = next((stem + ending for ending in SIZES if stem + ending in there), None)
            if name is None:
                raise ValueError(f'{table}: the picture {row["imgPath"]} is nowhere in {images}; set data_prefix.img')
            size = SIZES['_1280x720.png' if name.endswith('_1280x720.png') else '.png']
            yield picture(row, there[name], size, lambda fit: scan(root / f'{fit.removesuffix(".obj")}.pkl'))


def picture(row: dict, name: str, size: tuple[int, int], scan: Any) -> dict:
    """Returns a picture; kids, whom SMPL's ten betas do not describe, have no labels.

    A body x, y up, stands in the world at ``Y(yaw - 90°) D x + p`` with ``D = diag(1, -1, -1)``, and is seen by the
    camera at c from ``X(pitch) Y(-yaw of the camera) (… - c)``.
    """
    known = [i for i, valid in enumerate(row['isValid']) if valid and not row['kid'][i]]
    focal, turn, place = camera(row)
    people = [scan(row['gt_path_smpl'][i]) for i in known]
    bodies = [about_y(row['Yaw'][i] - 90) @ np.diag([1.0, -1, -1]) for i in known]
    places = [metres([row[axis][i] for axis in 'XYZ']) for i in known]
    pixels = focal / SENSOR * size[::-1]
    return dict(
        name=name,
        height=size[0],
        width=size[1],
        pose=[pose for pose, _, _ in people],
        betas=[betas for _, betas, _ in people],
        transl=[transl for _, _, transl in people],
        cam_rot=np.reshape([turn @ body for body in bodies], (-1, 3, 3)),
        cam_trans=np.reshape([turn @ (at - place) for at in places], (-1, 3)),
        cam_intrinsics=[[pixels[0], 0, size[1] / 2], [0, pixels[1], size[0] / 2], [0, 0, 1]],
        all_people=not any(kid and valid for kid, valid in zip(row['kid'], row['isValid'])),
    )


def camera(row: dict) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns a row's camera: focal length in mm, rotation of the world ``(3, 3)``, and its place ``(3,)``, metres."""
    word = next((word for word in CAMERAS if word in Path(row['imgPath']).name), None)
    if word is not None:
        focal, place, yaw, pitch = CAMERAS[word]
        at = metres(place)
    else:
        focal, yaw, pitch = 28, row['camYaw'], 0
        at = metres([row['camX'], row['camY'], row['camZ']]) - [0, HIGHER, 0]
    sine, cosine = np.sin(np.radians(pitch)), np.cos(np.radians(pitch))
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return focal, about_x @ about_y(-yaw), at


def about_y(degrees: float) -> np.ndarray:
    """Returns the rotation about y ``(3, 3)``."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


def metres(place: Any) -> np.ndarray:
    """Returns a place ``(3,)`` that is in cm in Unreal's axes, forward, right and up, as right, down and forward."""
    x, y, z = place
    return np.array([y, -z, x]) / 100


def read_scan(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pose ``(72,)``, betas ``(10,)`` and translation ``(3,)`` of a scan.

    Raises:
        ValueError: If the file holds those of another body model.
    """
    found = read_tensors(path)
    first = found.get('root_pose', found.get('global_orient'))
    transl = found.get('translation', found.get('transl'))
    pose = np.append(np.ravel(first), np.ravel(found['body_pose']))
    if pose.size != 72 or np.size(transl) != 3:
        raise ValueError(f'{path}: a pose of {pose.size} numbers is none of SMPL, which has 72; take smpl_gt')
    return pose, np.ravel(found['betas'])[:10], np.ravel(transl)
