"""Dense linear algebra for one instance, in loops that compile to vector instructions.

Q and its factor U, U'U = Q, are matrices, or vectors that hold the diagonal; the branch is taken when compiling.

Matrices are stored by rows. Work runs along rows and takes four of them at a time, so that every load of the
target serves four products.
"""

from math import sqrt

from .compiled import compiled, inlined


@compiled
def subtract_rows(target, T, weights, stop, first, last):
    """target[first:last] -= sum over k < stop of weights[k] T[k, first:last]."""
    k = 0
    while k + 4 <= stop:
        a, b, c, d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        for j in range(first, last):
            target[j] -= a * T[k, j] + b * T[k + 1, j] + c * T[k + 2, j] + d * T[k + 3, j]
        k += 4
    while k < stop:
        a = weights[k]
        for j in range(first, last):
            target[j] -= a * T[k, j]
        k += 1


@compiled
def factorise(Q, U, n, least):
    """U'U = Q in the upper triangle of U. False where a pivot falls below `least` of its diagonal entry."""
    if Q.ndim == 1:
        for i in range(n):
            if not Q[i] > 0:
                return False
            U[i] = sqrt(Q[i])
        return True
    for i in range(n):
        row = U[i]
        for j in range(i, n):
            row[j] = Q[i, j]
        subtract_rows(row, U, U[:, i], i, i, n)
        if not row[i] > least * Q[i, i]:
            return False
        scale = 1.0 / sqrt(row[i])
        for j in range(i, n):
            row[j] *= scale
    return True


@compiled
def forward_columns(U, Y, n, columns):
    """Y <- U'^-1 Y for a matrix Y (n, columns)."""
    for i in range(n):
        row = Y[i]
        if U.ndim == 2:
            subtract_rows(row, Y, U[:, i], i, 0, columns)
        scale = 1.0 / diagonal(U, i)
        for j in range(columns):
            row[j] *= scale


@compiled
def forward(U, x, n, first):
    """x <- U'^-1 x for a vector that is zero before `first`."""
    if U.ndim == 1:
        for i in range(first, n):
            x[i] /= U[i]
        return
    for i in range(first, n):
        x_i = x[i] / U[i, i]
        x[i] = x_i
        for j in range(i + 1, n):
            x[j] -= x_i * U[i, j]


@compiled
def backward(U, x, n):
    """x <- U^-1 x."""
    if U.ndim == 1:
        for i in range(n):
            x[i] /= U[i]
        return
    for i in range(n - 1, -1, -1):
        total = x[i]
        for j in range(i + 1, n):
            total -= U[i, j] * x[j]
        x[i] = total / U[i, i]


@inlined
def diagonal(Q, i):
    """Q_ii."""
    return Q[i] if Q.ndim == 1 else Q[i, i]


@inlined
def row_times(Q, i, x, n):
    """(Q x)_i."""
    return Q[i] * x[i] if Q.ndim == 1 else dot(Q[i], x, n)


@inlined
def dot(x, y, n):
    """x'y."""
    total = 0.0
    for i in range(n):
        total += x[i] * y[i]
    return total


@inlined
def largest(x, n):
    """max |x_i|."""
    most = 0.0
    for i in range(n):
        most = max(most, abs(x[i]))
    return most
