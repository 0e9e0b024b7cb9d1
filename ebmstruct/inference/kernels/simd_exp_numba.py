"""Exponentials and powers of two of the vectors of ``simd_numba``, put together from the bits of floating numbers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ebmstruct.inference.kernels.simd_numba import (
    INT32,
    LANES,
    bits_of,
    call_named,
    fma_value,
    intrinsic,
    splat_value,
)

# Taylor coefficients of exp around 0, highest first; on |x| <= ln(2)/2 the error is below half an ulp of the type.
_EXP = {32: [1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0]}
_EXP[64] = [
    1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, *_EXP[32],
]  # fmt: skip
# ln 2 split in two, the first part short enough that its product with a whole number is exact.
_LN2 = {32: (0.693359375, -2.12194440e-4), 64: (6.93147180369123816490e-01, 1.90821492927058770002e-10)}
_FLUSH = {32: -87.0, 64: -708.0}
_BIAS = {32: 127, 64: 1023}
_MANTISSA = {32: 23, 64: 52}


@intrinsic
def exp(typing: Any, a: Any) -> Any:
    """exp of lanes that are at most 0; 0 below -87 (float32) or -708 (float64); NaN stays NaN."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = args[0]
        bits = bits_of(x.type)
        constant = lambda value: splat_value(builder, value, x.type)  # noqa: E731
        floor = constant(_FLUSH[bits])
        below = builder.fcmp_ordered("<", x, floor)
        # A NaN takes the floor here, so that the conversion to a whole number is defined; it returns in x below.
        safe = builder.select(builder.fcmp_ordered(">", x, floor), x, floor)
        scaled = builder.fmul(safe, constant(1.4426950408889634))
        whole = call_named(builder, f"llvm.rint.v{LANES}f{bits}", x.type, [scaled])
        high, low = _LN2[bits]
        rest = fma_value(builder, whole, constant(-high), builder.select(below, floor, x))
        rest = fma_value(builder, whole, constant(-low), rest)
        coefficients = _EXP[bits]
        value = constant(coefficients[0])
        for coefficient in coefficients[1:]:
            value = fma_value(builder, value, rest, constant(coefficient))
        integers = ir.VectorType(ir.IntType(bits), LANES)
        power = builder.add(builder.fptosi(whole, integers), splat_value(builder, _BIAS[bits], integers))
        power = builder.shl(power, splat_value(builder, _MANTISSA[bits], integers))
        value = builder.fmul(value, builder.bitcast(power, x.type))
        return builder.select(below, constant(0.0), value)

    return a(a), code


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of a and b, lane by lane, for numbers that are not negative; four times as quick as maximum."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integers = ir.VectorType(ir.IntType(bits_of(args[0].type)), LANES)
        x, y = (builder.bitcast(value, integers) for value in args)
        return builder.bitcast(builder.select(builder.icmp_signed(">", x, y), x, y), args[0].type)

    return a(a, a), code


@intrinsic
def inverse_power(typing: Any, a: Any) -> Any:
    """2 ** -e in all lanes, where 2 ** e is the power of two at or below the largest lane; lanes not negative.

    Whole-number operations on vectors alone, because this lies on the path from one site to the next.
    Where a lane is infinite or undefined, so is what is computed with the result, or zero.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = args[0].type
        bits = bits_of(vector)
        integers = ir.VectorType(ir.IntType(bits), LANES)
        value = builder.bitcast(args[0], integers)
        undefined = ir.Constant(integers, ir.Undefined)
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            order = [*range(lanes, 2 * lanes), *([0] * (LANES - lanes))]
            upper = builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(INT32, LANES), order))
            value = builder.select(builder.icmp_signed(">", value, upper), value, upper)
        value = builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))
        field = (2 * _BIAS[bits] + 1) << _MANTISSA[bits]
        value = builder.and_(value, splat_value(builder, field, integers))
        value = builder.sub(splat_value(builder, 2 * _BIAS[bits] << _MANTISSA[bits], integers), value)
        return builder.bitcast(value, vector)

    return a(a), code


@intrinsic
def power_undone(typing: Any, a: Any) -> Any:
    """e of a vector that inverse_power returned."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = bits_of(args[0].type)
        integer = ir.IntType(bits)
        word = builder.bitcast(builder.extract_element(args[0], ir.Constant(INT32, 0)), integer)
        word = builder.lshr(word, ir.Constant(integer, _MANTISSA[bits]))
        word = builder.sub(ir.Constant(integer, _BIAS[bits]), word)
        return word if bits == 64 else builder.sext(word, ir.IntType(64))

    return types.int64(a), code
