"""Learning rates that fall from the head towards the stem of a backbone, for every host."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmtoken.core.arguments import check_number
from mmtoken.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor with a learning rate for each depth of the backbone (BEiT, arXiv 2106.08254).

    A parameter at depth d of D has the learning rate ``lr · layer_decay_rate^(D − 1 − d)``, see
    :meth:`mmtoken.core.TokenHost.get_layer_depth`: all of it in the head and in the reducer, least in the stem. mmseg's
    ``LearningRateDecayOptimizerConstructor`` gives the same rates, but takes BEiT and MAE alone.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper.
        paramwise_cfg (dict): ``layer_decay_rate`` in (0, 1], and all that the default constructor takes, such as
            ``norm_decay_mult`` or ``custom_keys``; both factors of a learning rate count.

    Raises:
        ValueError: If ``layer_decay_rate`` is no number in (0, 1].
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        paramwise_cfg = dict(paramwise_cfg or {})
        rate = paramwise_cfg.pop('layer_decay_rate', None)
        self.rate = check_number('optim_wrapper.paramwise_cfg.layer_decay_rate', rate, 0, 1, above=True)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.paramwise_cfg['layer_decay_rate'] = rate  # one that is empty would switch the groups off

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Adds a group for each trained parameter of a module, as the default constructor does, and scales its rate.

        Raises:
            ValueError: If the model's backbone does not say how deep its parameters lie.
        """
        super().add_params(params, module, prefix, **kwargs)
        if prefix:  # it calls itself for the children; the whole model comes last
            return
        depth_of = getattr(getattr(module, 'backbone', None), 'get_layer_depth', None)
        if depth_of is None:
            raise ValueError(
                'optim_wrapper.constructor: the backbone of this model does not say how deep its parameters lie '
                "(get_layer_depth); set model.backbone.type to one of mmtoken's, or take another constructor."
            )
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for group in params:
            name = names[id(group['params'][0])]
            depth, number = depth_of(name, 'backbone.')
            group['lr'] = group.get('lr', self.base_lr) * self.rate ** (number - 1 - depth)
            group['param_name'] = name
