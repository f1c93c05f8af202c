"""Mixin by which models of OpenMMLab serve a token reducer: padding, progress, losses, weights of moved heads."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from mmengine.logging import MessageHub
from torch import Tensor

from mmtoken.core import Reducer, TokenHost, TokenState
from mmtoken.core.arguments import check_flag


def training_progress() -> tuple[float, int]:
    """Returns the part of the training that is done, 0 to 1, and the iterations done; zeros outside of training."""
    hub = MessageHub.get_current_instance()
    done, total = (hub.get_info(key) if key in hub.runtime_info else None for key in ('iter', 'max_iters'))
    return (min(done / total, 1.0) if done and total else 0.0), done or 0


def sizes_of(metas: Sequence[dict], inputs: Tensor) -> list[tuple[int, int]]:
    """Returns the height and width of each picture of a batch without padding, in pixels."""
    whole = tuple(inputs.shape[-2:])
    return [tuple(meta.get('img_shape', whole)[:2]) for meta in metas] or [whole] * len(inputs)


class TokenModelMixin:
    """Mixin over a segmentor, detector or depth estimator whose backbone has a token reducer.

    It tells the backbone which patches are padding, tells the reducer how far training is, and adds the losses of the
    reducer. ``train_cfg=dict(only_reducer=True)`` trains a reducer on its own losses alone, beside a model that stays
    as it is.
    """

    #: Whether the reducer is trained alone, on its own losses.
    only_reducer = False

    def bind_reducer(self) -> dict[str, str]:
        """Checks the reducer against the model; a model calls it at the end of ``__init__``.

        Returns:
            dict[str, str]: For parameters that the reducer takes over: prefixes of their names in the stock model's
            checkpoint → prefixes of their names here.

        Raises:
            ValueError: If the reducer does not suit the model.
        """
        reducer, train_cfg = self.reducer, getattr(self, 'train_cfg', None) or {}
        self.only_reducer = check_flag('model.train_cfg.only_reducer', train_cfg.get('only_reducer', False))
        if not isinstance(self.backbone, TokenHost):
            return {}
        self.backbone.served = True
        moved = {} if reducer is None else reducer.bind_model(self)
        return {old: f'backbone.reducer.{new}' for old, new in moved.items()}

    @property
    def reducer(self) -> Reducer | None:
        """Reducer of the backbone."""
        return self.backbone.reducer if isinstance(self.backbone, TokenHost) else None

    @contextmanager
    def serving(self, inputs: Tensor, metas: Sequence[dict]) -> Iterator[list[TokenState]]:
        """Gives the backbone the padding of a batch inside the ``with`` block.

        Args:
            inputs (Tensor): Images ``(B, 3, H, W)``.
            metas (Sequence[dict]): Meta information of each image, with ``img_shape``.

        Yields:
            list[TokenState]: A list that gets the state after each pass of the backbone.
        """
        states: list[TokenState] = []
        host = self.backbone
        if not isinstance(host, TokenHost) or host.reducer is None:
            yield states
            return

        def see(state: TokenState, i: int) -> None:
            if i == len(host.blocks):
                states.append(state)

        with ExitStack() as stack:
            stack.enter_context(host.padded(host.padding_of(inputs, sizes_of(metas, inputs))))
            stack.enter_context(host.watching(see))
            yield states

    def loss(self, inputs: Tensor, data_samples: list, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the losses of the stock model and those of the reducer, under ``reducer.``."""
        self.note_progress(inputs, data_samples)
        if self.only_reducer:
            return self.losses_of_reducer_alone(inputs, data_samples)
        with self.serving(inputs, [sample.metainfo for sample in data_samples]) as states:
            losses = super().loss(inputs, data_samples, *args, **kwargs)
        losses.update(self.reducer_losses(states, data_samples))
        return losses

    def predict(self, inputs: Tensor, data_samples: list | None = None, *args: Any, **kwargs: Any) -> Any:
        """Returns the predictions of the stock model."""
        with self.serving(inputs, [sample.metainfo for sample in data_samples or ()]):
            return super().predict(inputs, data_samples, *args, **kwargs)

    def note_progress(self, inputs: Tensor, data_samples: list) -> None:
        """Tells the reducer how far training is, and what the next batch shows."""
        if self.reducer is not None:
            self.reducer.set_progress(*training_progress())
            self.reducer.prepare(self.backbone, inputs, data_samples)

    def losses_of_reducer_alone(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Returns the losses of the reducer, under ``reducer.``; no head runs.

        Raises:
            ValueError: If the reducer has none. The dense twin of a config may be built, but not trained.
        """
        if self.reducer is None or not self.reducer.trainable:
            raise ValueError(
                'model.train_cfg.only_reducer=True needs a reducer with losses, such as mmtoken.Cropr or mmtoken.SAT.'
            )
        with self.serving(inputs, [sample.metainfo for sample in data_samples]) as states:
            self.backbone(inputs)
        return self.reducer_losses(states, data_samples)

    def reducer_losses(self, states: Sequence[TokenState], data_samples: list) -> dict[str, Tensor]:
        """Returns the losses of a trainable reducer over the last pass of the backbone, under ``reducer.``."""
        if self.reducer is None or not self.reducer.trainable or not states:
            return {}
        return {f'reducer.{name}': value for name, value in self.reducer.losses(states[-1], data_samples).items()}
