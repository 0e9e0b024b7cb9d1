"""Vectors of sixteen numbers for numba code, so that an inner loop becomes the instructions it was written as.

numba knows nothing of aliasing, so the compiler's own vectoriser gives up on loops that read one row while
they write another, or guards them with checks that cost more than a row of a few states. Here a row is
loaded, combined and stored by name. Sixteen lanes of float32 fill one AVX-512 register; the compiler
splits them on narrower machines, and float64 takes two registers. An index is always into a flat array.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LANES = 16

_INT32 = ir.IntType(32)
_MASK = ir.VectorType(ir.IntType(1), LANES)
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


class Vector(types.Type):
    """The numba type of sixteen numbers of one dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector{LANES}({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend: Vector) -> None:
        element = ir.FloatType() if frontend.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, frontend, ir.VectorType(element, LANES))


def _bits(vector: ir.VectorType) -> int:
    return 32 if vector.element == ir.FloatType() else 64


def _splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    if isinstance(value, int | float):
        return ir.Constant(vector, [value] * LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_INT32, 0))
    zeros = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, f"llvm.fma.v{LANES}f{_bits(a.type)}", a.type, [a, b, c])


def _pointer(context: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _lanes_below(builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """The mask of the lanes whose number is below count (an i64)."""
    wide = ir.VectorType(count.type, LANES)
    return builder.icmp_signed("<", ir.Constant(wide, list(range(LANES))), _splat(builder, count, wide))


def _align(vector: ir.VectorType) -> int:
    return _bits(vector) // 8


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16]."""
    result = Vector(array.dtype)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(result)
        where = _pointer(context, builder, signature.args[0], args[0], args[1])
        return builder.load(builder.bitcast(where, vector.as_pointer()), align=_align(vector))

    return result(array, types.intp), code


@intrinsic
def load_some(typing: Any, array: Any, index: Any, count: Any, fill: Any) -> Any:
    """array[index : index + count] in the first lanes and fill in the rest; count may be 16 or more."""
    result = Vector(array.dtype)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(result)
        where = _pointer(context, builder, signature.args[0], args[0], args[1])
        where = builder.bitcast(where, vector.as_pointer())
        rest = _splat(builder, args[3], vector)
        name = f"llvm.masked.load.v{LANES}f{_bits(vector)}.p0"
        alignment = ir.Constant(_INT32, _align(vector))
        return _call(builder, name, vector, [where, alignment, _lanes_below(builder, args[2]), rest])

    return result(array, types.intp, types.intp, array.dtype), code


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + 16] = value."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _pointer(context, builder, signature.args[0], args[0], args[1])
        where = builder.bitcast(where, args[2].type.as_pointer())
        builder.store(args[2], where, align=_align(args[2].type))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), code


@intrinsic
def store_some(typing: Any, array: Any, index: Any, count: Any, value: Any) -> Any:
    """array[index : index + count] = the first lanes of value; count may be 16 or more."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _pointer(context, builder, signature.args[0], args[0], args[1])
        vector = args[3].type
        where = builder.bitcast(where, vector.as_pointer())
        name = f"llvm.masked.store.v{LANES}f{_bits(vector)}.p0"
        mask = _lanes_below(builder, args[2])
        _call(builder, name, ir.VoidType(), [args[3], where, ir.Constant(_INT32, _align(vector)), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), code


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The number in all sixteen lanes."""
    result = Vector(value)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0], context.get_value_type(result))

    return result(value), code


@intrinsic
def widen(typing: Any, value: Any) -> Any:
    """The same numbers in float64."""
    result = Vector(types.float64)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(result)
        return args[0] if args[0].type == vector else builder.fpext(args[0], vector)

    return result(value), code


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, lane by lane."""
    return a(a, a, a), lambda context, builder, signature, args: _fma(builder, *args)


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b, lane by lane."""
    return a(a, a), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """a - b, lane by lane."""
    return a(a, a), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """a * b, lane by lane."""
    return a(a, a), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """a where a < b, else b, lane by lane (so b where either is NaN)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return a(a, a), code


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """a where a > b, else b, lane by lane (so b where either is NaN)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, a), code


@intrinsic
def where_positive(typing: Any, test: Any, yes: Any, no: Any) -> Any:
    """yes where test > 0, else no, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(args[0].type, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], args[2])

    return yes(yes, yes, yes), code


def _reduce(builder: ir.IRBuilder, value: ir.Value, combine: Any) -> ir.Value:
    """Halve the vector until one lane is left, always in the same order."""
    lanes = LANES
    undefined = ir.Constant(value.type, ir.Undefined)
    while lanes > 1:
        lanes //= 2
        order = [*range(lanes, 2 * lanes), *([0] * (LANES - lanes))]
        upper = builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(_INT32, LANES), order))
        value = combine(builder, value, upper)
    return builder.extract_element(value, ir.Constant(_INT32, 0))


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of the lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _reduce(builder, args[0], lambda b, x, y: b.fadd(x, y))

    return a.dtype(a), code


