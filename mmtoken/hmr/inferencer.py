"""HumanMeshInferencer: pictures in, people out, drawn and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.utils import ProgressBar

from mmtoken.analysis.loading import build_model
from mmtoken.core.arguments import check_choice, check_int, check_number
from mmtoken.engine.configs import load_config
from mmtoken.hmr.data import PackPeople, ResizePeople
from mmtoken.hmr.geometry import fov_intrinsics
from mmtoken.hmr.model import TokenHumanMesh
from mmtoken.hmr.render import HumanMeshVisualizer

from .export import as_dict, write_json, write_npz, write_obj
from .sources import Frame, Video, batches, open_source

FORMATS = ('picture', 'json', 'npz', 'obj')


class HumanMeshInferencer:
    """Finds the people in pictures, folders, videos or a webcam.

    Examples:
        >>> inferencer = HumanMeshInferencer('configs/sat_hmr/sat_dinov2-s14_mesh-tuned_crowd-336.py', 'model.pth')
        >>> inferencer('street.jpg', out_dir='out')['predictions'][0].pred_instances.transl

    Args:
        model (str | Config): Config of a :class:`mmtoken.hmr.model.TokenHumanMesh`.
        weights (str, optional): Its checkpoint; without, weights are random.
        device (str, optional): By default the GPU if there is one.
        score_thr (float, optional): Least confidence of a person; that of the config by default.
        panels (Sequence[str]): What is drawn, see :class:`mmtoken.hmr.render.HumanMeshVisualizer`. Defaults to the
            meshes over the picture.

    Raises:
        ValueError: For a bad argument, or a model of another kind.
    """

    def __init__(
        self,
        model: str | Config,
        weights: str | None = None,
        device: str | None = None,
        score_thr: float | None = None,
        panels: Sequence[str] = ('mesh',),
    ):
        from mmengine.registry import init_default_scope

        cfg = load_config(model) if isinstance(model, str) else model
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        self.device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        model = build_model(cfg, weights)
        if not isinstance(model, TokenHumanMesh):
            raise ValueError(f'model.type={type(model).__name__} finds no meshes; take mmtoken.TokenHumanMesh.')
        self.model = model.to(self.device)
        if score_thr is not None:
            self.model.test_cfg['score_thr'] = check_number('score_thr', score_thr, 0, 1)
        self.resize, self.pack = ResizePeople(self.model.input_size), PackPeople()
        self.visualizer = HumanMeshVisualizer(panels=tuple(panels), body_model=cfg.model.get('body_model'))

    def __call__(
        self,
        inputs: Any,
        batch_size: int = 1,
        fov: float | None = None,
        cam_intrinsics: np.ndarray | None = None,
        out_dir: str | None = None,
        formats: Sequence[str] = ('picture', 'json'),
        show: bool = False,
        show_progress: bool = True,
        keep: bool | None = None,
    ) -> dict[str, list]:
        """Finds people.

        What was found is written at once. So where a video breaks off, or is broken off by Ctrl-C, all frames before
        are there, and returned.

        Args:
            inputs (str | Path | int | np.ndarray | Sequence): A picture, a folder, a video, the number of a webcam, an
                array ``(H, W, 3)`` in BGR, or several pictures.
            batch_size (int): Pictures at once. Defaults to 1.
            fov (float, optional): Field of view over the longest side, degrees, if it is known.
            cam_intrinsics (np.ndarray, optional): Camera ``(3, 3)`` in pixels of the pictures, if it is known.
            out_dir (str, optional): Folder for results. A picture gets files of its name; a video or webcam gets
                ``video.mp4`` and ``people.jsonl``, a line for each frame, beside the other files of each frame.
            formats (Sequence[str]): Of ``picture``, ``json``, ``npz`` and ``obj``. Defaults to the first two.
            show (bool): Show drawings in a window; q ends. Defaults to False.
            show_progress (bool): Show a bar. Defaults to True.
            keep (bool, optional): Return the samples. By default for single pictures, not for videos, which are long.

        Returns:
            dict[str, list]: ``predictions``, a ``DetDataSample`` for each picture, and ``names``.

        Raises:
            ValueError: For a bad argument, or a picture that cannot be read.
        """
        check_int('batch_size', batch_size, 1)
        formats = [check_choice('formats', one, FORMATS) for one in formats]
        if fov is not None and cam_intrinsics is not None:
            raise ValueError('fov and cam_intrinsics both name the camera; give one of them.')
        source = open_source(inputs)
        keep = not isinstance(source, Video) if keep is None else keep
        results: dict[str, list] = dict(predictions=[], names=[])
        bar = ProgressBar(len(source)) if show_progress else None
        with Writer(out_dir, formats, source, self) as writer:
            for frames in batches(iter(source), batch_size):
                samples = self.predict([frame.image for frame in frames], fov, cam_intrinsics)
                for frame, sample in zip(frames, samples):
                    drawn = self.draw(frame, sample) if show or writer.draws else None
                    writer.write(frame, sample, drawn)
                    results['names'].append(frame.name)
                    if keep:
                        results['predictions'].append(sample.cpu())
                    if drawn is not None and show and not shown(drawn):
                        return results
                    if bar is not None:
                        bar.update()
        return results

    @torch.no_grad()
    def predict(
        self, images: Sequence[np.ndarray], fov: float | None = None, cam_intrinsics: np.ndarray | None = None
    ) -> list:
        """Returns the samples of pictures ``(H, W, 3)``, BGR, as one batch; see :meth:`__call__` for the cameras."""
        data = []
        for image in images:
            size = image.shape[:2]
            camera = fov_intrinsics(size, fov or self.model.cameras.fov).numpy()
            if cam_intrinsics is not None:
                camera = np.asarray(cam_intrinsics, np.float32)
            results = dict(img=image, img_shape=size, ori_shape=size, cam_intrinsics=camera)
            data.append(self.pack(self.resize(results)))
        return self.model.test_step(pseudo_collate(data))

    def draw(self, frame: Frame, sample: Any) -> np.ndarray:
        """Returns the drawing of a picture, BGR."""
        row = self.visualizer.draw_row(np.ascontiguousarray(frame.image[..., ::-1]), sample, 'pred', 0.0)
        return np.ascontiguousarray(row[..., ::-1])


def shown(drawn: np.ndarray) -> bool:
    """Shows a drawing; returns whether to go on."""
    cv2.imshow('people', drawn)
    return cv2.waitKey(1) & 0xFF != ord('q')


class Writer:
    """Writes results as they come; as a context it closes files, and takes Ctrl-C for the end of a video."""

    def __init__(self, out_dir: str | None, formats: Sequence[str], source: Any, inferencer: HumanMeshInferencer):
        self.out = None if out_dir is None else Path(out_dir)
        self.formats = formats if self.out else []
        self.fps = source.fps if isinstance(source, Video) else None
        self.faces = inferencer.model.body.faces.cpu().numpy()
        self.video: Any = None
        self.lines: Any = None

    @property
    def draws(self) -> bool:
        """Whether drawings are written."""
        return 'picture' in self.formats

    def __enter__(self) -> Writer:
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
            if self.fps and 'json' in self.formats:
                self.lines = (self.out / 'people.jsonl').open('w')
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        for part, close in ((self.video, 'release'), (self.lines, 'close')):
            if part is not None:
                getattr(part, close)()
        return self.fps is not None and kind is KeyboardInterrupt

    def write(self, frame: Frame, sample: Any, drawn: np.ndarray | None) -> None:
        """Writes what was found in one picture."""
        if self.out is None:
            return
        path = self.out / frame.name
        if 'npz' in self.formats:
            write_npz(path.with_name(f'{frame.name}.npz'), sample, self.faces)
        if 'obj' in self.formats:
            write_obj(path.with_name(f'{frame.name}.obj'), sample, self.faces)
        if self.lines is not None:
            self.lines.write(json.dumps(dict(frame=int(frame.name), **as_dict(sample))) + '\n')
            self.lines.flush()
        elif 'json' in self.formats:
            write_json(path.with_name(f'{frame.name}.json'), sample)
        if self.draws and drawn is not None:
            if self.fps is None:
                cv2.imwrite(str(path.with_name(f'{frame.name}.jpg')), drawn)
                return
            if self.video is None:
                code = cv2.VideoWriter.fourcc(*'mp4v')
                self.video = cv2.VideoWriter(str(self.out / 'video.mp4'), code, self.fps, drawn.shape[1::-1])
            self.video.write(drawn)
