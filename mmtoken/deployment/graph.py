"""What of a model goes into a graph: normalised pictures or pixels in; logits, probabilities or labels out."""

from torch import Tensor, nn

from mmtoken.analysis.flops import is_dynamic
from mmtoken.analysis.tasks import Depth, Segment, meta_of, task_of, tensors
from mmtoken.core import TokenHost
from mmtoken.engine.errors import UserError

OUTPUTS = ('raw', 'logits', 'softmax', 'labels')


class Servable(nn.Module):
    """A model as a plain function of a batch of pictures.

    Args:
        model (nn.Module): Segmentor, detector or backbone in evaluation mode, see
            :func:`mmtoken.engine.models.deploy`.
        output (str): ``raw`` gives what the head gives: logits at its own size, or class scores and box offsets by
            level. Of segmentors also ``logits`` ``(B, classes, H, W)`` at the size of the picture, ``softmax`` of them
            (sigmoid of one class), or ``labels`` ``(B, H, W)``, int64. Defaults to ``raw``.
        pixels (bool): Take pictures as the config's pipeline reads them, 0 to 255, and normalise inside. Defaults to
            False.

    Raises:
        UserError: If the number of tokens depends on the picture, or the model has no such output.
    """

    def __init__(self, model: nn.Module, output: str = 'raw', pixels: bool = False):
        super().__init__()
        if is_dynamic(model):
            backbone = getattr(model, 'backbone', model)
            raise UserError(
                f'reducer {type(backbone.reducer).__name__}: its token count depends on the picture, and a graph has '
                'fixed shapes; take a static method, such as mmtoken.ToMe, mmtoken.Expedit or mmtoken.MixedScale '
                'with fine=0.5'
            )
        self.model, self.output, self.pixels = model, output, pixels
        maps = isinstance(task_of(model), Segment)
        classes = maps and not isinstance(task_of(model), Depth)
        if output not in OUTPUTS[: 4 if classes else 2 if maps else 1]:
            raise UserError(
                f'--output {output}: {type(model).__name__} gives no class map; take --output '
                + ('logits' if maps else 'raw')
            )
        if pixels and not hasattr(model, 'data_preprocessor'):
            raise UserError(f'--pixels: {type(model).__name__} has no data preprocessor that says how to normalise')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs for pictures ``(B, C, H, W)``."""
        if self.pixels:
            images = self.normalised(images)
        if self.output == 'raw':
            return tuple(tensors(self.raw(images)))
        # One for all: pictures of a graph have one size, and a list as long as the batch would fix the batch.
        logits = self.model.encode_decode(images, meta_of(images[:1]))
        if self.output == 'logits':
            return (logits,)
        if logits.shape[1] == 1:
            score = logits.sigmoid()
            return (score,) if self.output == 'softmax' else ((score > self.model.decode_head.threshold).long()[:, 0],)
        return (logits.softmax(1) if self.output == 'softmax' else logits.argmax(1),)

    def normalised(self, images: Tensor) -> Tensor:
        """Does to pixels what the data preprocessor does, but neither stacks nor pads."""
        prepare = self.model.data_preprocessor
        flips = [getattr(prepare, name, False) for name in ('channel_conversion', '_channel_conversion')]
        if any(flips) and images.shape[1] == 3:
            images = images.flip(1)
        if getattr(prepare, '_enable_normalize', False):
            images = (images - prepare.mean) / prepare.std
        return images

    def raw(self, images: Tensor):
        """What the head gives; of two-stage detectors the pyramid and the proposals' scores and offsets."""
        model = self.model
        if isinstance(model, TokenHost):
            return model(images)
        if getattr(model, 'with_rpn', False):
            levels = model.extract_feat(images)
            return [levels, model.rpn_head(levels)]
        return model(images, mode='tensor')


def names_of(outputs: tuple[Tensor, ...]) -> list[str]:
    """Returns the names of a graph's outputs, none of which an operator in the graph has too."""
    return ['output'] if len(outputs) == 1 else [f'output_{i}' for i in range(len(outputs))]
