"""Plausible poses without motion capture: standing, walking, running, sitting, crouching, waving.

Angles are those of SMPL's joints at rest in a T: x bends forwards or backwards, y twists, z goes sideways.
"""

import numpy as np
import torch

from mmtoken.hmr.geometry import matrix_to_axis_angle

#: Actions and how often each is taken.
ACTIONS = dict(stand=0.26, walk=0.24, run=0.08, gesture=0.16, reach=0.08, sit=0.08, crouch=0.05, kneel=0.05)
#: Standard deviation of each joint's three angles in every pose, radians.
NOISE = np.array(
    [
        *([0.0, 0.0, 0.0], [0.06, 0.08, 0.05], [0.06, 0.08, 0.05], [0.06, 0.07, 0.05], [0.06, 0.0, 0.0]),
        *([0.06, 0.0, 0.0], [0.05, 0.07, 0.04], [0.08, 0.08, 0.03], [0.08, 0.08, 0.03], [0.05, 0.06, 0.04]),
        *([0.05, 0.0, 0.0], [0.05, 0.0, 0.0], [0.08, 0.15, 0.06], [0.03, 0.06, 0.06], [0.03, 0.06, 0.06]),
        *([0.1, 0.2, 0.06], [0.15, 0.1, 0.1], [0.15, 0.1, 0.1], [0.25, 0.12, 0.0], [0.25, 0.12, 0.0]),
        *([0.1, 0.15, 0.2], [0.1, 0.15, 0.2], [0.0, 0.1, 0.15], [0.0, 0.1, 0.15]),
    ]
)
HIP, KNEE, ANKLE, COLLAR, SHOULDER, ELBOW = (1, 2), (4, 5), (7, 8), (13, 14), (16, 17), (18, 19)
#: Left, right: sideways and twist are mirrored.
SIDE = (1, -1)


def sample_poses(random: np.random.Generator, number: int) -> np.ndarray:
    """Draws poses.

    Args:
        random (np.random.Generator): Where numbers come from.
        number (int): How many.

    Returns:
        np.ndarray: ``(number, 24, 3)``, float32, axis-angle; the global orientation is none: upright, facing z.
    """
    names, often = list(ACTIONS), np.array(list(ACTIONS.values()))
    angles = np.zeros((number, 24, 3))
    for one in angles:
        _arms_down(random, one)
        POSERS[names[random.choice(len(names), p=often / often.sum())]](random, one)
    angles += random.normal(size=angles.shape).clip(-2, 2) * NOISE
    angles[:, KNEE, 0] = angles[:, KNEE, 0].clip(0, 2.4)  # knees and elbows bend one way
    left, right = ELBOW
    angles[:, left, 1], angles[:, right, 1] = angles[:, left, 1].clip(-2.4, 0), angles[:, right, 1].clip(0, 2.4)
    matrices = torch.from_numpy(euler_to_matrix(angles).astype(np.float32))
    return matrix_to_axis_angle(matrices).numpy()


def euler_to_matrix(angles: np.ndarray) -> np.ndarray:
    """Turns angles ``(…, 3)`` about x, y and z, in radians, into ``Rx Ry Rz`` ``(…, 3, 3)``."""
    (cx, cy, cz), (sx, sy, sz) = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    rows = [cy * cz, -cy * sz, sy, cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy]
    rows += [sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy]
    return np.stack(rows, axis=-1).reshape(*angles.shape[:-1], 3, 3)


def _arms_down(random: np.random.Generator, pose: np.ndarray) -> None:
    for shoulder, elbow, side in zip(SHOULDER, ELBOW, SIDE):
        pose[shoulder] = -random.normal(0, 0.15), 0, -side * random.uniform(1.1, 1.35)
        pose[elbow, 1] = -side * abs(random.normal(0.15, 0.3))


def _stand(random: np.random.Generator, pose: np.ndarray) -> None:
    """With the weight on one leg, perhaps with the hands before the belly or on the hips."""
    lean = random.normal(0, 0.06)
    for hip, side in zip(HIP, SIDE):
        pose[hip, 2] = side * random.uniform(-0.02, 0.2) + lean
    pose[3, 2] = lean
    if random.random() < 0.3:
        pose[random.choice(KNEE), 0] = random.uniform(0, 0.4)
    style = random.random()
    for shoulder, elbow, side in zip(SHOULDER, ELBOW, SIDE):
        if style < 0.15:  # hands on hips
            pose[shoulder], pose[elbow] = (0.35, 0, -side * 0.85), (0.5, -side * 1.75, 0)
        elif style < 0.35:  # hands together, or a phone
            bend = random.uniform(1.0, 1.8)
            pose[shoulder], pose[elbow] = (-0.25, 0, -side * 1.15), (-0.5, -side * bend, 0)


