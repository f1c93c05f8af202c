"""The whole model: size and cost of the published one, batches, cameras, gradients, and that it can learn."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from torch.nn.utils import clip_grad_norm_

from mmtoken.analysis.counter import count_macs
from mmtoken.analysis.flops import inference_path
from mmtoken.analysis.tasks import task_of
from mmtoken.core import Packing, Tokens
from mmtoken.engine.errors import UserError
from mmtoken.engine.origins import Origins
from mmtoken.hmr.geometry import fov_intrinsics, project
from mmtoken.hmr.model.cameras import BOX_DIAGONAL
from mmtoken.methods.mixed_scale.cells import Cells
from mmtoken.methods.sat.reducer import ScaleRecord
from mmtoken.registry import MODELS

# ---------------------------------------------------------------------- the published model
DIMS, GRID = 768, (52, 92)  # a picture of 16:9, 1288 pixels long


@pytest.fixture(scope='module')
def published():
    """SAT-HMR with ViT-B, without memory for its weights."""
    backbone = dict(
        type='mmtoken.TokenDINOv2',
        arch='base',
        img_size=1288,
        layer_scale=1.0,
        fit='pad',
        table='crop',
        reducer=dict(type='mmtoken.SAT'),
    )
    with torch.device('meta'):
        return MODELS.build(dict(type='mmtoken.TokenHumanMesh', backbone=backbone)).eval()


def millions(*parts):
    return sum(p.numel() for part in parts for p in part.parameters()) / 1e6


def test_parameters_are_those_of_the_paper(published):
    host, heads = published.backbone, published.heads
    assert millions(published) == pytest.approx(221.9, abs=0.1)
    assert millions(host.blocks, host.reducer.blocks) == pytest.approx(106.3, abs=0.1)
    assert millions(host.reducer.blocks) == pytest.approx(21.3, abs=0.1)
    assert millions(published.decoder) == pytest.approx(72.7, abs=0.1)
    assert millions(published.decoder.boxes) == pytest.approx(7.1, abs=0.1)
    assert millions(heads.pose) == pytest.approx(18.4, abs=0.1)
    assert millions(heads.shape) == pytest.approx(14.2, abs=0.1)
    assert millions(host.reducer.head) == pytest.approx(1.8, abs=0.1)
    assert millions(heads.camera) == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize(
    'fine, coarse, pooled, gmacs',
    [
        (0, 0, 299, 65.3),
        (156, 85, 268, 87.1),
        (240, 104, 258, 97.5),
        (480, 152, 231, 128.5),
        (584, 170, 220, 142.5),
        (928, 184, 195, 188.0),
        (1424, 220, 155, 262.5),
    ],
)
def test_macs_are_those_of_the_official_code(published, fine, coarse, pooled, gmacs):
    """Whose counts are of a picture with so many tokens of each level; those in between at 133.1 are AGORA's mean."""
    host = published.backbone
    levels = torch.tensor([0] * (fine // 4) + [1] * coarse + [2] * (4 * pooled))[None]
    state = type('State', (), dict(aux={host.reducer: ScaleRecord(None, Cells(GRID, 'cpu'), 14, 1288, levels)}))
    cost = host.reducer.closed_form(host.info(), GRID, state)
    sequences = [n + 1 for block in cost.mlp for n in (block if isinstance(block, tuple) else (block,))]
    encoder = sum(12 * n * DIMS**2 + 2 * n**2 * DIMS for n in sequences)
    encoder += cost.reduce + cost.stem + GRID[0] * GRID[1] * 3 * 14**2 * DIMS

    number = fine + coarse + pooled
    empty = [torch.empty(number, *more, device='meta') for more in ((DIMS,), (2,), ())]
    packing = Packing(torch.tensor([number], device='meta'), [number])
    decoder = count_macs(published, Tokens(empty[0], packing, *empty[1:]), call=published.decode)
    assert not decoder.missed
    # SMPL of all 50 queries: shape and pose correctives, regressor, blended maps. Ours runs for those that are found.
    body = 50 * 6890 * (3 * 10 + 3 * 207 + 3 * 24 + 24 * 16 + 16)
    assert (encoder + decoder.total + body) / 1e9 == pytest.approx(gmacs, rel=0.01)


# ---------------------------------------------------------------------- a small one
def metas(*sizes):
    return [DetDataSample(metainfo=dict(img_shape=size, scale_factor=(1.0, 1.0))) for size in sizes]


def test_a_picture_gives_the_same_in_every_batch(build):
    for reducer in (
        dict(type='mmtoken.SAT', blocks=1, confidence=0.5, mask_padding=True),
        dict(type='mmtoken.SAT', levels=1, mask_padding=True),
    ):
        model = build()
        backbone = dict(model_backbone(), reducer=reducer)
        model = build(backbone=backbone)
        images = torch.zeros(2, 3, 48, 64)
        images[0, :, :, :40], images[1, :, :30] = torch.randn(3, 48, 40), torch.randn(3, 30, 64)
        both = model.predict(images, metas((48, 40), (30, 64)))
        singles = [
            model.predict(images[:1, :, :, :48], metas((48, 40)))[0],
            model.predict(images[1:, :, :32], metas((30, 64)))[0],
        ]
        for a, b in zip(both, singles):
            assert len(a.pred_instances) == 6
            for name in ('scores', 'bboxes', 'vertices', 'keypoints'):
                torch.testing.assert_close(a.pred_instances[name], b.pred_instances[name], atol=1e-4, rtol=1e-4)


def test_pictures_without_samples_get_new_ones(build):
    images = torch.randn(2, 3, 48, 64)
    for a, b in zip(build().predict(images), build().predict(images, metas((48, 64), (48, 64)))):
        torch.testing.assert_close(a.pred_instances.vertices, b.pred_instances.vertices)


def model_backbone():
    return dict(
        type='mmtoken.TokenDINOv2',
        arch=dict(embed_dims=32, num_layers=3, num_heads=2),
        img_size=64,
        patch_size=4,
        layer_scale=1.0,
        fit='pad',
        table='crop',
    )


def test_losses_reach_every_parameter(batch):
    model, images, samples = batch
    for box in model.decoder.boxes:
        torch.nn.init.normal_(box[-1].weight)  # zero at first, so that nothing before it would learn
    losses = model.train().loss(images, samples)
    assert {'reducer.loss_map_confidence', 'reducer.loss_map_scale', 'loss_pose', 'd0.dn_loss_box'} <= set(losses)
    sum(losses.values()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_pictures_without_people(build, picture):
    model = build().train()
    image, sample = picture(model.body, 0)
    losses = model.loss(image[None], [sample])
    assert all(value.isfinite() for value in losses.values())
    assert float(losses['loss_pose']) == 0 and float(losses['loss_confidence']) > 0
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None], 'distributed training would wait'
    model.eval().test_cfg['score_thr'] = 1.0
    found = model.predict(image[None], [sample])[0].pred_instances
    assert len(found) == 0 and found.vertices.shape[1:] == (len(model.body.template), 3)


def test_it_learns_two_pictures(build, picture):
    model = build(denoising=dict(groups=1), num_queries=4)
    images, samples = zip(picture(model.body, 2), picture(model.body, 1, seed=1))
    images = torch.stack(images)

    def error():
        """Mean distance of the surest people from the nearest label in metres; and which labels these are."""
        away, chosen = [], []
        for sample in model.eval().predict(images, list(samples)):
            labels, found = sample.gt_instances, sample.pred_instances[: len(sample.gt_instances)]
            goal = model.body.joints(labels.smpl_pose, labels.smpl_betas, labels.transl)
            distance = (found.keypoints_3d[:, None] - goal).norm(dim=-1).mean(-1)
            away.append(distance.min(1).values.mean())
            chosen.append(sorted(distance.argmin(1).tolist()))
        return sum(away) / 2, chosen

    before = error()[0]
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=60)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model.loss(images, list(samples)).values()).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    after, chosen = error()
    assert after < before / 4 and chosen == [[0, 1], [0]]


