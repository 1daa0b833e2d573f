"""Gradient descent on the objective, seeded and the same on any number of cores, that keeps what held out best."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Value
from tinyopt.passes.distillation.mixing import mixed
from tinyopt.passes.distillation.objective import Objective
from tinyopt.passes.distillation.parameters import Trained
from tinyopt.passes.distillation.symmetries import Symmetry, varied
from tinyopt.passes.distillation.torch_door import Tensor, load_torch

torch = load_torch()

_PARTS = 2  # of a batch, computed side by side and added in order: the sums do not depend on the number of cores
_FIRST_MOMENT, _SECOND_MOMENT = 0.9, 0.99  # of Adam
_PATIENCE = 0.7  # of all steps without a better result, after which training ends
_CHECKS = 25  # times that the held-out samples are asked
_HOPELESS = 4.0  # times the loss at the start
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs [samples, ...] by name, and the classes of the first samples, or of all, where they are known."""

    inputs: Mapping[str, Tensor]
    labels: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def chosen(self, indices: Sequence[int] | Array) -> Samples:
        """Some of the samples, in that order; where not all have a class, those that have one must come first."""
        places = torch.as_tensor(np.asarray(indices, np.int64))
        inputs = {name: x[places] for name, x in self.inputs.items()}
        return Samples(inputs, None if self.labels is None else self.labels[places[places < len(self.labels)]])


