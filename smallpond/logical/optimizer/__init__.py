"""The optimiser: rules that rewrite a logical plan into one that gives the same rows for less."""

from threefs.smallpond.logical.optimizer.driver import optimize

__all__ = ["optimize"]
