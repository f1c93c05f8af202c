"""Runs ONNX files in ONNX Runtime, and compares what comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtoken.analysis.tasks import TASKS
from mmtoken.engine.errors import UserError, user_errors

from .onnx import need


def session(path: str | Path, device: str = 'cpu', threads: int | None = None) -> Any:
    """Returns an ``onnxruntime.InferenceSession``.

    Args:
        path (str | Path): ONNX file.
        device (str): ``cpu``, or ``cuda`` where ONNX Runtime is built for it. Defaults to ``cpu``.
        threads (int, optional): CPU threads; all by default.

    Raises:
        UserError: If ONNX Runtime is missing, is not built for the device, or cannot run the file.
    """
    runtime = need('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    kind = 'CUDAExecutionProvider' if torch.device(device).type == 'cuda' else 'CPUExecutionProvider'
    if kind not in runtime.get_available_providers():  # at which it would go on on the CPU
        raise UserError(f'--device {device}: this ONNX Runtime has no {kind}; pip install onnxruntime-gpu, or take cpu')
    with user_errors(f'ONNX Runtime cannot run {path}'):
        return runtime.InferenceSession(str(path), options, providers=[kind])


def run(runner: Any, images: Tensor) -> list[Tensor]:
    """Runs a session on pictures ``(B, C, H, W)``."""
    first = runner.get_inputs()[0]
    kind = np.float16 if 'float16' in first.type else np.float32
    return [torch.from_numpy(np.asarray(out)) for out in runner.run(None, {first.name: images.numpy().astype(kind)})]


def compare(expected: list[Tensor], found: list[Tensor]) -> dict[str, float]:
    """Compares two lists of outputs, entry by entry.

    Returns:
        dict[str, float]: ``difference``, the largest absolute one; ``relative``, the norm of the difference over that
        of what was expected, the largest of all outputs; ``agreement``, the part of equal labels, if the first
        output is a class map ``(B, K, H, W)`` or a label map.
    """
    pairs = [(a.float(), b.float()) for a, b in zip(expected, found, strict=True)]
    result = dict(
        difference=max(float((a - b).abs().max()) for a, b in pairs),
        relative=max(float((a - b).norm() / a.norm().clamp(min=1e-12)) for a, b in pairs),
    )
    if len(pairs) == 1 and pairs[0][0].dim() in (3, 4):
        labels = [one if one.dim() == 3 else TASKS['segment'].labels(one) for one in pairs[0]]
        result['agreement'] = float((labels[0] == labels[1]).float().mean())
    return result


def quantize(path: str | Path, to: str | Path) -> None:
    """Writes a copy of a file with int8 weights, whose products scale their inputs at run time."""
    need('onnxruntime')
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(path), str(to), weight_type=QuantType.QInt8)
