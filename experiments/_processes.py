"""The processes of a run: one alone, or those that torchrun started, which share every batch.

The gradient of a mean over a batch is the sum of what its parts contribute. So each process takes a part, and the sum
over the processes is what one process would have found. It is formed after the backward pass, not by wrapping the
model: a loss may call any method of its model, as often as it likes.
"""

import os
from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def launched(accelerator: str = "cpu") -> Fabric:
    """Fabric on this accelerator (auto, cpu, cuda), with all processes that torchrun started."""
    if not torch.distributed.is_torchelastic_launched():
        return Fabric(accelerator=accelerator, devices=1)
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // here
    fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return fabric


def share(fabric: Fabric, index: Tensor) -> Tensor:
    """The part of a batch that is this process's; it may be empty."""
    return index.tensor_split(fabric.world_size)[fabric.global_rank]


def draw_apart(fabric: Fabric) -> None:
    """From here on each process draws other random numbers; the first as if it were alone."""
    if fabric.global_rank:
        torch.manual_seed(torch.initial_seed() + fabric.global_rank * 2**40)


def summed(fabric: Fabric, value: Tensor) -> Tensor:
    """The sum of what the processes have here."""
    total = fabric.all_reduce(value, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def sum_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient its sum over the processes; one that is absent counts as zero."""
    if fabric.world_size == 1:
        return
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learned]
    vector_to_parameters(summed(fabric, parameters_to_vector(gradients)), gradients)
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.grad = gradient
