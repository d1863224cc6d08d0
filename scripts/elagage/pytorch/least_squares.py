"""Least squares for the weights of a layer that pruning left, from moments of its inputs and of what it should return.

He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", https://arxiv.org/abs/1707.06168, section
3.1; Frantar and Alistarh 2022, "Optimal Brain Compression", https://arxiv.org/abs/2208.11580. Conjugate gradients:
Hestenes and Stiefel 1952.
"""

import copy
from typing import NamedTuple

import torch

# Strengths of the pull towards the old weights, relative to the mean square of an input; the first that is tried is the
# strongest.
RIDGES = (1.0, 0.1, 0.01, 0.001, 0.0001)
RIDGE_OUTPUTS = 64  # with some of so many the strength is chosen
CONVERGED = 1e-4  # share of the error by which an iteration has to lower it
MOST_ITERATIONS = 500
SMALLEST = 1e-30  # of what is divided by, in float32
LEAST_VARIANCE = 1e-6  # of an input's mean square: about what float32 can tell, so the pull is never relative to less


class Moments:
    """Sums over positions of a layer's inputs, [positions, groups, inputs], and targets, [positions, groups, outputs].

    Products are made in float32, of what is centred, and added up in float64: uncentred, their errors would be larger
    than the variance of an input whose mean is far from 0. A layer that is not grouped has one group.
    """

    def __init__(self, groups: int, inputs: int, outputs: int):
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        self.positions = 0
        self.inputs, self.targets = zeros(groups, inputs), zeros(groups, outputs)
        self.inputs_inputs, self.targets_inputs = zeros(groups, inputs, inputs), zeros(groups, outputs, inputs)
        self.targets_targets = zeros(groups, outputs)

    def add(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add some positions, float32."""
        inputs, targets = inputs.transpose(0, 1), targets.transpose(0, 1)
        positions = inputs.shape[1]
        self.positions += positions
        self.targets_targets += targets.double().square().sum(1)
        centre, centre_of_targets = inputs.mean(1, keepdim=True), targets.mean(1, keepdim=True)
        inputs, targets = inputs - centre, targets - centre_of_targets
        rest, rest_of_targets = (each.sum(1, keepdim=True, dtype=torch.float64) for each in (inputs, targets))
        centre, centre_of_targets = centre.double(), centre_of_targets.double()
        total = positions * centre + rest
        self.inputs += total.squeeze(1)
        self.targets += (positions * centre_of_targets + rest_of_targets).squeeze(1)
        self.inputs_inputs += inputs.mT @ inputs
        self.inputs_inputs.baddbmm_(torch.cat([centre, rest], 1).mT, torch.cat([total, centre], 1))
        self.targets_inputs += targets.mT @ inputs
        self.targets_inputs.baddbmm_(
            torch.cat([centre_of_targets, rest_of_targets], 1).mT, torch.cat([total, centre], 1)
        )

    def join(self, others: "Moments") -> None:
        """Add the positions of other moments."""
        for name, value in vars(others).items():
            setattr(self, name, getattr(self, name) + value)

    def every(self, step: int) -> "Moments":
        """Return the moments of every output whose number is a multiple of `step`."""
        some = copy.copy(self)
        for name in ("targets", "targets_inputs", "targets_targets"):
            setattr(some, name, getattr(self, name)[:, ::step])
        return some

    def error(self, weight: torch.Tensor, shift: torch.Tensor) -> float:
        """Return the mean over positions of the squared distance of weight @ input + shift from the target.

        weight: [groups, outputs, inputs]; shift: [groups, outputs].
        """
        weight, shift = weight.double(), shift.double()
        squares = ((weight @ self.inputs_inputs - 2 * self.targets_inputs) * weight).sum() + self.targets_targets.sum()
        rest = (weight @ self.inputs.unsqueeze(-1)).squeeze(-1) - self.targets
        return float(squares + (2 * shift * rest).sum()) / self.positions + float(shift.square().sum())

    def shift(self, weight: torch.Tensor, intercept: bool) -> torch.Tensor:
        """Return the best shift, float64 [groups, outputs], for a weight; zeros where there is to be none."""
        if not intercept:
            return torch.zeros_like(self.targets)
        return (self.targets - (weight.double() @ self.inputs.unsqueeze(-1)).squeeze(-1)) / self.positions

    def normal_equations(self, intercept: bool) -> "NormalEquations":
        """Return the means of the products, with an intercept the covariances."""
        of_inputs, of_targets = self.inputs_inputs / self.positions, self.targets_inputs / self.positions
        squares = self.targets_targets.sum() / self.positions
        scale = LEAST_VARIANCE * of_inputs.diagonal(dim1=1, dim2=2).mean(1)
        if intercept:
            inputs, targets = self.inputs.unsqueeze(1) / self.positions, self.targets.unsqueeze(2) / self.positions
            of_inputs -= inputs.mT @ inputs
            of_targets -= targets @ inputs
            squares -= targets.square().sum()
        scale = scale.maximum(of_inputs.diagonal(dim1=1, dim2=2).mean(1))
        return NormalEquations(of_inputs.float(), of_targets.float(), float(squares), scale.float())


class NormalEquations(NamedTuple):
    """Mean products of inputs, [groups, inputs, inputs], of targets and inputs, [groups, outputs, inputs], float32.

    And the mean squared norm of the targets, and what the pull to the old weights is relative to, float32 [groups].
    """

    of_inputs: torch.Tensor
    of_targets: torch.Tensor
    squares: float
    scale: torch.Tensor


class Fit(NamedTuple):
    """Weights, float32 [groups, outputs, inputs], shift of the outputs, float32 [groups, outputs].

    And the errors of some outputs on what was held out, before and after.
    """

    weight: torch.Tensor
    shift: torch.Tensor
    before: float
    after: float


def fit(training: Moments, held_out: Moments, weight: torch.Tensor, mask: torch.Tensor, intercept: bool) -> Fit | None:
    """Return the weights that give the targets best, None if such are no nearer to them on the moments held out.

    weight: float32 [groups, outputs, inputs], which the fit is pulled to; mask: bool, the weights that may change. How
    strong the pull is, the moments held out decide, with some of the outputs; the weights are then fitted to all
    moments. `training` is changed.
    """
    step = max(1, weight.shape[1] // RIDGE_OUTPUTS)
    some, unseen = training.every(step), held_out.every(step)
    old, free = weight[:, ::step], mask[:, ::step]
    before = lowest = unseen.error(old, unseen.shift(old, False))
    best, fitted, equations = None, old, some.normal_equations(intercept)
    for ridge in RIDGES:
        fitted = conjugate_gradients(equations, fitted, old, free, ridge)
        error = unseen.error(fitted, some.shift(fitted, intercept))
        if not error < lowest:  # nor if it is NaN
            break
        lowest, best = error, ridge
    if best is None:
        return None
    training.join(held_out)
    fitted = conjugate_gradients(training.normal_equations(intercept), weight, weight, mask, best)
    shift = training.shift(fitted, intercept).float()
    if not held_out.error(fitted, shift) < held_out.error(weight, torch.zeros_like(shift)):
        return None
    return Fit(fitted, shift, before, lowest)


def conjugate_gradients(
    equations: NormalEquations, start: torch.Tensor, old: torch.Tensor, mask: torch.Tensor, ridge: float
) -> torch.Tensor:
    """Return the weights where `mask` is true, the others as in `start`, that minimize the error and the pull to `old`.

    All rows at once, with a diagonal preconditioner, until an iteration lowers the sum of both by less than CONVERGED.
    """
    diagonal = equations.of_inputs.diagonal(dim1=1, dim2=2)
    pull = ridge * equations.scale.view(-1, 1, 1).clamp(min=SMALLEST)
    preconditioner = 1 / (diagonal.unsqueeze(1) + pull)
    weight = start.clone()
    explained = weight @ equations.of_inputs
    error = equations.squares + float(((explained - 2 * equations.of_targets) * weight).sum())
    error += float((pull * (weight - old).square()).sum())
    residual = (equations.of_targets - explained + pull * (old - weight)) * mask
    direction = step = residual * preconditioner
    product = (residual * step).sum(2, keepdim=True)
    for _ in range(MOST_ITERATIONS):
        image = (direction @ equations.of_inputs + pull * direction) * mask
        curvature = (direction * image).sum(2, keepdim=True)
        # Rounding may make it negative where there is none.
        length = torch.where(curvature > 0, product / curvature.clamp(min=SMALLEST), 0)
        weight = weight + length * direction
        residual = residual - length * image
        lowered = float((length * product).sum())
        error -= lowered
        if lowered <= CONVERGED * error:
            break
        step = residual * preconditioner
        previous, product = product, (residual * step).sum(2, keepdim=True)
        direction = step + product / previous.clamp(min=SMALLEST) * direction
    return weight
