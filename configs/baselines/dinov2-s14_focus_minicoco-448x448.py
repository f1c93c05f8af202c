# Dense: a saliency model that was trained elsewhere, for how far a method leaves its own output alone.
_base_ = ['../_base_/models/dinov2_small_focus.py', '../_base_/default_runtime.py']
