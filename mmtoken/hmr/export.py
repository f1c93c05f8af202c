"""Writes found people to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

#: Fields of a person, in files too.
FIELDS = ('scores', 'bboxes', 'smpl_pose', 'smpl_betas', 'transl', 'keypoints', 'keypoints_3d')


def as_dict(sample: Any) -> dict[str, Any]:
    """Returns the people of a sample as plain lists: by name a row for each person, and the camera.

    Args:
        sample (DetDataSample): With ``pred_instances``, see :class:`mmtoken.hmr.model.TokenHumanMesh`.
    """
    people = sample.pred_instances
    made = {name: people[name].cpu().numpy().round(6).tolist() for name in FIELDS}
    return dict(made, cam_intrinsics=np.asarray(sample.metainfo['pred_cam_intrinsics']).tolist())


def write_json(path: Path, sample: Any) -> None:
    """Writes :func:`as_dict` of a sample."""
    path.write_text(json.dumps(as_dict(sample)))


def write_npz(path: Path, sample: Any, faces: np.ndarray) -> None:
    """Writes the people of a sample with their vertices ``(N, V, 3)``, metres, and the faces ``(F, 3)``."""
    people = sample.pred_instances
    arrays = {name: people[name].cpu().numpy() for name in (*FIELDS, 'vertices')}
    np.savez_compressed(path, faces=faces, cam_intrinsics=sample.metainfo['pred_cam_intrinsics'], **arrays)


def write_obj(path: Path, sample: Any, faces: np.ndarray) -> None:
    """Writes the meshes of a sample as Wavefront OBJ, one object for each person, in metres.

    y points up and z towards the camera, as most programs have it: the camera's frame turned half around x.
    """
    lines = ['# metres; x right, y up, z towards the camera, which is at the origin']
    vertices = sample.pred_instances.vertices.cpu().numpy() * [1, -1, -1]
    for number, mesh in enumerate(vertices):
        lines.append(f'o person_{number}')
        lines += [f'v {x:.5f} {y:.5f} {z:.5f}' for x, y, z in mesh]
        lines += [f'f {a} {b} {c}' for a, b, c in faces + 1 + number * len(mesh)]
    path.write_text('\n'.join(lines) + '\n')
