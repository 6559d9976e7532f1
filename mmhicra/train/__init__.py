"""Training; `mmhicra.train(config)` is `mmhicra.api.train`."""

from mmhicra.core.callable_module import make_callable

make_callable(__name__, "mmhicra.api:train")
