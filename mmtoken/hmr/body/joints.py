"""The 45 joints that people use with SMPL: 24 of the skeleton, 21 that are single vertices."""

#: The first 24 are those of the skeleton; face, feet and finger tips follow.
JOINT_NAMES = (
    *('pelvis', 'left_hip', 'right_hip', 'spine1', 'left_knee', 'right_knee', 'spine2', 'left_ankle', 'right_ankle'),
    *('spine3', 'left_foot', 'right_foot', 'neck', 'left_collar', 'right_collar', 'head', 'left_shoulder'),
    *('right_shoulder', 'left_elbow', 'right_elbow', 'left_wrist', 'right_wrist', 'left_hand', 'right_hand'),
    *('nose', 'right_eye', 'left_eye', 'right_ear', 'left_ear'),
    *('left_big_toe', 'left_small_toe', 'left_heel', 'right_big_toe', 'right_small_toe', 'right_heel'),
    *('left_thumb', 'left_index', 'left_middle', 'left_ring', 'left_pinky'),
    *('right_thumb', 'right_index', 'right_middle', 'right_ring', 'right_pinky'),
)

#: Joint that each of the 24 hangs on; -1 for the pelvis.
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)

_depths: list[int] = []
for _parent in PARENTS:
    _depths.append(0 if _parent < 0 else _depths[_parent] + 1)
#: How many joints are equally far from the pelvis: first itself, then those that hang on it, and so on.
LEVELS = tuple(_depths.count(depth) for depth in sorted(set(_depths)))

#: Which joint each of the 45 becomes in a mirror.
FLIP_JOINTS = tuple(
    JOINT_NAMES.index(name.replace('left', 'LEFT').replace('right', 'left').replace('LEFT', 'right'))
    for name in JOINT_NAMES
)
