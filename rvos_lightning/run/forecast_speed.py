"""How long a step takes on GPUs with names: computing, launching, communicating, and fetching from main memory."""

from dataclasses import dataclass

from rvos_lightning.run.forecast_memory import Cost, State

LAUNCH = 1e-5  # seconds that PyTorch takes for one operation, without compilation (assumed)
SMALL = 1e12  # FLOP of a step
NODE = 8  # GPUs that are linked directly
HOST = 20e9  # bytes/s at which torch's AdamW goes through a node's main memory (assumed)
EFFICIENCY = {"bf16": 0.35, "32": 0.6}  # share of the peak that is reached (assumed; see `ASSUMED`)
ASSUMED = (
    "assumed, not measured on your machine: language models reach 44 to 52 % in 16 bit on A100s (arXiv 2104.04473, "
    "table 1), networks with small maps less"
)


@dataclass(frozen=True)
class Gpu:
    """One kind, by its data sheet; links at about 70 % of it, as collectives reach.

    Attributes:
        memory: bytes.
        bf16: FLOP/s of bfloat16 tensor cores, dense, adding up in 32 bit.
        fp32: FLOP/s in 32 bit without tensor cores, as PyTorch multiplies matrices unless told otherwise.
        link: bytes/s to the other GPUs of a node, in one direction.
        host: bytes/s from and to main memory.
    """

    memory: float
    bf16: float
    fp32: float
    link: float
    host: float


GPUS = {
    "A100-40": Gpu(40e9, 312e12, 19.5e12, 210e9, 20e9),
    "A100": Gpu(80e9, 312e12, 19.5e12, 210e9, 20e9),
    "H100": Gpu(80e9, 989e12, 67e12, 315e9, 40e9),
    "H200": Gpu(141e9, 989e12, 67e12, 315e9, 40e9),
    "4090": Gpu(24e9, 165e12, 82.6e12, 15e9, 20e9),
}


@dataclass(frozen=True)
class Conditions:
    """What speed depends on besides the network.

    Attributes:
        precision: "bf16" or "32".
        efficiency: share of the peak FLOP/s that is reached.
        network: bytes/s of a GPU to other nodes, in one direction.
    """

    precision: str
    efficiency: float
    network: float


def too_small(cost: Cost) -> bool:
    """Whether FLOPs say nothing about the speed."""
    return cost.flops < SMALL


def computing(cost: Cost, gpu: Gpu, given: Conditions) -> float:
    """Seconds of one step on one GPU: of arithmetic, or of launching it where that takes longer."""
    peak = gpu.bf16 if given.precision == "bf16" else gpu.fp32
    return max(cost.flops / (peak * given.efficiency), cost.kernels * LAUNCH)


def seconds(strategy: str, state: State, cost: Cost, count: int, gpu: Gpu, given: Conditions) -> float:
    """One step: computing, then what of the communication is not hidden behind half of it, then main memory."""
    compute = computing(cost, gpu, given)
    wire = gpu.link if count <= NODE else min(gpu.link, given.network)
    talk = (count - 1) / count * sent(strategy, state) / wire
    return compute + max(0.0, talk - compute / 2) + (fetching(state, count, gpu) if "offload" in strategy else 0.0)


def sent(strategy: str, state: State) -> float:
    """Bytes that pass each GPU in one step, but for the share that it holds itself.

    Gradients are reduced and spread: twice their size, or once where each rank keeps its part; parameters that are
    spread are gathered for the forward and for the backward pass.
    """
    if strategy == "one process":
        return 0.0
    return 2.0 * state.trainable if strategy in ("ddp", "deepspeed2") else 2.0 * state.parameters + state.trainable


def fetching(state: State, count: int, gpu: Gpu) -> float:
    """Seconds for parameters and gradients on their way from and to main memory, and for AdamW in it."""
    moved = (2 * state.parameters + 2 * state.trainable) / count / gpu.host
    touched = 2 * (state.trainable + state.optimizer) + state.trainable  # all is read and written, gradients read
    return moved + touched * min(count, NODE) / count / HOST
