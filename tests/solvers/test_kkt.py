"""The contract of KKT operators; every operator inherits it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from icnn.solvers.kkt import KKT, DualKKT, FullKKT, PrimalKKT, measure_units
from icnn.solvers.program import Bounds, Program

N, EQUALITIES, ROWS = 5, 2, 3
BOTH = Bounds(True, True)
BOUNDS = [Bounds(False, False), Bounds(True, False), Bounds(False, True), BOTH]


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Contract:
    """solve inverts apply, both agree with numpy, dropped and held rows, singular operators."""

    operator: type[KKT]
    batch = 4

    def curvature(self) -> Tensor:
        """H of the batch: a matrix, or a diagonal where the operator needs one."""
        root = randn(self.batch, N, N)
        return root @ root.mT + torch.eye(N, dtype=torch.float64)

    def build(
        self,
        bounds: Bounds = BOTH,
        w: Tensor | None = None,
        H: Tensor | None = None,
        A: Tensor | None = None,
        G: Tensor | None = None,
    ) -> KKT:
        H = self.curvature() if H is None else H
        A = randn(self.batch, EQUALITIES, N) if A is None else A
        G = randn(self.batch, ROWS, N) if G is None else G
        rows = G.shape[-2] + N * sum(bounds)
        w = torch.rand(self.batch, rows, dtype=torch.float64) + 0.1 if w is None else w
        zero = torch.zeros(self.batch, N, dtype=torch.float64)
        units = measure_units(H, Program(H, zero, A, A[..., 0], G, w), bounds)
        return self.operator.factorise(H, A, G, bounds, w, units.rho, units.delta)

    def right_side(self, kkt: KKT) -> Tensor:
        return randn(self.batch, N + kkt.A.shape[-2] + kkt.w.shape[-1])

    def dense(self, kkt: KKT, index: int) -> np.ndarray:
        """M of one instance; rows of w = inf read -lam = r."""
        A, G, w = (t[index].numpy() for t in (kkt.A, kkt.G, kkt.w))
        H = kkt.H[index].numpy()
        H = np.diag(H) if H.ndim == 1 else H
        eye = np.eye(N)
        J = np.concatenate([G] + [-eye] * kkt.bounds.lower + [eye] * kkt.bounds.upper)
        kept = np.isfinite(w)
        R = np.concatenate((A, J * kept[:, None]))
        corner = -np.diag(np.concatenate((np.zeros(len(A)), np.where(kept, w, 1.0))))
        return np.block([[H, R.T], [R, corner]])

    def check_against_numpy(self, kkt: KKT) -> None:
        r = self.right_side(kkt)
        z, error = kkt.solve(r)
        x, nu, lam = kkt.split(r)
        r = torch.cat((x, nu, lam * kkt.kept), -1).numpy()
        for index in range(self.batch):
            M = self.dense(kkt, index)
            expected = np.linalg.solve(M, r[index])
            scale = abs(expected).max() * np.linalg.cond(M)
            np.testing.assert_allclose(z[index].numpy(), expected, rtol=0, atol=1e-12 * scale)
            np.testing.assert_allclose(kkt.apply(z)[index].numpy(), M @ z[index].numpy(), rtol=0, atol=1e-12 * scale)
        assert error.shape == (self.batch,)
        assert (error < 1e-11).all()

    @pytest.mark.parametrize("bounds", BOUNDS, ids=str)
    def test_solve_agrees_with_numpy(self, bounds: Bounds) -> None:
        self.check_against_numpy(self.build(bounds))

    def test_apply_inverts_solve(self) -> None:
        kkt = self.build()
        r = self.right_side(kkt)
        torch.testing.assert_close(kkt.apply(kkt.solve(r)[0]), r, rtol=1e-10, atol=1e-10)

    def test_without_equalities_or_inequalities(self) -> None:
        none = torch.zeros(self.batch, 0, N, dtype=torch.float64)
        self.check_against_numpy(self.build(A=none))
        self.check_against_numpy(self.build(G=none))
        self.check_against_numpy(self.build(A=none, G=none))

    def test_held_rows_are_equalities(self) -> None:
        w = torch.rand(self.batch, ROWS + 2 * N, dtype=torch.float64) + 0.1
        w[:, 1] = w[:, ROWS + 2] = 0
        kkt = self.build(w=w)
        self.check_against_numpy(kkt)
        r = self.right_side(kkt)
        x, _, _ = kkt.split(kkt.solve(r)[0])
        torch.testing.assert_close((kkt.G[:, 1] * x).sum(-1), r[:, N + EQUALITIES + 1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(-x[:, 2], r[:, N + EQUALITIES + ROWS + 2], rtol=1e-9, atol=1e-9)

    def test_dropped_rows_are_absent(self) -> None:
        w = torch.rand(self.batch, ROWS + 2 * N, dtype=torch.float64) + 0.1
        w[:, 0] = w[:, ROWS + 1] = w[:, ROWS + N :] = torch.inf
        kkt = self.build(w=w)
        self.check_against_numpy(kkt)
        lam = kkt.split(kkt.solve(self.right_side(kkt))[0])[2]
        assert not lam[torch.isinf(w)].any()

    def test_a_wide_range_of_weights_as_at_the_end_of_the_loop(self) -> None:
        w = torch.rand(self.batch, ROWS + 2 * N, dtype=torch.float64) + 0.1
        w[:, 0], w[:, 1], w[:, ROWS:] = 1e-12, 1e12, 1e10
        kkt = self.build(w=w)
        r = self.right_side(kkt)
        _, error = kkt.solve(r)
        assert (error < 1e-9).all()

    def test_regular_operators_are_not_singular(self) -> None:
        kkt = self.build()
        assert not kkt.singular().any()
        z = self.right_side(kkt)
        torch.testing.assert_close(kkt.range_part(z), z, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(kkt.minimum_norm_solve(z)[0], kkt.solve(z)[0], rtol=1e-8, atol=1e-8)

    def repeated(self) -> KKT:
        """The last equality repeats the first, in instances 1 and 2."""
        A = randn(self.batch, EQUALITIES, N)
        A[1:3, -1] = A[1:3, 0]
        return self.build(A=A)

    def test_singular_instances_are_noticed(self) -> None:
        assert self.repeated().singular().tolist() == [False, True, True, False]

    def test_range_part_projects_along_the_null_space(self) -> None:
        kkt = self.repeated()
        z = self.right_side(kkt)
        part = kkt.range_part(z)
        torch.testing.assert_close(kkt.apply(part), kkt.apply(z), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(kkt.range_part(part), part, rtol=1e-6, atol=1e-6)
        null = torch.zeros_like(z)
        null[1:3, N], null[1:3, N + EQUALITIES - 1] = 1.0, -1.0
        assert kkt.range_part(null).abs().max() < 1e-6
        assert (z - part)[1:3].abs().max() > 0.1

    def test_minimum_norm_solution(self) -> None:
        kkt = self.repeated()
        z, error = kkt.minimum_norm_solve(self.right_side(kkt))
        assert (error < 1e-6).all()  # rounding over the regularisation of 1e-8, and what the adjoint asks for
        nu = kkt.split(z)[1]
        torch.testing.assert_close(nu[1:3, 0], nu[1:3, -1], rtol=1e-6, atol=1e-6)  # equal rows carry equal shares

    def test_consistent_right_sides_of_a_singular_operator_are_solved(self) -> None:
        kkt = self.repeated()
        r = kkt.apply(self.right_side(kkt))
        z, error = kkt.solve(r)
        assert (error < 1e-10).all()
        torch.testing.assert_close(kkt.apply(z), r, rtol=1e-9, atol=1e-9)

    def test_instances_do_not_see_each_other(self) -> None:
        kkt = self.build()
        r = self.right_side(kkt)
        H, A, G, w, rho, delta = (t[2:3] for t in (kkt.H, kkt.A, kkt.G, kkt.w, kkt.rho, kkt.delta))
        single = self.operator.factorise(H, A, G, kkt.bounds, w, rho, delta)
        torch.testing.assert_close(single.solve(r[2:3])[0], kkt.solve(r)[0][2:3], rtol=1e-12, atol=1e-12)

    def test_step_is_close_to_solve(self) -> None:
        kkt = self.build()
        r = self.right_side(kkt)
        torch.testing.assert_close(kkt.step(r), kkt.solve(r)[0], rtol=1e-4, atol=1e-4)


class TestFull(Contract):
    operator = FullKKT


class TestFullDiagonal(Contract):
    operator = FullKKT

    def curvature(self) -> Tensor:
        return torch.rand(self.batch, N, dtype=torch.float64) + 0.5


class TestPrimal(Contract):
    operator = PrimalKKT


class TestPrimalDiagonal(TestFullDiagonal):
    operator = PrimalKKT


class TestDual(TestFullDiagonal):
    operator = DualKKT


@pytest.mark.parametrize("operator", [FullKKT, PrimalKKT])
def test_singular_curvature_that_constraints_make_up_for(operator: type[KKT]) -> None:
    """H of rank one, five equalities that fix x."""
    contract = Contract()
    contract.operator, contract.batch = operator, 1
    root = randn(1, N, 1)
    kkt = contract.build(Bounds(False, False), torch.ones(1, ROWS, dtype=torch.float64), root @ root.mT, randn(1, N, N))
    assert not kkt.singular().any()
    contract.check_against_numpy(kkt)
