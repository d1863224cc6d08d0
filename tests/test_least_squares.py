"""Least squares by conjugate gradients, against direct solutions."""

import pytest
import torch

from elagage.pytorch import least_squares
from elagage.pytorch.least_squares import Moments, NormalEquations, conjugate_gradients, fit


def moments(inputs: torch.Tensor, targets: torch.Tensor) -> Moments:
    """Return the moments of positions that were added in two parts."""
    found = Moments(inputs.shape[1], inputs.shape[2], targets.shape[2])
    found.add(inputs[:7], targets[:7])
    found.add(inputs[7:], targets[7:])
    return found


def layer(positions: int = 200, groups: int = 2, inputs: int = 9, outputs: int = 5) -> tuple[torch.Tensor, ...]:
    """Return inputs that are correlated and no mean of 0, a dense weight, its outputs with an offset, and a mask."""
    mix = torch.randn(groups, inputs, inputs)
    x = torch.einsum("pgi,gij->pgj", torch.randn(positions, groups, inputs), mix) + torch.randn(groups, inputs)
    weight = torch.randn(groups, outputs, inputs)
    targets = torch.einsum("pgi,goi->pgo", x, weight) + torch.randn(groups, outputs)
    return x, weight, targets, torch.rand(groups, outputs, inputs) < 0.5


def direct(x, targets, old, mask, ridge: float, intercept: bool) -> torch.Tensor:
    """Return the solution row by row, float64: of the inputs that the mask leaves, with the pull to the old weights."""
    x, targets, old = x.double(), targets.double(), old.double()
    if intercept:
        x, targets = x - x.mean(0), targets - targets.mean(0)
    solution = torch.zeros_like(old)
    for group, output in torch.cartesian_prod(torch.arange(old.shape[0]), torch.arange(old.shape[1])).tolist():
        free = mask[group, output]
        pull = (ridge * x[:, group].square().mean() * len(x)).sqrt()
        rows = torch.cat([x[:, group, free], pull * torch.eye(int(free.sum()), dtype=torch.float64)])
        wanted = torch.cat([targets[:, group, output], pull * old[group, output, free]])
        solution[group, output, free] = torch.linalg.lstsq(rows, wanted.unsqueeze(1)).solution.squeeze(1)
    return solution


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [1.0, 0.01])
def test_conjugate_gradients_find_the_direct_solution(monkeypatch, intercept, ridge):
    monkeypatch.setattr(least_squares, "CONVERGED", 0.0)
    x, weight, targets, mask = layer()
    old = weight * mask
    equations = moments(x, targets).normal_equations(intercept)
    found = conjugate_gradients(equations, old, old, mask, ridge)
    torch.testing.assert_close(found.double(), direct(x, targets, old, mask, ridge, intercept), rtol=1e-3, atol=1e-3)
    assert torch.equal(found[~mask], torch.zeros_like(found[~mask]))


def test_an_input_that_is_always_zero_and_a_row_without_weights_do_no_harm():
    x, weight, targets, mask = layer()
    x[:, :, 3], mask[0, 2] = 0.0, False
    found = conjugate_gradients(moments(x, targets).normal_equations(True), weight * mask, weight * mask, mask, 1e-4)
    assert found.isfinite().all()
    assert not found[0, 2].any()


def test_the_error_is_the_mean_squared_distance():
    x, weight, targets, _ = layer()
    shift = torch.randn(weight.shape[:2])
    outputs = torch.einsum("pgi,goi->pgo", x, weight) + shift
    expected = (outputs - targets).square().sum((1, 2)).mean().item()
    assert moments(x, targets).error(weight, shift) == pytest.approx(expected, rel=1e-5)


def test_moments_joined_are_those_of_all_positions():
    x, _, targets, _ = layer()
    joined, whole = moments(x[:90], targets[:90]), moments(x, targets)
    joined.join(moments(x[90:], targets[90:]))
    assert joined.positions == whole.positions == len(x)
    torch.testing.assert_close(joined.inputs_inputs, whole.inputs_inputs, rtol=1e-6, atol=1e-4)


def test_dense_weights_that_were_moved_are_found_again():
    x, weight, targets, _ = layer()
    old = weight + 0.1 * torch.randn_like(weight)
    found = fit(moments(x, targets), moments(x, targets), old, torch.ones_like(old, dtype=torch.bool), True)
    assert found.after < 1e-3 * found.before
    outputs = torch.einsum("pgi,goi->pgo", x, found.weight) + found.shift
    assert (outputs - targets).square().sum() < 1e-3 * targets.square().sum()


def test_weights_that_no_fit_brings_nearer_stay():
    x, weight, targets, mask = layer(positions=8)
    old = weight * mask
    random = torch.randn_like(targets)  # of eight positions: a fit to them is wrong for all others
    far = torch.einsum("pgi,goi->pgo", x, old)
    assert fit(moments(x, random), moments(x, far), old, mask, False) is None


def test_a_strong_pull_keeps_the_old_weights():
    equations = NormalEquations(torch.ones(1, 1, 1), torch.full((1, 1, 1), 2.0), 4.0, torch.ones(1))
    old = torch.full((1, 1, 1), 0.5)
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    assert conjugate_gradients(equations, old, old, mask, 1e6).item() == pytest.approx(0.5, abs=1e-4)
    assert conjugate_gradients(equations, old, old, mask, 1e-6).item() == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("offset", [0, 10, 1000])
@pytest.mark.parametrize("intercept", [True, False])
def test_inputs_far_from_0_are_fitted_as_well_as_float32_holds_them(offset, intercept):
    x, weight, _, mask = layer(positions=2000)
    x = x + offset
    targets = torch.einsum("pgi,goi->pgo", x.double(), weight.double()).float()
    found = fit(moments(x[:1600], targets[:1600]), moments(x[1600:], targets[1600:]), weight * mask, mask, intercept)
    assert found is None or found.weight.abs().max() < 100 * weight.abs().max()
    if offset < 1000:
        assert found.after < 0.9 * found.before


def test_inputs_that_never_change_leave_weights_of_a_usual_size():
    x, weight, targets, mask = layer(positions=2000)
    x[:, :, ::2] = 0.5
    found = fit(moments(x[:1600], targets[:1600]), moments(x[1600:], targets[1600:]), weight * mask, mask, True)
    assert found is None or found.weight.abs().max() < 100 * weight.abs().max()


def test_targets_that_are_no_numbers_change_nothing():
    x, weight, targets, mask = layer(positions=200)
    targets[3] = float("nan")
    assert fit(moments(x, targets), moments(x, targets), weight * mask, mask, True) is None
