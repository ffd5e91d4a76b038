"""One Cholesky factorisation for every leading principal submatrix of a system.

With M = L·Lᵀ, the leading block of M of any size is L[:size, :size]·L[:size, :size]ᵀ, and the first rows of
Z = L⁻¹·N belong to it as well. So where the system of rank r is the leading block of that of rank r + 1,

    M_r⁻¹·N_r = L_r⁻ᵀ·Z_r,

and a rank costs one back substitution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotrf

from ranksmith.lowrank.kinds.base import Float64

__all__ = ["NestedSystem", "factorise"]


@dataclass(frozen=True, eq=False)
class NestedSystem:
    """A factorised system.

    Attributes:
        lower: L, [n, n]; what is above the diagonal is anything.
        forward: Z = L⁻¹·N, [n, m].
    """

    lower: Float64
    forward: Float64

    def solve(self, size: int) -> Float64:
        """The solution of the leading `size` rows and columns, [size, m]."""
        # Over the transposes, which BLAS sees without a copy: X·L = Zᵀ.
        solution = dtrsm(1.0, self.lower[:size, :size], self.forward[:size], lower=1, trans_a=1)
        return np.asarray(solution, np.float64)


def factorise(matrix: Float64, right: Float64) -> NestedSystem:
    """Factorise the symmetric positive definite `matrix` [n, n], in its own memory, for the right sides [n, m].

    Raises:
        LinAlgError: the matrix is not positive definite.
    """
    # BLAS wants columns in memory; a symmetric matrix is its own transpose.
    lower, failed = dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError(f"leading minor {failed} of {len(matrix)} is not positive definite")
    return NestedSystem(lower, np.asarray(dtrsm(1.0, lower, right, lower=1), np.float64))
