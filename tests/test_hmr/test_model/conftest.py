"""A small mesh model, and pictures with people that are made up here."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData

from mmtoken.analysis.loading import quiet_log
from mmtoken.hmr.geometry import fov_intrinsics, points_to_boxes, project
from mmtoken.registry import MODELS

SIDE, PATCH = 64, 4

CONFIG = dict(
    type='mmtoken.TokenHumanMesh',
    data_preprocessor=dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=4 * PATCH),
    backbone=dict(
        type='mmtoken.TokenDINOv2',
        arch=dict(embed_dims=32, num_layers=3, num_heads=2),
        img_size=SIDE,
        patch_size=PATCH,
        layer_scale=1.0,
        fit='pad',
        table='crop',
        reducer=dict(type='mmtoken.SAT', blocks=1, mask_padding=True),
    ),
    input_size=SIDE,
    num_queries=6,
    decoder=dict(dims=32, layers=2, heads=2, hidden=64),
    denoising=dict(groups=2),
    test_cfg=dict(score_thr=0.0),
)


@pytest.fixture
def config():
    """Config of the small model."""
    return copy.deepcopy(CONFIG)


@pytest.fixture
def build(config):
    """Builds the small model; keywords change its config."""

    def make(seed=0, **changes):
        torch.manual_seed(seed)
        with quiet_log():
            model = MODELS.build({**copy.deepcopy(config), **changes})
            model.init_weights()
        return model.eval()

    return make


@pytest.fixture
def picture():
    """Makes a picture of noise with a data sample of ``number`` people."""

    def make(body, number, size=(48, SIDE), seed=0):
        g = torch.Generator().manual_seed(seed)
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
        pose = body.mean_pose + torch.randn(number, 24, 3, generator=g) * 0.1
        betas = torch.randn(number, 10, generator=g)
        transl = torch.rand(number, 3, generator=g) * torch.tensor([1, 0.5, 3]) + torch.tensor([-0.5, -0.2, 2.5])
        points = project(body.joints(pose, betas, transl), fov_intrinsics(size))
        sample.gt_instances = InstanceData(
            bboxes=points_to_boxes(points, size),
            labels=torch.zeros(number, dtype=torch.int64),
            smpl_pose=pose,
            smpl_betas=betas,
            transl=transl,
            keypoints=points,
        )
        cells = [-(-side // (4 * PATCH)) * 2 for side in size]
        sample.gt_scale_map = PixelData(data=torch.rand(2, *cells, generator=g).round())
        return torch.randn(3, *size, generator=g), sample

    return make


@pytest.fixture
def batch(build, picture):
    """The model, two pictures of one size, and their samples with two people and one."""
    model = build()
    images, samples = zip(picture(model.body, 2), picture(model.body, 1, seed=1))
    return model, torch.stack(images), list(samples)