def test_labels_decide_over_the_tokens_at_first(batch):
    model, images, samples = batch
    model.backbone.reducer.guided = 0.5
    model.train().loss(images, samples)
    maps = torch.stack([sample.gt_scale_map.data.flatten(1) for sample in samples])
    assert torch.equal(model.backbone.reducer.guide, maps)


def test_the_reducer_may_learn_alone(batch, build):
    model, images, samples = batch
    alone = build(train_cfg=dict(only_reducer=True)).train()
    losses = alone.loss(images, samples)
    assert set(losses) == {'reducer.loss_map_confidence', 'reducer.loss_map_scale'}
    with pytest.raises(ValueError, match='only_reducer=True needs a reducer with losses'):
        build(backbone=model_backbone(), train_cfg=dict(only_reducer=True)).loss(images, samples)
    together = model.train().loss(images, samples)
    for name, value in losses.items():
        torch.testing.assert_close(value, together[name])


# ---------------------------------------------------------------------- cameras
def test_an_anchored_camera_puts_people_into_their_boxes(build):
    """With a camera head that says nothing, somebody stands in the middle of the box and is as tall as it says."""
    model = build(camera=dict(anchored=True))
    boxes = torch.tensor([[0.3, 0.4, 0.1, 0.3], [0.8, 0.6, 0.2, 0.6]])
    k, centre = fov_intrinsics((48, 64)).expand(2, 3, 3), torch.tensor([[32.0, 24.0]]).expand(2, 2)
    where = model.cameras.translations(torch.zeros(2, 3), boxes, k, centre, 64)
    torch.testing.assert_close(project(where[:, None], k)[:, 0] / 64, boxes[:, :2])
    diagonal = (boxes[:, 2:] * 64).norm(dim=1) / k[:, 0, 0] * where[:, 2]  # metres
    torch.testing.assert_close(diagonal, torch.full((2,), BOX_DIAGONAL), rtol=1e-3, atol=0)
    plain = build().cameras.translations(torch.zeros(2, 3), boxes, k, centre, 64)
    torch.testing.assert_close(plain[0], plain[1])


