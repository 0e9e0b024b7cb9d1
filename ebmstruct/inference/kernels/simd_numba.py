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
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import register_model

LANES = 16
intrinsic: Any = numba_intrinsic  # what it decorates is called with one argument fewer than it is defined with

INT32 = ir.IntType(32)


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


def bits_of(vector: ir.VectorType) -> int:
    return 32 if vector.element == ir.FloatType() else 64


def splat_value(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    if isinstance(value, int | float):
        return ir.Constant(vector, [value] * LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(INT32, 0))
    zeros = ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def call_named(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def fma_value(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return call_named(builder, f"llvm.fma.v{LANES}f{bits_of(a.type)}", a.type, [a, b, c])


def _pointer(context: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _lanes_below(builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """The mask of the lanes whose number is below count (an i64)."""
    wide = ir.VectorType(count.type, LANES)
    return builder.icmp_signed("<", ir.Constant(wide, list(range(LANES))), splat_value(builder, count, wide))


def _align(vector: ir.VectorType) -> int:
    return bits_of(vector) // 8


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
        rest = splat_value(builder, args[3], vector)
        name = f"llvm.masked.load.v{LANES}f{bits_of(vector)}.p0"
        alignment = ir.Constant(INT32, _align(vector))
        return call_named(builder, name, vector, [where, alignment, _lanes_below(builder, args[2]), rest])

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
        name = f"llvm.masked.store.v{LANES}f{bits_of(vector)}.p0"
        mask = _lanes_below(builder, args[2])
        call_named(builder, name, ir.VoidType(), [args[3], where, ir.Constant(INT32, _align(vector)), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), code


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The number in all sixteen lanes."""
    result = Vector(value)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat_value(builder, args[0], context.get_value_type(result))

    return result(value), code


@intrinsic
def splat_at(typing: Any, array: Any, index: Any) -> Any:
    """array[index] in all sixteen lanes, without numba's own indexing, which asks whether the index is negative."""
    result = Vector(array.dtype)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _pointer(context, builder, signature.args[0], args[0], args[1])
        return splat_value(builder, builder.load(where), context.get_value_type(result))

    return result(array, types.intp), code


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
    return a(a, a, a), lambda context, builder, signature, args: fma_value(builder, *args)


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
        upper = builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(INT32, LANES), order))
        value = combine(builder, value, upper)
    return builder.extract_element(value, ir.Constant(INT32, 0))


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
        failed = builder.fcmp_unordered("<=", args[0], splat_value(builder, args[1], args[0].type))
        word = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(failed, word), ir.Constant(word, 0))

    return types.boolean(a, a.dtype), code


@intrinsic
def any_between(typing: Any, a: Any, low: Any, high: Any) -> Any:
    """Whether some lane lies strictly between the two numbers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        above = builder.fcmp_ordered(">", args[0], splat_value(builder, args[1], args[0].type))
        below = builder.fcmp_ordered("<", args[0], splat_value(builder, args[2], args[0].type))
        word = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(builder.and_(above, below), word), ir.Constant(word, 0))

    return types.boolean(a, a.dtype, a.dtype), code
