"""The same parameters at several doors, written down once.

A function that only passes its arguments on is given the parameters, types and defaults of the one that takes them:
for type checkers by a `ParamSpec`, for `help()` and notebooks by ``__signature__``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def parameters_of(source: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """For a function that passes its arguments on to ``source``."""

    def told(function: Callable[..., R]) -> Callable[P, R]:
        _tell(function, list(inspect.signature(source).parameters.values()))
        return function

    return told


def own_parameters_of(source: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """For a method that passes its arguments, all but `self`, on to ``source``."""

    def told(method: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        _tell(method, [itself, *inspect.signature(source).parameters.values()])
        return method

    return told


def _tell(function: Any, parameters: list[inspect.Parameter]) -> None:
    returns = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature(parameters, return_annotation=returns)