@intrinsic
def least(typing: Any, a: Any) -> Any:
    """The least lane (NaN in a lane is not reported)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _reduce(builder, args[0], lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))

    return a.dtype(a), code


@intrinsic
def greatest(typing: Any, a: Any) -> Any:
    """The greatest lane (NaN in a lane is not reported)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _reduce(builder, args[0], lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))

    return a.dtype(a), code


@intrinsic
def any_not_above(typing: Any, a: Any, bound: Any) -> Any:
    """Whether some lane is not above the number: not larger, or NaN."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        failed = builder.fcmp_unordered("<=", args[0], _splat(builder, args[1], args[0].type))
        word = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(failed, word), ir.Constant(word, 0))

    return types.boolean(a, a.dtype), code


@intrinsic
def any_between(typing: Any, a: Any, low: Any, high: Any) -> Any:
    """Whether some lane lies strictly between the two numbers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        above = builder.fcmp_ordered(">", args[0], _splat(builder, args[1], args[0].type))
        below = builder.fcmp_ordered("<", args[0], _splat(builder, args[2], args[0].type))
        word = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(builder.and_(above, below), word), ir.Constant(word, 0))

    return types.boolean(a, a.dtype, a.dtype), code


@intrinsic
def exp(typing: Any, a: Any) -> Any:
    """exp of lanes that are at most 0; 0 below -87 (float32) or -708 (float64); NaN stays NaN."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = args[0]
        bits = _bits(x.type)
        constant = lambda value: _splat(builder, value, x.type)  # noqa: E731
        floor = constant(_FLUSH[bits])
        below = builder.fcmp_ordered("<", x, floor)
        # A NaN takes the floor here, so that the conversion to a whole number is defined; it returns in x below.
        safe = builder.select(builder.fcmp_ordered(">", x, floor), x, floor)
        scaled = builder.fmul(safe, constant(1.4426950408889634))
        whole = _call(builder, f"llvm.rint.v{LANES}f{bits}", x.type, [scaled])
        high, low = _LN2[bits]
        rest = _fma(builder, whole, constant(-high), builder.select(below, floor, x))
        rest = _fma(builder, whole, constant(-low), rest)
        coefficients = _EXP[bits]
        value = constant(coefficients[0])
        for coefficient in coefficients[1:]:
            value = _fma(builder, value, rest, constant(coefficient))
        integers = ir.VectorType(ir.IntType(bits), LANES)
        power = builder.add(builder.fptosi(whole, integers), _splat(builder, _BIAS[bits], integers))
        power = builder.shl(power, _splat(builder, _MANTISSA[bits], integers))
        value = builder.fmul(value, builder.bitcast(power, x.type))
        return builder.select(below, constant(0.0), value)

    return a(a), code


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of a and b, lane by lane, for numbers that are not negative; four times as quick as maximum."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integers = ir.VectorType(ir.IntType(_bits(args[0].type)), LANES)
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
        bits = _bits(vector)
        integers = ir.VectorType(ir.IntType(bits), LANES)
        value = builder.bitcast(args[0], integers)
        undefined = ir.Constant(integers, ir.Undefined)
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            order = [*range(lanes, 2 * lanes), *([0] * (LANES - lanes))]
            upper = builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(_INT32, LANES), order))
            value = builder.select(builder.icmp_signed(">", value, upper), value, upper)
        value = builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))
        field = (2 * _BIAS[bits] + 1) << _MANTISSA[bits]
        value = builder.and_(value, _splat(builder, field, integers))
        value = builder.sub(_splat(builder, 2 * _BIAS[bits] << _MANTISSA[bits], integers), value)
        return builder.bitcast(value, vector)

    return a(a), code


@intrinsic
def power_undone(typing: Any, a: Any) -> Any:
    """e of a vector that inverse_power returned."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = _bits(args[0].type)
        integer = ir.IntType(bits)
        word = builder.bitcast(builder.extract_element(args[0], ir.Constant(_INT32, 0)), integer)
        word = builder.lshr(word, ir.Constant(integer, _MANTISSA[bits]))
        word = builder.sub(ir.Constant(integer, _BIAS[bits]), word)
        return word if bits == 64 else builder.sext(word, ir.IntType(64))

    return types.int64(a), code