def _walk(random: np.random.Generator, pose: np.ndarray, stride: float = 0.36, lean: float = 0.04) -> None:
    phase = random.uniform(0, 2 * np.pi)
    stride = stride * random.uniform(0.6, 1.2)
    pose[3, 0] = lean
    for leg, (hip, knee, ankle, shoulder, elbow, side) in enumerate(zip(HIP, KNEE, ANKLE, SHOULDER, ELBOW, SIDE)):
        t = phase + np.pi * leg
        pose[hip, 0] = -stride * np.sin(t) - 0.25 * stride
        pose[knee, 0] = 0.1 + 2.0 * stride * max(0.0, np.cos(t)) ** 2
        pose[ankle, 0] = 0.3 * stride * np.sin(t)
        pose[shoulder] = 0.8 * stride * np.sin(t), 0, -side * random.uniform(1.2, 1.35)
        pose[elbow, 1] = -side * (0.25 + 0.5 * stride)
    pose[6, 1] = 0.2 * stride * np.sin(phase)


def _run(random: np.random.Generator, pose: np.ndarray) -> None:
    _walk(random, pose, stride=0.7, lean=0.15)
    for elbow, side in zip(ELBOW, SIDE):
        pose[elbow, 1] = -side * random.uniform(1.2, 1.7)


def _gesture(random: np.random.Generator, pose: np.ndarray) -> None:
    """One or both arms raised before the body or to the side, elbows bent."""
    _stand(random, pose)
    arms = random.choice(3)
    for arm, (shoulder, elbow, side) in enumerate(zip(SHOULDER, ELBOW, SIDE)):
        if arms in (arm, 2):
            forward, across, down = random.uniform((-0.2, 0, -0.1), (0.9, 0.9, 1.1))
            pose[shoulder] = -forward, -side * across, -side * down
            pose[elbow] = random.uniform(-1.5, 0.6), -side * random.uniform(0.2, 2.0), 0


def _reach(random: np.random.Generator, pose: np.ndarray) -> None:
    """Arms up."""
    _stand(random, pose)
    arms = random.choice(3)
    for arm, (collar, shoulder, elbow, side) in enumerate(zip(COLLAR, SHOULDER, ELBOW, SIDE)):
        if arms in (arm, 2):
            pose[collar, 2] = side * 0.25
            pose[shoulder] = -random.uniform(0, 0.4), -side * random.uniform(0, 0.5), side * random.uniform(0.2, 1.1)
            pose[elbow, 1] = -side * random.uniform(0, 1.2)


def _sit(random: np.random.Generator, pose: np.ndarray) -> None:
    """On the ground, legs stretched out or drawn up."""
    for hip, knee, side in zip(HIP, KNEE, SIDE):
        drawn = random.uniform(0, 1)
        pose[hip] = -random.uniform(1.4, 1.6) - 0.6 * drawn, 0, side * random.uniform(0.0, 0.3)
        pose[knee, 0] = 2.0 * drawn
    pose[3, 0] = pose[6, 0] = random.uniform(-0.1, 0.25)
    _hands_before(random, pose)


def _crouch(random: np.random.Generator, pose: np.ndarray) -> None:
    deep = random.uniform(0.6, 1.0)
    for hip, knee, ankle, side in zip(HIP, KNEE, ANKLE, SIDE):
        pose[hip] = -2.0 * deep, 0, side * random.uniform(0.1, 0.4)
        pose[knee, 0], pose[ankle, 0] = 2.2 * deep, -0.5 * deep
    pose[0, 0] = 0.35 * deep
    pose[3, 0] = 0.3 * deep
    _hands_before(random, pose)


def _kneel(random: np.random.Generator, pose: np.ndarray) -> None:
    """One knee on the ground."""
    down = random.choice(2)
    for leg, (hip, knee, ankle) in enumerate(zip(HIP, KNEE, ANKLE)):
        pose[hip, 0], pose[knee, 0], pose[ankle, 0] = (0.1, 1.6, 0.6) if leg == down else (-1.45, 1.5, 0.0)
    _hands_before(random, pose)


def _hands_before(random: np.random.Generator, pose: np.ndarray) -> None:
    for shoulder, elbow, side in zip(SHOULDER, ELBOW, SIDE):
        pose[shoulder] = -random.uniform(0.2, 0.9), 0, -side * random.uniform(0.9, 1.25)
        pose[elbow, 1] = -side * random.uniform(0.2, 1.3)


POSERS = dict(
    stand=_stand, walk=_walk, run=_run, gesture=_gesture, reach=_reach, sit=_sit, crouch=_crouch, kneel=_kneel
)
