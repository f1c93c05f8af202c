"""What SAT's scale head learns: for each cell, whether it shows somebody, and how large."""

import numpy as np
import torch
from mmcv.transforms import BaseTransform

from mmtoken.core.arguments import check_flag, check_int
from mmtoken.hmr.geometry import project
from mmtoken.registry import BODY_MODELS, TRANSFORMS

#: Mean distance of joints that says that labels are those of another body model, metres.
OTHER_BODY = 0.1


def scales_of(boxes: np.ndarray, side: int) -> np.ndarray:
    """Returns people's scales ``(N,)``: diagonal of the box over the longest side of the picture, 1 at most."""
    return np.minimum(np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1) / side, 1)


def edges_of(faces: np.ndarray) -> np.ndarray:
    """Returns the edges of triangles ``(F, 3)``, each once ``(E, 2)``."""
    return np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)


def draw_scale_map(
    points: list[np.ndarray], scales: np.ndarray, size: tuple[int, int], cell: int, clamp: bool = False
) -> np.ndarray:
    """Draws people onto cells (SAT-HMR, arXiv 2411.19824, section 3.2); the later win.

    Args:
        points (list[np.ndarray]): Of each person ``(P, 2)``, pixels: points of the skin that are before the camera.
        scales (np.ndarray): ``(N,)``.
        size (tuple[int, int]): Height and width of the picture, pixels.
        cell (int): Side of a cell, pixels.
        clamp (bool): Let points outside of the picture mark the cells at its border, as the authors' code does.
            Truncated people then cover border cells that do not show them. Defaults to False.

    Returns:
        np.ndarray: ``(2, h, w)``, float32: 1 where somebody is and 0 elsewhere; and the scale there. h and w are even.
    """
    h, w = (2 * -(-n // (2 * cell)) for n in size)
    last_row, last_column = (-(-n // cell) - 1 for n in size)
    maps = np.zeros((2, h, w), np.float32)
    for spots, scale in zip(points, scales):
        columns, rows = np.floor(spots / cell).astype(int).T
        if clamp:
            columns, rows = columns.clip(0, last_column), rows.clip(0, last_row)
        else:
            inside = (spots >= 0).all(1) & (spots[:, 0] < size[1]) & (spots[:, 1] < size[0])
            columns, rows = columns[inside], rows[inside]
        maps[0, rows, columns], maps[1, rows, columns] = 1, scale
    return maps


@TRANSFORMS.register_module()
class MakeScaleMap(BaseTransform):
    """Adds ``gt_scale_map (2, h, w)`` to ``results``, in cells of the picture as it is now.

    People are drawn from far to near, by all vertices and the middles of all edges of their meshes; people without SMPL
    parameters by their boxes.

    Args:
        cell (int): Side of a cell in pixels, two patches. Defaults to 28.
        body_model (dict): Config of the body model. Defaults to ``dict(type='FreeBody')``.
        clamp (bool): See :func:`draw_scale_map`. Defaults to False.
    """

    def __init__(self, cell: int = 28, body_model: dict | None = None, clamp: bool = False):
        self.cell, self.clamp = check_int('cell', cell, 1), check_flag('clamp', clamp)
        self.body = BODY_MODELS.build(body_model or dict(type='FreeBody'))
        self.edges = edges_of(self.body.faces.numpy())

    def transform(self, results: dict) -> dict:
        """Adds the map.

        Raises:
            ValueError: If nobody is placed yet, or labels are those of another body model.
        """
        if 'gt_bboxes' not in results:
            raise ValueError(
                "MakeScaleMap: nobody is placed yet; put dict(type='mmtoken.LoadPeople') first in the pipeline, and "
                'leave MakeScaleMap out where there are no labels.'
            )
        size = results['img_shape'][:2]
        order = np.argsort(-results['gt_transl'][:, 2], kind='stable')
        scales = scales_of(results['gt_bboxes'], max(size))[order]
        skins = self.skin_points(results)
        points = [skins[i] if i in skins else self.box_points(results['gt_bboxes'][i]) for i in order.tolist()]
        results['gt_scale_map'] = draw_scale_map(points, scales, size, self.cell, self.clamp)
        return results

    def skin_points(self, results: dict) -> dict[int, np.ndarray]:
        """Returns the points ``(P, 2)`` in pixels of those people whose meshes are known, by their numbers."""
        known = np.flatnonzero(results['gt_smpl_valid'])
        fields = (torch.from_numpy(results[f'gt_{name}'][known]) for name in ('pose', 'betas', 'transl'))
        with torch.no_grad():
            vertices, joints = self.body(*fields)
        off = np.linalg.norm(joints.numpy() - results['gt_keypoints_3d'][known], axis=-1)[:, :24]
        if len(known) and off.mean() > OTHER_BODY:
            raise ValueError(
                f'MakeScaleMap.body_model={type(self.body).__name__} puts joints {off.mean():.2f} m from where the '
                'dataset has them; give it the body_model of the dataset.'
            )
        vertices = torch.cat([vertices, vertices[:, self.edges].mean(2)], dim=1)
        spots = project(vertices, torch.from_numpy(results['cam_intrinsics'])).numpy()
        return {i: spot[front] for i, spot, front in zip(known.tolist(), spots, (vertices[..., 2] > 0.01).numpy())}

    def box_points(self, box: np.ndarray) -> np.ndarray:
        """Returns points ``(P, 2)`` in a box, two to a cell and side."""
        left, top, right, bottom = box
        x, y = np.arange(left, right, self.cell / 2), np.arange(top, bottom, self.cell / 2)
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(cell={self.cell}, clamp={self.clamp})'
