"""TokenHumanMesh: all people of a picture as meshes, from the tokens of a reduced backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmtoken.core import TokenHost, Tokens
from mmtoken.core.arguments import check_int, check_number
from mmtoken.core.ops import full_precision
from mmtoken.hmr.geometry import matrix_to_axis_angle
from mmtoken.models.mixin import TokenModelMixin, sizes_of
from mmtoken.registry import BODY_MODELS, MODELS

from .cameras import Cameras
from .decoder import DABDecoder
from .denoising import Denoising, NoisyQueries
from .heads import MeshHeads, Predictions
from .losses import MeshLoss
from .matching import HungarianMatcher, Pairs
from .memory import TokenMemory
from .people import People


@MODELS.register_module()
class TokenHumanMesh(TokenModelMixin, BaseDetector):
    """Multi-person human mesh recovery in one pass (SAT-HMR, arXiv 2411.19824; independent implementation).

    The backbone's tokens, of whatever resolutions its reducer leaves, are the memory of a DAB-DETR decoder. Each query
    says how sure it is of a person, its box, pose and shape, and where it stands. Without a reducer this is the model
    at one resolution.

    Samples are mmdet's: ``gt_instances`` as :meth:`People.of` reads them; ``pred_instances`` with ``bboxes``,
    ``scores``, ``labels``, ``smpl_pose (N, 24, 3)``, ``smpl_betas (N, 10)``, ``transl (N, 3)``, ``keypoints (N, J, 2)``
    in pixels of the original picture, and, in metres in the camera's frame, ``keypoints_3d (N, J, 3)`` and ``vertices
    (N, V, 3)``. The camera itself is the sample's ``pred_cam_intrinsics``. A sample may bring ``cam_intrinsics`` (3x3,
    of the picture as the network sees it) or ``fov`` (degrees over its longest side).

    Args:
        backbone (dict): A host; ``out_indices`` names one block.
        body_model (dict, optional): Body model of :data:`mmtoken.registry.BODY_MODELS`. Defaults to ``FreeBody``.
        input_size (int): Longest side S of a picture, pixels. Defaults to 1288.
        num_queries (int): Most people that can be found. Defaults to 50.
        levels (int, optional): Resolutions of tokens. By default those of the reducer, but at least the paper's 3.
        decoder (dict, optional): Arguments of :class:`DABDecoder`.
        denoising (dict, optional): Arguments of :class:`Denoising`; ``dict(groups=0)`` leaves it out.
        matcher (dict, optional): Arguments of :class:`HungarianMatcher`.
        losses (dict, optional): Arguments of :class:`MeshLoss`.
        camera (dict, optional): Arguments of :class:`Cameras`.
        test_cfg (dict, optional): ``score_thr``, the least confidence of a person; the paper takes 0.5 for AGORA and
            BEDLAM, and 0.3 for photos. Defaults to 0.5.
        train_cfg (dict, optional): ``only_reducer=True`` trains the reducer alone, on its own losses, so that a decoder
            can learn on the cached tokens of a frozen one afterwards. Defaults to False.
        data_preprocessor (dict, optional): mmdet's ``DetDataPreprocessor``, padding to whole blocks of tokens.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        ValueError: In one line that names the argument.
    """

    task = 'mesh'

    def __init__(
        self,
        backbone: dict,
        body_model: dict | None = None,
        input_size: int = 1288,
        num_queries: int = 50,
        levels: int | None = None,
        decoder: dict | None = None,
        denoising: dict | None = None,
        matcher: dict | None = None,
        losses: dict | None = None,
        camera: dict | None = None,
        test_cfg: dict | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.check_backbone()
        self.train_cfg = train_cfg
        self.bind_reducer()
        self.backbone.gives_tokens = True
        self.input_size = check_int('model.input_size', input_size, 1)
        check_int('model.num_queries', num_queries, 1)
        levels = max(3, getattr(self.reducer, 'levels', 3)) if levels is None else check_int('model.levels', levels, 1)
        self.test_cfg = {'score_thr': 0.5, **(test_cfg or {})}
        check_number('model.test_cfg.score_thr', self.test_cfg['score_thr'], 0, 1)

        self.body = BODY_MODELS.build(body_model or dict(type='FreeBody'))
        self.decoder = DABDecoder(**(decoder or {}))
        dims, layers = self.decoder.dims, len(self.decoder.layers)
        self.memory = TokenMemory(self.backbone.embed_dims, dims, levels, self.decoder.temperature)
        self.heads = MeshHeads(self.body.mean_pose, self.body.mean_shape, dims, layers)
        parameters = self.body.mean_pose.numel() + self.body.mean_shape.numel()
        self.denoising = Denoising(dims, parameters=parameters, **(denoising or {}))
        self.content = nn.Parameter(torch.randn(num_queries, dims))
        self.anchors = nn.Parameter(
            torch.cat([torch.rand(num_queries, 2).logit(1e-2), torch.full((num_queries, 2), -1.0)], 1)
        )
        self.matcher = HungarianMatcher(**(matcher or {}))
        self.losses = MeshLoss(**(losses or {}))
        self.cameras = Cameras(**(camera or {}))

    def check_backbone(self) -> None:
        """Refuses a backbone that gives no tokens to read.

        Raises:
            ValueError: In one line that names the key and the remedy.
        """
        host, key = self.backbone, 'model.backbone'
        if not isinstance(host, TokenHost):
            raise ValueError(
                f'{key}.type={type(host).__name__} gives no tokens; take mmtoken.TokenDINOv2 or another host.'
            )
        if len(host.out_indices) != 1:
            raise ValueError(f'{key}.out_indices={host.out_indices} must name one block, such as -1.')
        if host.fit == 'resize':
            raise ValueError(f"{key}.fit='resize' stretches pictures, and people are measured in them; set fit='pad'.")
        if self.reducer is not None and self.reducer.finishes:
            raise ValueError(f'{key}.reducer: {self.reducer.finishes}, as only a segmentor does; take mmtoken.SAT.')

    # ------------------------------------------------------------------ the network
    def extract_feat(self, batch_inputs: Tensor) -> Tokens:
        """Returns the tokens of the backbone."""
        return self.backbone(batch_inputs)[0]

    def decode(self, tokens: Tokens, noisy: NoisyQueries | None = None) -> Predictions:
        """Returns what the queries say; denoising queries come first.

        Args:
            tokens (Tokens): Of a batch.
            noisy (NoisyQueries, optional): Denoising queries.
        """
        batch = len(tokens.packing)
        content, anchors = (x.expand(batch, -1, -1) for x in (self.content, self.anchors))
        mask = None
        if noisy is not None:
            content, anchors = torch.cat([noisy.content, content], 1), torch.cat([noisy.anchors, anchors], 1)
            mask = noisy.mask
        memory = self.memory(tokens, self.backbone.patch_size, self.input_size)
        return self.heads(*self.decoder(content, anchors, memory, mask))

    def place(self, found: Predictions, cameras: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Returns joints ``(N, J, 3)`` in the camera's frame and translations ``(N, 3)``, metres.

        Args:
            found (Predictions): Of N queries.
            cameras (Tensor): Cameras of their pictures ``(N, 3, 3)``.
            centres (Tensor): Centres of their pictures ``(N, 2)``, pixels.
        """
        where = self.cameras.translations(found.camera, found.boxes, cameras, centres, self.input_size)
        return self.body.joints(found.rotations, found.betas, where), where

    def views(self, inputs: Tensor, metas: Sequence[dict]) -> tuple[Tensor, Tensor]:
        """Returns the cameras ``(B, 3, 3)`` and the centres ``(B, 2)`` of pictures, pixels.

        Raises:
            ValueError: If a picture is larger than the model takes.
        """
        metas = list(metas) or [{}] * len(inputs)
        sizes = sizes_of(metas, inputs)
        largest = max(max(size) for size in sizes)
        if largest > self.input_size:
            raise ValueError(
                f'A picture is {largest} pixels long and model.input_size={self.input_size}; resize it in the pipeline.'
            )
        centres = torch.tensor([[w / 2, h / 2] for h, w in sizes], device=inputs.device)
        return self.cameras.intrinsics(metas, sizes, inputs.device), centres

    # ------------------------------------------------------------------ training
    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Returns the losses by name; those of the reducer under ``reducer.``."""
        self.note_progress(batch_inputs, batch_data_samples)
        if self.only_reducer:
            return self.losses_of_reducer_alone(batch_inputs, batch_data_samples)
        metas = [sample.metainfo for sample in batch_data_samples]
        views = self.views(batch_inputs, metas)
        people = People.of(batch_data_samples, self.body, self.input_size, views[0])
        noisy = self.denoising(people, len(self.content))
        with self.serving(batch_inputs, metas) as states:
            tokens = self.extract_feat(batch_inputs)
        found = self.decode(tokens, noisy)
        with full_precision(batch_inputs):
            extra = 0 if noisy is None else noisy.real.shape[1]
            own = found[:, :, extra:]
            losses = self.compare(own, self.match(own, people, *views), people, *views)
            if noisy is not None:
                other = found[:, :, :extra]
                losses.update(self.compare(other, self.pair(noisy, len(own.logits)), people, *views, noisy))
            else:  # distributed training waits for the gradient of every parameter
                losses['loss_confidence'] += 0 * sum(p.sum() for p in self.denoising.parameters())
        losses.update(self.reducer_losses(states, batch_data_samples))
        return losses

    @torch.no_grad()
    def match(self, found: Predictions, people: People, cameras: Tensor, centres: Tensor) -> Pairs:
        """Matches the queries of each layer with the people of their picture."""
        layers, batch, queries = found.logits.shape
        image = torch.arange(batch, device=cameras.device).repeat_interleave(queries).repeat(layers)
        flat = Predictions(*(value.flatten(0, 2) for value in vars(found).values()))
        joints = self.place(flat, cameras[image], centres[image])[0][:, : self.matcher.joints]
        points = self.cameras.keypoints(joints, cameras[image]) / self.input_size
        return self.matcher(found.logits, found.boxes, points.unflatten(0, (layers, batch, queries)), people)

    def pair(self, noisy: NoisyQueries, layers: int) -> Pairs:
        """Returns the pairs of denoising queries, which are known, for all layers that have such losses."""
        used = range(layers) if self.losses.auxiliary_denoising else [layers - 1]
        layer = torch.tensor(used, device=noisy.image.device).repeat_interleave(len(noisy.image))
        return Pairs(layer, *(x.repeat(len(used)) for x in (noisy.image, noisy.query, noisy.person)))

    def compare(
        self,
        found: Predictions,
        pairs: Pairs,
        people: People,
        cameras: Tensor,
        centres: Tensor,
        noisy: NoisyQueries | None = None,
    ) -> dict[str, Tensor]:
        """Returns the losses of queries that are matched with people."""
        cameras, centres = cameras[pairs.image], centres[pairs.image]
        joints = self.place(found[pairs.index], cameras, centres)[0]
        points = self.cameras.keypoints(joints, cameras) / self.input_size
        if noisy is None:
            return self.losses(found, pairs, joints, points, people)
        return self.losses(found, pairs, joints, points, people, noisy.real, self.denoising.groups, 'dn_')

    # ------------------------------------------------------------------ test
    @torch.no_grad()
    def find(self, batch_inputs: Tensor, metas: Sequence[dict]) -> dict[str, Tensor]:
        """Finds the people of a batch.

        Returns:
            dict[str, Tensor]: For the P people of all pictures ``image (P,)``, ``scores (P,)``, ``bboxes (P, 4)`` in
            pixels (left, top, right, bottom), ``smpl_pose``, ``smpl_betas``, ``transl``, ``keypoints``,
            ``keypoints_3d`` and ``vertices``, see the class; and the ``cameras (B, 3, 3)``. Also the
            :meth:`Reducer.maps` of the pass, named ``pred_…``.
        """
        cameras, centres = self.views(batch_inputs, metas)
        with self.serving(batch_inputs, metas) as states:
            tokens = self.extract_feat(batch_inputs)
        maps = self.reducer.maps(states[-1]) if self.reducer is not None and states else {}
        last = self.decode(tokens)[-1]
        with full_precision(batch_inputs):
            scores = last.logits.sigmoid()
            image, query = (scores >= self.test_cfg['score_thr']).nonzero(as_tuple=True)
            found = last[image, query]
            places = cameras[image], centres[image]
            where = self.cameras.translations(found.camera, found.boxes, *places, self.input_size)
            vertices, joints = self.body(found.rotations, found.betas, where)
            return dict(
                image=image,
                scores=scores[image, query],
                bboxes=bbox_cxcywh_to_xyxy(found.boxes) * self.input_size,
                smpl_pose=matrix_to_axis_angle(found.rotations),
                smpl_betas=found.betas,
                transl=where,
                keypoints=self.cameras.keypoints(joints, cameras[image]),
                keypoints_3d=joints,
                vertices=vertices,
                cameras=cameras,
                **{f'pred_{name}': value for name, value in maps.items()},
            )

    def predict(self, batch_inputs: Tensor, batch_data_samples: list | None = None, rescale: bool = True) -> list:
        """Finds the people of a batch.

        Args:
            batch_inputs (Tensor): Images ``(B, 3, H, W)``.
            batch_data_samples (list[DetDataSample], optional): One for each; None makes them.
            rescale (bool): Give boxes, keypoints and camera in pixels of the original picture. Defaults to True.

        Returns:
            list[DetDataSample]: The samples, with ``pred_instances``, the surest person first, and the reducer's maps.
        """
        samples = [DetDataSample() for _ in batch_inputs] if batch_data_samples is None else batch_data_samples
        metas = [sample.metainfo for sample in samples]
        found = self.find(batch_inputs, metas)
        image, cameras = found.pop('image'), found.pop('cameras')
        maps = {name: found.pop(name) for name in list(found) if name.startswith('pred_')}
        for i, (sample, meta) in enumerate(zip(samples, metas)):
            here = (image == i).nonzero()[:, 0]
            here = here[found['scores'][here].argsort(descending=True)]
            people = InstanceData(**{name: value[here] for name, value in found.items()})
            people.labels = torch.zeros_like(here)
            camera = cameras[i].clone()
            if rescale and 'scale_factor' in meta:
                scale = people.bboxes.new_tensor(meta['scale_factor'][:2])
                people.bboxes, people.keypoints = people.bboxes / scale.repeat(2), people.keypoints / scale
                camera[:2] /= scale[:, None]
            sample.pred_instances = people
            for name, value in maps.items():
                sample.set_data({name: PixelData(data=value[i])})
            sample.set_metainfo(dict(pred_cam_intrinsics=camera.cpu().numpy()))
        return samples

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> dict[str, Tensor]:
        """Returns what :meth:`find` returns."""
        return self.find(batch_inputs, [sample.metainfo for sample in batch_data_samples or ()])
