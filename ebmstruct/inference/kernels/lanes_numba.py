"""Rows of numbers whose length, a multiple of eight, is known when a kernel is compiled: one value a row.

``simd_numba`` has vectors of sixteen; here a row of 8, 16, 24, ... states is one value that stays in registers from
load to store. The length comes with a *token*, a tuple of as many zeros as the row has eights: numba compiles a
kernel once for each length of the tuple. An index is always into a flat array.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import register_model

intrinsic: Any = numba_intrinsic  # what it decorates is called with one argument fewer than it is defined with

INT32, INT64 = ir.IntType(32), ir.IntType(64)


class Lanes(types.Type):
    """The numba type of a row of ``count`` numbers of one dtype."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


def _eight(dtype: Any) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), 8)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    """An array of vectors of eight: the compiler would widen one vector of 24 to 32, and shuffle at every load."""

    def __init__(self, manager: Any, frontend: Lanes) -> None:
        super().__init__(manager, frontend, ir.ArrayType(_eight(frontend.dtype), frontend.count // 8))


def _parts(builder: ir.IRBuilder, row: ir.Value) -> list[ir.Value]:
    return [builder.extract_value(row, k) for k in range(row.type.count)]


def _row(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    out = ir.Constant(ir.ArrayType(parts[0].type, len(parts)), ir.Undefined)
    for k, part in enumerate(parts):
        out = builder.insert_value(out, part, k)
    return out


def _lane_wise(builder: ir.IRBuilder, function: Any, *rows: ir.Value) -> ir.Value:
    return _row(builder, [function(*parts) for parts in zip(*(_parts(builder, r) for r in rows), strict=True)])


def _order(values: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(INT32, len(values)), values)


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    nothing = ir.Constant(ir.VectorType(value.type, 8), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, nothing, _order([0] * 8))


def _where(context: Any, builder: Any, kind: Any, array: Any, index: Any, part: int) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    first = builder.add(index, ir.Constant(INT64, 8 * part))
    return builder.bitcast(builder.gep(data, [first]), _eight(kind.dtype).as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any, token: Any) -> Any:
    """array[index : index + 8 * len(token)]."""
    result = Lanes(array.dtype, 8 * len(token))

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = [_where(context, builder, signature.args[0], args[0], args[1], k) for k in range(len(token))]
        return _row(builder, [builder.load(w, align=4) for w in where])

    return result(array, types.intp, token), code


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + the row's length] = value."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for k, part in enumerate(_parts(builder, args[2])):
            builder.store(part, _where(context, builder, signature.args[0], args[0], args[1], k), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), code


@intrinsic
def splat(typing: Any, value: Any, token: Any) -> Any:
    """The number in all lanes."""
    result = Lanes(value, 8 * len(token))

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _row(builder, [_splat(builder, args[0])] * len(token))

    return result(value, token), code


@intrinsic
def splat_at(typing: Any, array: Any, index: Any, token: Any) -> Any:
    """array[index] in all lanes."""
    result = Lanes(array.dtype, 8 * len(token))

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        value = builder.load(builder.gep(data, [args[1]]))
        return _row(builder, [_splat(builder, value)] * len(token))

    return result(array, types.intp, token), code


@intrinsic
def widen(typing: Any, a: Any) -> Any:
    """The same numbers in float64."""
    result = Lanes(types.float64, a.count)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = _eight(types.float64)
        return _lane_wise(builder, lambda x: x if x.type == wide else builder.fpext(x, wide), *args)

    return result(a), code


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b, lane by lane."""
    return a(a, a), lambda context, builder, signature, args: _lane_wise(builder, builder.fadd, *args)


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """a - b, lane by lane."""
    return a(a, a), lambda context, builder, signature, args: _lane_wise(builder, builder.fsub, *args)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        eight = args[0].type.element
        bits = 32 if eight.element == ir.FloatType() else 64
        kind = ir.FunctionType(eight, [eight] * 3)
        named = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v8f{bits}")
        return _lane_wise(builder, lambda *parts: builder.call(named, parts), *args)

    return a(a, a, a), code


def _least(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """a where a < b, else b, lane by lane."""
    return a(a, a), lambda context, builder, signature, args: _lane_wise(
        builder, lambda x, y: _least(builder, x, y), *args
    )


def _reduce(builder: ir.IRBuilder, row: ir.Value) -> ir.Value:
    """The least lane: vectors of eight lane by lane first, then halves of the one that is left."""
    parts = _parts(builder, row)
    while len(parts) > 1:
        pairs = [_least(builder, parts[i], parts[i + 1]) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    (best,), nothing = parts, ir.Constant(parts[0].type, ir.Undefined)
    for half in (4, 2, 1):
        upper = builder.shuffle_vector(best, nothing, _order([*range(half, 2 * half), *[0] * (8 - half)]))
        best = _least(builder, best, upper)
    return builder.extract_element(best, ir.Constant(INT32, 0))


@intrinsic
def least(typing: Any, a: Any) -> Any:
    """The least lane."""
    return a.dtype(a), lambda context, builder, signature, args: _reduce(builder, args[0])


@intrinsic
def first_least(typing: Any, a: Any) -> Any:
    """The number of the first lane that holds the least value (0 where the row holds NaN)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lowest = _splat(builder, _reduce(builder, args[0]))
        mask = ir.Constant(INT64, 0)
        for k, part in enumerate(_parts(builder, args[0])):
            same = builder.bitcast(builder.fcmp_ordered("<=", part, lowest), ir.IntType(8))
            mask = builder.or_(mask, builder.shl(builder.zext(same, INT64), ir.Constant(INT64, 8 * k)))
        found = builder.cttz(mask, ir.Constant(ir.IntType(1), 0))
        return builder.select(builder.icmp_unsigned("==", mask, ir.Constant(INT64, 0)), ir.Constant(INT64, 0), found)

    return types.int64(a), code