def test_a_known_camera_moves_people_and_not_their_picture(build):
    model, image = build(), torch.randn(1, 3, 48, 64)
    plain = model.predict(image, metas((48, 64)))[0]
    known = metas((48, 64))
    camera = fov_intrinsics((48, 64), 30.0)
    camera[:2, 2] += torch.tensor([5.0, -3.0])
    known[0].set_metainfo(dict(cam_intrinsics=camera.numpy()))
    moved = model.predict(image, known)[0]
    a, b = plain.pred_instances, moved.pred_instances
    zoom = float(camera[0, 0] / fov_intrinsics((48, 64))[0, 0])
    torch.testing.assert_close(b.transl[:, 2], a.transl[:, 2] * zoom)
    for sample, people in ((plain, a), (moved, b)):
        k = torch.from_numpy(sample.pred_cam_intrinsics)
        torch.testing.assert_close(project(people.keypoints_3d, k), people.keypoints)
    origin = [
        project(people.transl[:, None], torch.from_numpy(s.pred_cam_intrinsics))
        for s, people in ((plain, a), (moved, b))
    ]
    torch.testing.assert_close(*origin)

    known[0].set_metainfo(dict(cam_intrinsics=None, fov=30.0))
    wide = model.predict(image, known)[0]
    torch.testing.assert_close(wide.pred_instances.transl[:, 2], a.transl[:, 2] * zoom)
    published = build(camera=dict(known=False)).predict(image, known)[0]
    torch.testing.assert_close(published.pred_instances.transl, a.transl)


def test_results_are_in_pixels_of_the_original_picture(build):
    model, image = build(), torch.randn(1, 3, 48, 64)
    small, large = metas((48, 64)), metas((48, 64))
    large[0].set_metainfo(dict(scale_factor=(0.5, 0.25)))
    a, b = model.predict(image, small)[0], model.predict(image, large)[0]
    scale = torch.tensor([2.0, 4.0])
    torch.testing.assert_close(b.pred_instances.keypoints, a.pred_instances.keypoints * scale)
    torch.testing.assert_close(b.pred_instances.bboxes, a.pred_instances.bboxes * scale.repeat(2))
    assert np.allclose(b.pred_cam_intrinsics[:2], a.pred_cam_intrinsics[:2] * scale[:, None].numpy())
    torch.testing.assert_close(b.pred_instances.vertices, a.pred_instances.vertices)
    assert (b.pred_instances.scores.diff() <= 0).all()


