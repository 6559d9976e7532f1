"""Evaluation; `mmhicra.evaluate(model)` is `mmhicra.api.evaluate`."""

from mmhicra.core.callable_module import make_callable

make_callable(__name__, "mmhicra.api:evaluate")
