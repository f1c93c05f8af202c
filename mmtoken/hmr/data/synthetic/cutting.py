"""Cuts a mesh along lines, so that colours can end there."""

import numpy as np


class CutMesh:
    """A mesh whose vertices are means of at most three vertices of another one.

    Args:
        points (np.ndarray): Vertices ``(V, 3)``.
        faces (np.ndarray): ``(F, 3)``, int.

    Attributes:
        points (np.ndarray): ``(V', 3)``.
        faces (np.ndarray): ``(F', 3)``, int.
        weights (np.ndarray): ``(V', V)``: the points are ``weights @ points`` of the first mesh.
    """

    def __init__(self, points: np.ndarray, faces: np.ndarray):
        self.points, self.faces, self.weights = points, faces, np.eye(len(points), dtype=np.float32)

    def cut(self, distance: np.ndarray, which: np.ndarray | None = None) -> None:
        """Cuts triangles where a function of the vertices changes its sign.

        Args:
            distance (np.ndarray): ``(V',)``.
            which (np.ndarray, optional): Vertices ``(V',)``, bool: only triangles all of whose vertices these are.
        """
        above = distance > 0
        crossed = np.ptp(above[self.faces].astype(int), axis=1) > 0
        if which is not None:
            crossed &= which[self.faces].all(1)
        made: dict[tuple[int, int], int] = {}
        rows: list[np.ndarray] = []
        faces: list = []

        def between(i: int, j: int) -> int:
            key = (min(i, j), max(i, j))
            if key not in made:
                made[key] = len(self.points) + len(rows)
                a, b = key
                part = distance[a] / (distance[a] - distance[b])
                rows.append((1 - part) * self.weights[a] + part * self.weights[b])
            return made[key]

        for face in self.faces[crossed].tolist():
            sides = above[face]
            alone = int(np.argmax(sides if sides.sum() == 1 else ~sides))
            i, j, k = face[alone], face[(alone + 1) % 3], face[(alone + 2) % 3]
            ij, ik = between(i, j), between(i, k)
            faces += [(i, ij, ik), (ij, j, k), (ij, k, ik)]
        if rows:
            new = np.stack(rows)
            self.points = np.concatenate([self.points, new @ self.points[: self.weights.shape[1]]])
            self.weights = np.concatenate([self.weights, new])
            self.faces = np.concatenate([self.faces[~crossed], np.array(faces)])

    def split(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Takes parts of the mesh apart, so that each vertex belongs to one.

        Args:
            part (np.ndarray): Of each face ``(F',)``, int.

        Returns:
            tuple: Of each vertex three vertices of the first mesh and their weights, both ``(V'', 3)``; its part
            ``(V'',)``; the faces ``(F', 3)``.
        """
        corners = np.stack([self.faces, np.repeat(part[:, None], 3, axis=1)], axis=-1).reshape(-1, 2)
        pairs, index = np.unique(corners, axis=0, return_inverse=True)
        weights = self.weights[pairs[:, 0]]
        source = np.argsort(-weights, axis=1)[:, :3]
        weights = np.take_along_axis(weights, source, axis=1)
        return source, weights, pairs[:, 1], index.reshape(-1, 3).astype(np.int32)
