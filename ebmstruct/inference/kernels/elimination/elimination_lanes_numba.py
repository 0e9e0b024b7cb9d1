"""Vector steps of elimination over sites of two states, whose entries lie side by side."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ebmstruct.inference.kernels.simd_numba import LANES, fma_value, intrinsic, splat_value

INT32 = ir.IntType(32)


def _every_other(builder: ir.IRBuilder, args: Any, first: int) -> ir.Value:
    order = ir.Constant(ir.VectorType(INT32, LANES), list(range(first, 2 * LANES, 2)))
    return builder.shuffle_vector(args[0], args[1], order)


@intrinsic
def evens(typing: Any, a: Any, b: Any) -> Any:
    """Lanes 0, 2, 4, ... of a, then of b."""
    return a(a, a), lambda context, builder, signature, args: _every_other(builder, args, 0)


@intrinsic
def odds(typing: Any, a: Any, b: Any) -> Any:
    """Lanes 1, 3, 5, ... of a, then of b."""
    return a(a, a), lambda context, builder, signature, args: _every_other(builder, args, 1)


def _doubled(builder: ir.IRBuilder, args: Any, first: int) -> ir.Value:
    order = ir.Constant(ir.VectorType(INT32, LANES), [first + i // 2 for i in range(LANES)])
    return builder.shuffle_vector(args[0], args[0], order)


@intrinsic
def low_pairs(typing: Any, a: Any) -> Any:
    """Lanes 0, 0, 1, 1, ... 7, 7."""
    return a(a), lambda context, builder, signature, args: _doubled(builder, args, 0)


@intrinsic
def high_pairs(typing: Any, a: Any) -> Any:
    """Lanes 8, 8, 9, 9, ... 15, 15."""
    return a(a), lambda context, builder, signature, args: _doubled(builder, args, LANES // 2)


@intrinsic
def less_bits(typing: Any, a: Any, b: Any) -> Any:
    """A whole number whose bit i is set where a < b in lane i."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.fcmp_ordered("<", *args)
        return builder.zext(builder.bitcast(mask, ir.IntType(LANES)), ir.IntType(64))

    return types.uint64(a, a), code


@intrinsic
def finite_or(typing: Any, a: Any, b: Any) -> Any:
    """a where a < inf, else b, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        infinite = splat_value(builder, float("inf"), args[0].type)
        return builder.select(builder.fcmp_ordered("<", args[0], infinite), args[0], args[1])

    return a(a, a), code


@intrinsic
def log_of_one_plus(typing: Any, a: Any) -> Any:
    """log(1 + a) for lanes in [0, 1], to an ulp or two: 2 atanh(a / (2 + a)) by its series, where the square is <= 1/9."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y = args[0]
        constant = lambda value: splat_value(builder, value, y.type)  # noqa: E731
        s = builder.fdiv(y, builder.fadd(y, constant(2.0)))
        square = builder.fmul(s, s)
        value = constant(2.0 / 35)
        for term in range(16, -1, -1):
            value = fma_value(builder, value, square, constant(2.0 / (2 * term + 1)))
        return builder.fmul(s, value)

    return a(a), code
