"""Draws data samples of human meshes, as mmengine's hooks and inferencers ask for it."""

import math
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.visualization import Visualizer

from mmtoken.core.arguments import check_choice
from mmtoken.registry import BODY_MODELS, VISUALIZERS

from .bird import draw_birds_eye
from .maps import draw_scale_map, draw_token_map
from .overlay import draw_meshes

PANELS = ('picture', 'mesh', 'bird', 'scale', 'tokens')


@VISUALIZERS.register_module()
class HumanMeshVisualizer(Visualizer):
    """Draws people's meshes over the picture, from above, and the maps that decide about tokens, side by side.

    Args:
        name (str): Of the instance. Defaults to 'visualizer'.
        panels (tuple[str, …]): What is drawn, from left to right: ``'picture'`` as it is, ``'mesh'`` over it,
            ``'bird'`` from above, ``'scale'``: ``pred_scale_map`` or ``gt_scale_map (2, h, w)`` of the sample,
            ``'tokens'``: its ``pred_token_levels (1, h, w)``; the last two where the sample has them. Defaults to
            ``('mesh', 'bird')``.
        body_model (dict, optional): Config of the body model: gives the faces, and the vertices of people that have
            none. None is ``dict(type='FreeBody')``.
        cell (int): Side of a cell of the maps in pixels of the network's picture. Defaults to 28.
        alpha (float): How far meshes cover the picture. Defaults to 0.9.
        **kwargs: Those of mmengine's ``Visualizer``.

    Raises:
        ValueError: For an unknown panel.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        panels: tuple[str, ...] = ('mesh', 'bird'),
        body_model: dict | None = None,
        cell: int = 28,
        alpha: float = 0.9,
        **kwargs,
    ):
        super().__init__(name, **kwargs)
        self.panels = [check_choice('panels', panel, PANELS) for panel in panels]
        self.body = BODY_MODELS.build(body_model or dict(type='FreeBody'))
        self.cell, self.alpha = cell, alpha

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: Any = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> None:
        """Draws a sample; the labels, if they are drawn too, in a row above the predictions.

        Args:
            name (str): Of the drawing.
            image (np.ndarray): ``(H, W, 3)``, uint8, RGB, original size.
            data_sample (DetDataSample, optional): With ``pred_instances`` or ``gt_instances``.
            draw_gt (bool): Draw the labels. Defaults to True.
            draw_pred (bool): Draw the predictions. Defaults to True.
            show (bool): Show it in a window. Defaults to False.
            wait_time (float): How long, seconds; 0 until a key is pressed. Defaults to 0.
            out_file (str, optional): Write it there instead of to the backends.
            pred_score_thr (float): Draw predictions from this score on. Defaults to 0.3.
            step (int): Number of the drawing for the backends. Defaults to 0.
        """
        rows = []
        for kind, wanted in (('gt', draw_gt), ('pred', draw_pred)):
            if wanted and data_sample is not None and f'{kind}_instances' in data_sample:
                rows.append(self.draw_row(image, data_sample, kind, pred_score_thr))
        width = max((row.shape[1] for row in rows), default=0)  # a row may lack a map that the other has
        rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
        drawn = np.concatenate(rows) if rows else image.copy()
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(drawn[..., ::-1], out_file)
        else:
            self.add_image(name, drawn, step)

    def draw_row(self, image: np.ndarray, sample: Any, kind: str, score: float = 0.3) -> np.ndarray:
        """Returns the panels of labels (``kind='gt'``) or predictions (``'pred'``), each as high as the picture."""
        people = sample.get(f'{kind}_instances').cpu()
        if kind == 'pred' and 'scores' in people:
            people = people[people.scores >= score]
        vertices, camera = self.meshes(people), self.camera(image, sample, kind)
        drawn = []
        for panel in self.panels:
            if panel == 'picture':
                drawn.append(image)
            elif panel == 'mesh':
                drawn.append(draw_meshes(image, vertices, self.body.faces.numpy(), camera, alpha=self.alpha))
            elif panel == 'bird':
                fov = 2 * math.degrees(math.atan(image.shape[1] / 2 / camera[0, 0]))
                drawn.append(draw_birds_eye(vertices, image.shape[0], fov))
            else:
                drawn += self.draw_map(image, sample, kind, panel)
        return np.concatenate(drawn, axis=1)

    def meshes(self, people: Any) -> np.ndarray:
        """Returns the vertices of people ``(N, V, 3)``; those without SMPL parameters are left out."""
        if 'vertices' in people:
            return people.vertices.float().numpy()
        known = people.smpl_valid if 'smpl_valid' in people else torch.ones(len(people), dtype=torch.bool)
        with torch.no_grad():
            return self.body(people.smpl_pose[known], people.smpl_betas[known], people.transl[known]).vertices.numpy()

    @staticmethod
    def camera(image: np.ndarray, sample: Any, kind: str) -> np.ndarray:
        """Returns the camera ``(3, 3)`` in pixels of the picture that is drawn on.

        Raises:
            ValueError: If the sample has none.
        """
        meta = sample.metainfo
        if kind == 'pred' and 'pred_cam_intrinsics' in meta:
            return np.asarray(meta['pred_cam_intrinsics'], np.float64)
        if 'cam_intrinsics' not in meta:
            raise ValueError('data_sample has no cam_intrinsics: pack them (meta_keys of mmtoken.PackPeople).')
        height, width = meta.get('img_shape', image.shape)[:2]
        return np.diag([image.shape[1] / width, image.shape[0] / height, 1]) @ np.asarray(meta['cam_intrinsics'])

    def draw_map(self, image: np.ndarray, sample: Any, kind: str, panel: str) -> list[np.ndarray]:
        """Returns the drawing of a map of the sample, if it has one; cells are those of the network's picture."""
        field = 'pred_token_levels' if panel == 'tokens' else f'{kind}_scale_map'
        if field not in sample:
            return []
        values = sample.get(field).data.cpu().numpy()
        height, width = sample.metainfo.get('img_shape', image.shape)[:2]
        seen = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        drawn = (
            draw_token_map(seen, values[0], self.cell) if panel == 'tokens' else draw_scale_map(seen, values, self.cell)
        )
        return [cv2.resize(drawn, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)]
