"""Decode heads that mmseg lacks."""

from .atm import ATMDecoder, token_scores

__all__ = ['ATMDecoder', 'token_scores']