def test_tools_know_what_it_is(build):
    model, images = build(), torch.randn(2, 3, 48, 64)
    task = task_of(model)
    assert task.name == 'mesh'
    found = inference_path(model)(images)
    assert found['vertices'].shape == (12, len(model.body.template), 3) and found['image'].tolist() == [0] * 6 + [1] * 6
    assert task.compare(found, found) == {'vertex distance (mm)': 0.0}


# ---------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    'change, message',
    [
        (dict(backbone=dict(out_indices=(1, 2))), 'out_indices=.* must name one block'),
        (dict(backbone=dict(fit='resize')), "fit='resize' stretches pictures"),
        (dict(input_size=0), 'model.input_size=0'),
        (dict(test_cfg=dict(score_thr=2)), 'model.test_cfg.score_thr=2'),
        (dict(camera=dict(fov=180)), 'camera.fov=180'),
        (dict(camera=dict(anchored=1)), 'camera.anchored=1'),
        (dict(matcher=dict(box=-1)), 'matcher.box=-1'),
    ],
)
def test_bad_arguments(build, change, message):
    if 'backbone' in change:
        change['backbone'] = {**model_backbone(), **change['backbone']}
    with pytest.raises(ValueError, match=message):
        build(**change)


def test_bad_pictures_and_samples(batch):
    model, images, samples = batch
    with pytest.raises(ValueError, match=r'80 pixels long and model.input_size=64'):
        model.predict(torch.randn(1, 3, 48, 80), metas((48, 80)))
    bad = metas((48, 64))
    bad[0].set_metainfo(dict(cam_intrinsics=np.zeros((3, 3))))
    with pytest.raises(ValueError, match='cam_intrinsics=.*positive focal'):
        model.predict(images[:1], bad)
    samples[0].gt_instances.keypoints = samples[0].gt_instances.keypoints[:, :24]
    samples[1].gt_instances.keypoints = samples[1].gt_instances.keypoints[:, :24]
    with pytest.raises(ValueError, match='24 points.*model.body_model 45 joints'):
        model.loss(images, samples)
    for sample in samples:
        del sample.gt_instances.keypoints
    with pytest.raises(ValueError, match=r'lack gt_instances\.keypoints'):
        model.loss(images, samples)


def test_labels_that_are_not_finite_teach_nothing(batch):
    model, images, samples = batch
    torch.manual_seed(0)
    labels = samples[0].gt_instances
    labels.smpl_pose[0, 3] = labels.transl[0] = float('nan')
    labels.keypoints[0, 5] = float('inf')
    losses = model.train().loss(images, samples)
    assert all(value.isfinite() for value in losses.values())


def test_a_decoder_starts_anew_on_a_scale_head_that_was_trained_before(build, config, tmp_path):
    """Of the first step's checkpoint only the backbone counts; its decoder never learned."""
    before = build(seed=1)
    path = str(tmp_path / 'iter_9.pth')
    torch.save(dict(state_dict=before.state_dict()), path)
    backbone = copy.deepcopy(config['backbone'])
    backbone['reducer']['frozen'] = True
    backbone['init_cfg'] = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    model = build(seed=2, backbone=backbone)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before.backbone.state_dict()[name]), name
    assert not torch.equal(model.decoder.layers[0].ffn[0].weight, before.decoder.layers[0].ffn[0].weight)

    headless = {name: value for name, value in before.state_dict().items() if 'reducer.head' not in name}
    for state in (before.state_dict(), headless):
        torch.save(dict(state_dict=state), path)
        origins = Origins(model)
        model.backbone.init_weights()
        with nullcontext() if state is not headless else pytest.raises(UserError, match='head.0.weight and 7 more'):
            origins.check_frozen()
