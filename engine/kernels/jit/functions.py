"""Functions that compiled loops call: exp, log and the like without branches or library calls.

LLVM vectorises them together with the loop around them. Range reduction and polynomials are
those of Sun's fdlibm (`e_exp.c`, `e_log.c`, `s_log1p.c`, `s_expm1.c`, `s_tanh.c`); the
exponential's polynomial is Taylor's to the 13th degree, whose rest on |r| <= ln 2 / 2 is below
5e-18. Errors in units of the last place are at most 1 for exp, log and log1p, 2 for expm1 and
sigmoid, 3 for tanh. NaN, infinities, zeros and subnormal numbers give what NumPy's functions give.

Products may be contracted to fused multiply-adds, nothing is reassociated. What may be added up
in any order says so itself: `multiply_add`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

# 1.5 * 2^52: adding it rounds to a whole number, which is then in the last bits.
MAGIC = 6755399441055744.0
MAGIC_BITS = 0x4338000000000000
LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
LN2 = 6.931471805599453094e-01
TINY = 5.551115123125783e-17  # 2^-54
SQRT_HALF_BITS = 0x3FE6A09E00000000


def _bits_of(context: Any, value: Any) -> Any:
    def make(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), make


def _float_of(context: Any, value: Any) -> Any:
    def make(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), make


def _rounding(name: str) -> Callable[[Any, Any], Any]:
    """One of LLVM's functions of a float, an instruction on its own."""

    def typing(context: Any, value: Any) -> Any:
        if not isinstance(value, types.Float):
            return None

        def make(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            kind = arguments[0].type
            return builder.call(builder.module.declare_intrinsic(name, [kind]), arguments)

        return value(value), make

    return typing


def _multiply_add(context: Any, total: Any, left: Any, right: Any) -> Any:
    """total + left * right, of which many may be added up in any order."""
    if not isinstance(total, types.Float) or not total == left == right:
        return None

    def make(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        product = builder.fmul(arguments[1], arguments[2], flags=("contract",))
        return builder.fadd(arguments[0], product, flags=("reassoc", "contract"))

    return total(total, left, right), make


def _wrapped(operation: str) -> Callable[[Any, Any, Any], Any]:
    """An operation on int64 modulo 2^64; numba's own takes it that nothing overflows."""

    def typing(context: Any, left: Any, right: Any) -> Any:
        if not left == right == types.int64:
            return None

        def make(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            return getattr(builder, operation)(*arguments)

        return types.int64(left, right), make

    return typing


wrapped_add: Any = intrinsic(_wrapped("add"))
wrapped_subtract: Any = intrinsic(_wrapped("sub"))
wrapped_multiply: Any = intrinsic(_wrapped("mul"))
_bits: Any = intrinsic(_bits_of)
_float: Any = intrinsic(_float_of)
multiply_add: Any = intrinsic(_multiply_add)
floor: Any = intrinsic(_rounding("llvm.floor"))
ceil: Any = intrinsic(_rounding("llvm.ceil"))
trunc: Any = intrinsic(_rounding("llvm.trunc"))
rint: Any = intrinsic(_rounding("llvm.rint"))
sqrt: Any = intrinsic(_rounding("llvm.sqrt"))


def _inlined(function: Callable[..., Any]) -> Any:
    """Compiled into each of its callers, whatever its size: a call would end vectorisation."""
    return njit(forceinline=True, fastmath={"contract"}, error_model="numpy")(function)


def _polynomial(r: Any) -> Any:
    """(exp(r) - 1 - r) / r^2."""
    p = 1.6059043836821613e-10
    p = p * r + 2.08767569878681e-09
    p = p * r + 2.505210838544172e-08
    p = p * r + 2.7557319223985888e-07
    p = p * r + 2.7557319223985893e-06
    p = p * r + 2.48015873015873e-05
    p = p * r + 0.0001984126984126984
    p = p * r + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    return p * r + 0.5


polynomial = _inlined(_polynomial)


def _exp(x: Any) -> Any:
    """2^k (1 + r + r^2 p(r)) with x = k ln 2 + r; in two factors, for the greatest and least."""
    x = -746.0 if x < -746.0 else x
    x = 710.0 if x > 710.0 else x
    shifted = x * LOG2_E + MAGIC
    n = shifted - MAGIC
    k = _bits(shifted) - MAGIC_BITS
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = 1.0 + (r + r * r * polynomial(r))
    half = k >> 1
    return p * _float((half + 1023) << 52) * _float((k - half + 1023) << 52)


exp = _inlined(_exp)


def _log_of(f: Any, k: Any, c: Any) -> Any:
    """log(1 + f) + k ln 2 + c, for 1 + f from sqrt(1/2) to sqrt(2)."""
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = 2.222219843214978396e-01 + w * 1.531383769920937332e-01
    even = 1.818357216161805012e-01 + w * 1.479819860511658591e-01
    odd = w * (3.999999999940941908e-01 + w * odd)
    even = z * (6.666666666666735130e-01 + w * (2.857142874366239149e-01 + w * even))
    half = 0.5 * f * f
    return s * (half + (odd + even)) + (k * LN2_LOW + c) - half + f + k * LN2_HIGH


log_of = _inlined(_log_of)


def _log(x: Any) -> Any:
    small = x < 2.2250738585072014e-308
    scaled = x * 18014398509481984.0 if small else x
    bits = _bits(scaled)
    k = (bits - SQRT_HALF_BITS) >> 52
    f = _float(bits - (k << 52)) - 1.0
    exponent = _float(k + MAGIC_BITS) - MAGIC
    exponent = exponent - 54.0 if small else exponent
    made = log_of(f, exponent, 0.0)
    made = x if x == math.inf else made
    made = -math.inf if x == 0.0 else made
    return made if x >= 0.0 else math.nan


log = _inlined(_log)


def _log1p(x: Any) -> Any:
    """log(u) + (1 + x - u) / u with u = 1 + x as it is rounded; log_of(x) near 0."""
    u = 1.0 + x
    bits = _bits(u)
    k = (bits - SQRT_HALF_BITS) >> 52
    f = _float(bits - (k << 52)) - 1.0
    lost = (1.0 - (u - x) if k >= 2 else x - (u - 1.0)) / u
    exponent = _float(k + MAGIC_BITS) - MAGIC
    near = (x > -0.29) & (x < 0.41)
    f = x if near else f
    exponent = 0.0 if near else exponent
    made = log_of(f, exponent, 0.0 if near else lost)
    made = x if abs(x) < TINY else made
    made = x if x == math.inf else made
    made = -math.inf if x == -1.0 else made
    return made if x >= -1.0 else math.nan


log1p = _inlined(_log1p)


def _expm1(x: Any) -> Any:
    """2^k (r + r^2 p(r)) + (2^k - 1) with x = k ln 2 + r; at half the size, for the greatest."""
    given = x
    x = -60.0 if x < -60.0 else x
    x = 710.0 if x > 710.0 else x
    shifted = x * LOG2_E + MAGIC
    n = shifted - MAGIC
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    scale = _float((_bits(shifted) - MAGIC_BITS + 1022) << 52)
    made = 2.0 * (scale * (r + r * r * polynomial(r)) + (scale - 0.5))
    return given if abs(given) < TINY else made


expm1 = _inlined(_expm1)


def _tanh(x: Any) -> Any:
    size = abs(x)
    far = size > 0.2554
    t = expm1(2.0 * size if far else -2.0 * size)
    near = t / (t + 2.0)
    made = 1.0 - 2.0 / (t + 2.0) if size > 0.5493 else (near if far else -near)
    made = -made if x < 0.0 else made
    return x if size < TINY else made


tanh = _inlined(_tanh)


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + exp(-x))


sigmoid = _inlined(_sigmoid)


def _logaddexp(a: Any, b: Any) -> Any:
    """As NumPy's: the greater one + log1p(exp(-difference)); equal infinities have none."""
    apart = a - b
    greater = a if apart > 0.0 else b
    made = greater + log1p(exp(-abs(apart)))
    made = a + LN2 if a == b else made
    return made if apart == apart or a == b else a + b


logaddexp = _inlined(_logaddexp)


def _floor_divide(a: Any, b: Any) -> Any:
    """As NumPy's: towards -infinity, 0 where b is 0; the least number by -1 stays."""
    safe = np.int64(1) if (b == 0) | (b == -1) else b
    quotient = a // safe
    quotient = np.int64(0) if b == 0 else quotient
    return wrapped_subtract(np.int64(0), a) if b == -1 else quotient


floor_divide = _inlined(_floor_divide)


def _remainder(a: Any, b: Any) -> Any:
    """As NumPy's: of b's sign, 0 where b is 0."""
    safe = np.int64(1) if (b == 0) | (b == -1) else b
    return np.int64(0) if (b == 0) | (b == -1) else a - (a // safe) * safe


remainder = _inlined(_remainder)

# What the text of a compiled loop may name.
NAMES: dict[str, Any] = {
    "np": np,
    "single_zero": np.float32(0),
    "multiply_add": multiply_add,
    "wrapped_add": wrapped_add,
    "wrapped_subtract": wrapped_subtract,
    "wrapped_multiply": wrapped_multiply,
    "floor": floor,
    "ceil": ceil,
    "trunc": trunc,
    "rint": rint,
    "sqrt": sqrt,
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "logaddexp": logaddexp,
    "floor_divide": floor_divide,
    "remainder": remainder,
}
