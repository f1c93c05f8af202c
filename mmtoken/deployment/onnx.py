"""Makes an ONNX graph of a model, and says which operators are in it."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmtoken.engine.errors import UserError
from mmtoken.engine.files import replacing

from .graph import Servable, names_of

#: Opsets that torch's exporter writes and that hold every operator of ours.
OPSETS = range(18, 24)
#: Operators whose result has a shape that depends on values: no engine can plan for them.
FORBIDDEN = ('NonZero', 'Unique', 'Compress', 'Loop', 'Scan', 'If', 'NonMaxSuppression')
#: Largest file of one piece, in bytes: protobuf takes no more.
LIMIT = 2 * 1024**3


def export_onnx(
    servable: Servable,
    images: Tensor,
    path: str | Path,
    opset: int = 20,
    any_batch: bool = False,
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes a model as an ONNX file, checked by ``onnx.checker``.

    Args:
        servable (Servable): The model, in the precision that the graph shall have.
        images (Tensor): Example pictures ``(B, C, H, W)``, in the same precision; their size is that of the graph.
        path (str | Path): File to write.
        opset (int): Version of the ONNX operators, one of :data:`OPSETS`. Defaults to 20.
        any_batch (bool): Leave the number of pictures open. Defaults to False.
        metadata (dict[str, str], optional): Notes to store in the file.

    Raises:
        UserError: If a package is missing, the opset is unknown, the model has no graph or the file cannot be written.
    """
    onnx = need('onnx')
    need('onnxscript')
    if opset not in OPSETS:
        raise UserError(f'--opset {opset}: give one of {OPSETS[0]} to {OPSETS[-1]}')
    dynamic = None
    if any_batch:
        images = images if len(images) > 1 else images.repeat(2, 1, 1, 1)  # one picture would be taken for a constant
        dynamic = ({0: torch.export.Dim('batch', min=1, max=4096)},)
    try:
        with torch.no_grad(), warnings.catch_warnings(), no_folding_notes():
            warnings.simplefilter('ignore')  # torch's own, on what it will deprecate
            names = names_of(servable(images))
            exported = torch.export.export(servable, (images,), dynamic_shapes=dynamic, strict=False)
            program = torch.onnx.export(
                exported,
                input_names=['images'],
                output_names=names,
                opset_version=opset,
                dynamo=True,
                custom_translation_table=translations(),
                verbose=False,
            )
    except UserError:
        raise
    except Exception as error:  # of which torch has many kinds
        hint = ' without --dynamic batch' if any_batch else ''
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f'torch cannot export this model{hint and "; try it" + hint}: {line}') from error
    program.model.metadata_props.update(metadata or {})
    size = sum(tensor.nbytes for tensor in servable.state_dict().values())
    if size >= LIMIT:
        raise UserError(f'the weights take {size / 1e9:.1f} GB, and an ONNX file holds 2.1; export with --fp16')
    with replacing(path) as part:
        program.save(str(part))
        onnx.checker.check_model(str(part))


@contextmanager
def no_folding_notes() -> Iterator[None]:
    """Keeps the optimizer from warning that it does not fold operators with several outputs, such as Split.

    Harmless: they stay in the graph, are right there, and ONNX Runtime folds them itself when it loads the file.
    """
    logger = logging.getLogger('onnxscript.optimizer')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def translations() -> dict[Any, Any]:
    """Returns ONNX forms of operators that torch's exporter has none for.

    A stable sort becomes ``TopK`` over all entries, which by ONNX's definition puts the lower index first among equals.
    """
    from onnxscript import opset18 as op

    def stable_sort(self, stable: bool = True, dim: int = -1, descending: bool = False):
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    return {torch.ops.aten.sort.stable: stable_sort}


def operators(path: str | Path) -> dict[str, int]:
    """Returns how often each operator is in an ONNX file, the most frequent first; scatters that add are apart."""
    graph = need('onnx').load(str(path), load_external_data=False).graph
    return dict(Counter(map(_kind, graph.node)).most_common())


def forbidden_operators(path: str | Path) -> list[str]:
    """Returns the operators in a file that TensorRT refuses or that have shapes which depend on values."""
    return sorted(kind for kind in operators(path) if kind in FORBIDDEN or (kind.startswith('Scatter') and '(' in kind))


def _kind(node: Any) -> str:
    adds = next((a.s.decode() for a in node.attribute if a.name == 'reduction'), 'none')
    return node.op_type if adds == 'none' else f'{node.op_type}({adds})'


def need(package: str) -> Any:
    """Imports a package of the extra ``export``; raises :class:`UserError` if it is not installed."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed: pip install 'mmtoken[export]'") from error