@dataclass(frozen=True)
class Schedule:
    """steps: of gradient descent. batch: samples in each, of which the share `mixed` is made of two.

    symmetries: the changes that samples go through before. rate: the first step's length relative to the root mean
    square of each tensor. seed: of the order, the changes and the mixtures.
    """

    steps: int
    batch: int
    rate: float
    mixed: float
    symmetries: tuple[Symmetry, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What training gave: the constants that held out best, or none, and the loss on the held-out samples."""

    arrays: Mapping[Value, Array]
    loss_before: float
    loss_after: float
    steps: int


def train(
    objective: Objective,
    trained: Sequence[Trained],
    constants: Mapping[Value, Array],
    used: Samples,
    held_out: Samples,
    schedule: Schedule,
    on_progress: Callable[[str, int, int], None],
) -> Outcome:
    """Train the constants on the samples `used`; keep what is best on those held out.

    on_progress: is told the loss of the last batches and of the held-out samples, the steps done and all steps.
    """
    with _repeatable(), ThreadPoolExecutor(_PARTS) as pool:
        descent = _Descent(objective, trained, constants, schedule, pool)
        start = best = objective_on(objective, held_out, descent.parameters(), schedule.batch)
        arrays: dict[Value, Array] = {}
        best_step = step = 0
        every = max(1, schedule.steps // _CHECKS)
        losses: list[float] = []
        for step, batch in enumerate(_batches(used, schedule), start=1):
            losses.append(descent.step(batch, step))
            if step % every and step < schedule.steps:
                continue
            loss = objective_on(objective, held_out, descent.parameters(), schedule.batch)
            on_progress(f"distill: loss {np.mean(losses):.4f}, held out {loss:.4f}", step, schedule.steps)
            losses = []
            if loss < best:
                best, best_step, arrays = loss, step, descent.arrays()
            if not loss < _HOPELESS * start or step - best_step > _PATIENCE * schedule.steps:
                break
        return Outcome(arrays, start, best, step)


def objective_on(objective: Objective, samples: Samples, parameters: Mapping[Value, Tensor], batch: int) -> float:
    """The loss over all samples, as they are."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(samples), batch):
            part = samples.chosen(range(start, min(start + batch, len(samples))))
            total += len(part) * float(objective.loss(part.inputs, parameters, part.labels))
    return total / len(samples)


class _Descent:
    """Adam, with steps relative to the size of each tensor: inputs of 0..255 ask for tiny weights. (arXiv:1412.6980)"""

    def __init__(
        self,
        objective: Objective,
        trained: Sequence[Trained],
        constants: Mapping[Value, Array],
        schedule: Schedule,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._objective, self._schedule, self._pool = objective, schedule, pool
        self._trained = trained
        self._constants = {item.value: torch.from_numpy(np.array(constants[item.value][None])) for item in trained}
        self._variables = [self._variable(item) for item in trained]
        self._scales = [float((x.detach() ** 2).mean().sqrt()) for x in self._variables]
        self._means = [torch.zeros_like(x) for x in self._variables]
        self._squares = [torch.zeros_like(x) for x in self._variables]

    def parameters(self) -> dict[Value, Tensor]:
        """What stands for each constant, with an axis of 1 in front."""
        return {
            item.value: x if item.gain_axis is None else self._constants[item.value] * x
            for item, x in zip(self._trained, self._variables, strict=True)
        }

    def arrays(self) -> dict[Value, Array]:
        """The constants as they are by now."""
        return {value: np.array(x.detach()[0].numpy()) for value, x in self.parameters().items()}

    def step(self, batch: Samples, number: int) -> float:
        """One step, the first being number 1; returns the loss before it."""
        parts = [batch.chosen(range(i, len(batch), _PARTS)) for i in range(min(_PARTS, len(batch)))]
        results = list(self._pool.map(self._gradients, parts))
        shares = [len(part) / len(batch) for part in parts]
        rate = self._schedule.rate * 0.5 * (1 + math.cos(math.pi * (number - 1) / self._schedule.steps))
        with torch.no_grad():
            for i in range(len(self._variables)):
                gradient = sum(share * gradients[i] for share, (_, gradients) in zip(shares, results, strict=True))
                self._move(i, gradient, number, rate)
        return sum(share * loss for share, (loss, _) in zip(shares, results, strict=True))

    def _variable(self, item: Trained) -> Tensor:
        constant = self._constants[item.value]
        if item.gain_axis is None:
            return constant.clone().requires_grad_()
        shape = [size if axis == item.gain_axis + 1 else 1 for axis, size in enumerate(constant.shape)]
        return torch.ones(shape, requires_grad=True)

    def _gradients(self, part: Samples) -> tuple[float, Sequence[Tensor]]:
        loss = self._objective.loss(part.inputs, self.parameters(), part.labels)
        return float(loss.detach()), torch.autograd.grad(loss, self._variables, materialize_grads=True)

    def _move(self, i: int, gradient: Tensor, number: int, rate: float) -> None:
        mean, square = self._means[i], self._squares[i]
        mean.mul_(_FIRST_MOMENT).add_(gradient, alpha=1 - _FIRST_MOMENT)
        square.mul_(_SECOND_MOMENT).addcmul_(gradient, gradient, value=1 - _SECOND_MOMENT)
        spread = (square / (1 - _SECOND_MOMENT**number)).sqrt_() + _TINY
        self._variables[i] -= rate * self._scales[i] * (mean / (1 - _FIRST_MOMENT**number)) / spread


def _batches(samples: Samples, schedule: Schedule) -> Iterator[Samples]:
    """As many batches as there are steps: every sample once, in random order, again and again."""
    generator = np.random.default_rng(schedule.seed)
    order = np.zeros(0, np.int64)
    for _ in range(schedule.steps):
        while len(order) < schedule.batch:
            order = np.concatenate([order, generator.permutation(len(samples))])
        batch, order = samples.chosen(order[: schedule.batch]), order[schedule.batch :]
        plain = len(batch) - int(len(batch) * schedule.mixed)
        labels = None if batch.labels is None else batch.labels[:plain]
        inputs = varied(batch.inputs, schedule.symmetries, generator)
        yield Samples(mixed(inputs, plain, generator), labels)


@contextmanager
def _repeatable() -> Generator[None]:
    """One thread for each operation, and only operations whose sums come out alike every time."""
    threads, is_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(is_deterministic)
