"""Rules for the losses of torch that are operations of their own."""

from functools import partial
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import add, linear, negative, nothing, product
from .calls import Arguments, Result, call, number
from .facts import Facts, unknown
from .scalars import LEFT, LINE, RIGHT, Scalar, softplus, square

MEAN, SUM = 1, 2  # of torch.nn._reduction


def squared_error(operation: Any, given: Arguments) -> Facts:
    """mse_loss: (v − t)²."""
    return _reduced(square(_difference(given)), given)


def huber_loss(operation: Any, given: Arguments) -> Facts:
    """½ (v − t)² up to δ, δ (|v − t| − δ/2) beyond."""
    return _reduced(_bowl("huber_loss", partial(_huber, delta=given["delta"]))(_difference(given)), given)


def smooth_l1_loss(operation: Any, given: Arguments) -> Facts:
    """½ (v − t)² / β up to β, |v − t| − β/2 beyond."""
    return _reduced(_bowl("smooth_l1_loss", partial(_smooth_l1, beta=given["beta"]))(_difference(given)), given)


def _huber(v: Tensor, delta: float) -> Tensor:
    return F.huber_loss(v, torch.zeros_like(v), reduction="none", delta=delta)


def _smooth_l1(v: Tensor, beta: float) -> Tensor:
    return F.smooth_l1_loss(v, torch.zeros_like(v), reduction="none", beta=beta)


def _bowl(name: str, function: Any) -> Scalar:
    return Scalar(name, function, LINE, (), RIGHT, LEFT, turns=(0.0,), image=(0.0, inf))


def logistic_loss(operation: Any, given: Arguments) -> Facts:
    """binary_cross_entropy_with_logits: (1 − t) v + (1 + (p − 1) t) softplus(−v)."""
    value, target, weight = number(given["self"]), number(given["target"]), given["weight"]
    rest, bent = add(number(1.0), negative(target)), softplus(1.0, inf)(negative(value))
    if given["pos_weight"] is not None:
        bent = product(bent, add(rest, product(target, number(given["pos_weight"]))))
    loss = add(product(value, rest), bent, f"logistic loss of {value.named} value")
    return _reduced(loss if weight is None else product(loss, number(weight)), given)


def negative_likelihood(operation: Any, given: Arguments) -> Result:
    """nll_loss: a mean or sum of entries of −v that the target picks, with weights."""
    value, target, weight = given["self"], given["target"].value, given["weight"]
    if target is None or (weight is not None and (weight.value is None or bool((weight.value < 0).any()))):
        return ()
    plain = {**given, "target": target, "weight": None if weight is None else weight.value.double()}
    found = linear(value, nothing, lambda part: -call(operation, {**plain, "self": part})[0])
    return found, unknown(torch.Size(()), "a sum of weights", fixed=True)


def _difference(given: Arguments) -> Facts:
    return add(number(given["self"]), negative(number(given["target"])))


def _reduced(loss: Facts, given: Arguments) -> Facts:
    if given["reduction"] not in (MEAN, SUM):
        return loss
    return linear(loss, torch.mean if given["reduction"] == MEAN else torch.sum, reason=loss.reason)
