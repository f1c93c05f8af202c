"""Decode heads that mmseg lacks."""

import importlib.util

from .atm import ATMDecoder, token_scores

__all__ = ['ATMDecoder', 'token_scores']

if importlib.util.find_spec('mmseg'):
    from .atm_head import ATMHead, ATMSingleHead
    from .atm_loss import ATMLoss
    from .deconv import DeconvHead
    from .dpt_depth import DPTDepthHead
    from .sub_patch import SubPatchHead

    __all__ += ['ATMHead', 'ATMLoss', 'ATMSingleHead', 'DPTDepthHead', 'DeconvHead', 'SubPatchHead']
