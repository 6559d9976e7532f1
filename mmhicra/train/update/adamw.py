"""AdamW for what torch's own does not do: bfloat16 weights with float32 masters, moments in 8 bits, state on the CPU.

What it keeps of a parameter, each of the parameter's shape and split over ranks as the parameter is:

    master        float32; only of a parameter that is held in bfloat16, which is its rounding
    exp_avg, exp_avg_sq               the two moments, float32; or with 8 bits
    exp_avg, exp_avg_sq               ... their codes, uint8, and for every block of a row
    exp_avg_scale, exp_avg_sq_scale   ... its largest value, float32, (rows, blocks of a row)
    step          scalar

The state is there from the start and is loaded in place. All arithmetic is on this rank's part, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import zeros as split_zeros
from torch.optim.adamw import adamw

from mmhicra.core.errors import UserError

EPSILON = 1e-8
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""Name -> whether it has a sign."""
LARGEST_BLOCK, SMALLEST_BLOCK = 256, 32
"""Values that share a scale: torchao's 256 where the length of a row allows it, and never fewer than 32."""
FEWEST = 4096
"""Values of the smallest tensor whose moments have 8 bits, as in bitsandbytes and torchao."""


class StoredAdamW(torch.optim.Optimizer):
    """AdamW whose state is stored as asked; the update itself is torch's, or with 8 bits torchao's.

    Args:
        groups: as of `torch.optim.AdamW`, each with its `weight_decay`.
        lr: learning rate.
        betas: decay of the moments.
        masters: the float32 values of parameters that are held in bfloat16.
        eight_bits: moments are stored in 8 bits where `block_of` says so.
        offload: state is kept, and updates are computed, on the CPU.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        masters: Mapping[nn.Parameter, Tensor],
        eight_bits: bool = False,
        offload: bool = False,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": EPSILON, "weight_decay": 0.0})
        self.offload = offload
        self.eight_bits = eight_bits
        self._staging: dict[str, Tensor] = {}
        for parameter in self.parameters:
            self.state[parameter] = self._first_state(parameter, masters.get(parameter))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of them, in the order of the groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient, which is float32 or is made so."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the values into the tensors that are there: torch would give all of them the weight's type.

        A parameter that the state dict does not have was never updated, and keeps what it has.

        Raises:
            UserError: the state is of an optimizer of another kind.
        """
        for mine, theirs in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, number in zip(mine["params"], theirs["params"], strict=True):
                if (values := state_dict["state"].get(number)) is not None:
                    _take_over(self.state[parameter], values)
            mine.update({name: value for name, value in theirs.items() if name != "params"})

    def _first_state(self, parameter: nn.Parameter, master: Tensor | None) -> dict[str, Tensor]:
        home = torch.device("cpu") if self.offload else parameter.device
        state = {"step": torch.zeros(())}
        block = block_of(parameter.shape) if self.eight_bits else 0
        for name in MOMENTS:
            zeros = torch.zeros_like(parameter, dtype=torch.uint8 if block else torch.float32, requires_grad=False)
            state[name] = zeros.to(home)
            if block:
                state[f"{name}_scale"] = _scales(parameter, block).to(home)
        if master is not None:
            state["master"] = master.detach().to(home)
        return state

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        weights, gradient = _own(parameter.detach()), _own(gradient)
        state = {name: _own(value) for name, value in self.state[parameter].items()}
        home = state["exp_avg"].device
        exact = state["master"] if "master" in state else self._at(home, weights, "weights")
        update = _update_in_8_bits if "exp_avg_scale" in state else _update_in_32_bits
        update(exact, self._at(home, gradient, "gradient"), state, group, fused=self.offload)
        if exact is not weights:
            weights.copy_(exact if weights.device == home else self._stage(exact, "rounded", weights.dtype))

    def _at(self, home: torch.device, values: Tensor, what: str) -> Tensor:
        """`values` in float32 where the state is."""
        if values.device == home:
            return values.float()
        return self._stage(values, what, torch.float32)

    def _stage(self, values: Tensor, what: str, dtype: torch.dtype) -> Tensor:
        """A copy in memory of the CPU that a GPU reaches without a detour; it lasts to the next call for `what`."""
        if what not in self._staging or self._staging[what].numel() < values.numel():
            most = max(_own(parameter.detach()).numel() for parameter in self.parameters)
            self._staging[what] = torch.empty(most, dtype=dtype, pin_memory=torch.cuda.is_available())
        return self._staging[what][: values.numel()].view(values.shape).copy_(values)


def block_of(shape: torch.Size) -> int:
    """Values of a block of a tensor whose moments are stored in 8 bits; 0 if they are not.

    Blocks lie within rows, so that rows may be split over any number of ranks: the largest power of two that divides a
    row, from `SMALLEST_BLOCK` to `LARGEST_BLOCK`.
    """
    block = math.gcd(math.prod(shape[1:]), LARGEST_BLOCK) if len(shape) > 1 else 0
    return block if block >= SMALLEST_BLOCK and shape.numel() >= FEWEST else 0


def _scales(parameter: nn.Parameter, block: int) -> Tensor:
    """Zeros, one for every block, (rows, blocks of a row); split over ranks as the parameter is."""
    shape = (parameter.shape[0], math.prod(parameter.shape[1:]) // block)
    if isinstance(parameter, DTensor):
        return split_zeros(shape, device_mesh=parameter.device_mesh, placements=parameter.placements)
    return torch.zeros(shape, device=parameter.device)


def _own(tensor: Tensor) -> Tensor:
    """This rank's part, not a copy."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _update_in_32_bits(
    weights: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], *, fused: bool
) -> None:
    adamw(
        [weights],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        fused=fused or None,  # on the CPU one pass over memory instead of ten
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _update_in_8_bits(
    weights: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], *, fused: bool
) -> None:
    """`fused` changes nothing here."""
    state["step"] += 1
    if not weights.numel():  # more ranks than rows
        return
    moments = [_eight_bit_view(state[name], state[f"{name}_scale"], signed) for name, signed in MOMENTS.items()]
    lr = torch.tensor(float(group["lr"]))
    options = (lr, *group["betas"], group["weight_decay"], group["eps"])
    torchao_update(weights.is_cuda)(weights, gradient, state["step"], *moments, None, *options, True, False)


def _eight_bit_view(codes: Tensor, scale: Tensor, signed: bool) -> Any:
    """torchao's tensor of 8-bit values, over the memory of `codes` and `scale`."""
    from torchao.optim.subclass_8bit import OptimState8bit

    return OptimState8bit(codes, scale.view(-1), _map(signed, codes.device), signed, torch.float32)


@cache
def _map(signed: bool, device: torch.device) -> Tensor:
    from torchao.optim.subclass_8bit import get_qmap_signed, get_qmap_unsigned

    return torch.tensor(get_qmap_signed() if signed else get_qmap_unsigned(), device=device)


@cache
def torchao_update(compiled: bool) -> Any:
    """torchao's update of one parameter; compiled, as torchao runs it, it is one kernel and takes no memory."""
    from torchao.optim.adam import single_param_adam

    return torch.compile(single_param_adam, fullgraph=True, dynamic=False) if compiled else single_param_adam


def _take_over(mine: dict[str, Tensor], theirs: Mapping[str, Any]) -> None:
    if odd := sorted(mine.keys() ^ theirs.keys()):
        raise UserError(
            f"the optimizer state of the checkpoint is of another kind (first difference: {odd[0]}): resume with the "
            "train.optimizer.kind and the model.weights that it was trained with"
        )
    for name, tensor in mine.items():
        tensor.copy_(theirs[name])
