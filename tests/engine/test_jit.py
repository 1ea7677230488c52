"""Folds compiled just in time against NumPy's kernels and NumPy itself."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import scalops as so
from scalops import just_in_time as option
from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import TraceError
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.engine.blocks import Block
from scalops.engine.kernels.folds import FoldSet
from scalops.engine.kernels.jit.elementwise import Refused
from scalops.engine.kernels.jit.source import written
from scalops.engine.kernels.kernel import Kernel
from scalops.engine.physical_compiled import CompileWork
from scalops.optimizer.just_in_time import choose
from tests.quick import quick, repeated

pytest.importorskip("numba")
Array = np.ndarray[Any, np.dtype[Any]]

COLUMNS = {
    "a": ArrayType("float64"), "b": ArrayType("float64"), "f": ArrayType("float32"),
    "g": ArrayType("float32"), "i": ArrayType("int64"), "j": ArrayType("int64"),
    "k": ArrayType("int32"), "l": ArrayType("int32"), "p": ArrayType("bool"),
    "q": ArrayType("bool"), "x": ArrayType("float64", (5,)), "z": ArrayType("float64", (3,)),
    "u": ArrayType("float32", (3,)), "n": ArrayType("int64", (2,)),
}  # fmt: skip
_SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.5, -3.5]


def col(name: str) -> ex.Column:
    return ex.Column(name, COLUMNS[name])


def call(name: str, *arguments: Any, **parameters: Any) -> ex.Call:
    given_ = [a if isinstance(a, ex.Expression) else ex.constant(a) for a in arguments]
    return ex.call(function(name), *given_, **parameters)


def records(rows: int, seed: int = 1, special: bool = True) -> dict[str, Array]:
    rng, made = np.random.default_rng(seed), {}
    for name, kind in COLUMNS.items():
        shape = (rows, *kind.shape)
        if kind.name == "bool":
            made[name] = rng.random(shape) < 0.5
            continue
        if kind.numpy.kind == "i":
            values: Array = rng.integers(-20, 20, shape)
            limits: Any = np.iinfo(kind.name)
            edges: Any = [limits.min, limits.max, 0, -1]
        else:
            values = rng.standard_normal(shape) * np.exp(rng.uniform(-3, 3, shape))
            edges = _SPECIAL
        if special and not kind.shape:
            at = rng.random(shape) < 0.15
            values[at] = rng.choice(edges, at.sum())
        made[name] = values.astype(kind.numpy)
    return made


def by_numpy(folds: Sequence[Fold], block: Block, slots: Sequence[Any] = ()) -> list[Any]:
    """The partials of NumPy's kernels."""
    own = FoldSet(folds)
    kernel = Kernel(own.arguments, block.rows, transient=True)
    frame = kernel.frame()
    kernel.prepare(frame, slots, 1)
    leaf = own.blank()
    own.extend(leaf, kernel.run(frame, block), block.rows)
    return leaf


def compiled(folds: Sequence[Fold]) -> Any:
    from scalops.engine.kernels.jit.folds import CompiledFolds

    return CompiledFolds(folds, [a for f in folds for a in f.arguments])


# Functions.


def _ulp(got: Array, exact: Any, rounded: Array) -> float:
    """The greatest error in units of the last place, where results are finite."""
    at = np.isfinite(rounded) & np.isfinite(got)
    apart = np.abs(got[at].astype(np.longdouble) - exact[at])
    return float(np.max(apart / np.spacing(np.abs(rounded[at]))))


def test_functions_are_as_exact_as_stated_and_right_at_the_edges() -> None:
    from numba import njit

    from scalops.engine.kernels.jit import functions

    bounds = {"exp": 1.0, "log": 1.0, "log1p": 1.0, "expm1": 2.0, "tanh": 3.0, "sigmoid": 2.0}
    names = list(bounds)
    lines = [f"        o[{n}, i] = {name}(x[i])" for n, name in enumerate(names)]
    text = "\n".join(["def every(x, o):", "    for i in range(len(x)):", *lines])
    space = dict(functions.NAMES)
    exec(text, space)
    rng = np.random.default_rng(0)
    edges = [
        *_SPECIAL,
        5e-324,
        -5e-324,
        2.3e-308,
        1.7e308,
        -1.7e308,
        709.78,
        709.79,
        -708.5,
        -745.2,
    ]
    x = np.concatenate([
        rng.uniform(-745, 710, 40_000), rng.uniform(-2, 2, 60_000), rng.uniform(0, 9, 20_000),
        rng.standard_normal(20_000) * np.exp(rng.uniform(-300, 300, 20_000)), edges,
    ])  # fmt: skip
    got = np.empty((len(names), len(x)))
    njit(error_model="numpy")(space["every"])(x, got)
    wide = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        for n, name in enumerate(names):
            if name == "sigmoid":
                exact: Any = 1 / (1 + np.exp(-wide))
                far = x < -708
                exact[far], got[n, far] = 0, np.where(got[n, far] < 1e-300, 0, np.nan)
            else:
                exact = getattr(np, name)(wide)
            rounded = exact.astype(np.float64)
            assert _ulp(got[n], exact, rounded) <= bounds[name], name
            special = ~(np.isfinite(rounded) & np.isfinite(got[n]))
            np.testing.assert_array_equal(got[n][special], rounded[special], name)


# Elementwise steps.


def assert_same_elements(
    roots: Sequence[ex.Expression], data: Mapping[str, Array], exact: bool = True
) -> None:
    """Each record by itself gives what NumPy's step gives it."""
    folds = [
        Fold(f"r{i}", "bitwise_or" if e.type.name == "bool" else "add", (e,))
        for i, e in enumerate(roots)
    ]
    own, rows = compiled(folds), len(data["a"])
    kernel = Kernel(roots, rows)
    frame = kernel.frame()
    kernel.prepare(frame, (), 1)
    with np.errstate(all="ignore"):
        expected = kernel.run(frame, Block(rows, dict(data)))
    found = [
        own.partials(0, Block(1, {n: v[r : r + 1] for n, v in data.items()}), (), 1)
        for r in range(rows)
    ]
    for i, root in enumerate(roots):
        got, want = np.array([f[i] for f in found]), expected[i][0].astype(root.type.numpy)
        assert got.dtype == want.dtype, root
        if exact:
            np.testing.assert_array_equal(got, want, str(root.digest))
        else:
            tolerance = 1e-4 if root.type.name == "float32" else 1e-9
            np.testing.assert_allclose(got, want, tolerance, 1e-30)


def test_arithmetic_has_numpys_bits() -> None:
    a, b, f, g, i, j, k, l, p, q = (col(n) for n in "abfgijklpq")  # noqa: E741
    roots = [
        call("floor_divide", i, j), call("remainder", i, j), call("floor_divide", k, l),
        call("remainder", k, l), call("multiply", i, j), call("multiply", k, l),
        call("add", k, i), call("subtract", k, p), call("absolute", k), call("negative", i),
        call("sign", l), call("power", i, 3), call("power", a, 2), call("power", f, 0.5),
        call("add", p, q), call("multiply", p, q), call("invert", i), call("invert", p),
        call("bitwise_xor", k, l), call("logical_and", a, i), call("less", f, i),
        call("sign", call("subtract", j, k)), call("sign", call("negative", i)),
        call("divide", i, j), call("add", f, 0.1), call("multiply", f, a), call("sign", a),
        call("maximum", a, b), call("minimum", f, g), call("fmax", a, b), call("sqrt", a),
        call("floor", a), call("rint", f), call("where", p, k, i), call("where", a, f, 2),
        call("cast", call("multiply", a, 4.0), dtype="float32"), call("cast", i, dtype="int32"),
        call("cast", a, dtype="bool"), call("isfinite", a), call("reciprocal", f),
        call("subtract", call("multiply", a, a), call("multiply", b, b)),
    ]  # fmt: skip
    assert_same_elements(roots, records(60))


_BINARY = [
    "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "less", "greater_equal",
    "equal", "not_equal", "minimum", "maximum", "fmin", "fmax", "logical_or", "logical_xor",
    "bitwise_and", "bitwise_or", "logaddexp",
]  # fmt: skip
_UNARY = [
    "negative", "absolute", "sign", "square", "reciprocal", "sqrt", "floor", "ceil", "trunc",
    "rint", "isnan", "isinf", "logical_not", "invert", "exp", "expm1", "log", "log1p", "tanh",
    "sigmoid",
]  # fmt: skip
_INEXACT = {"exp", "expm1", "log", "log1p", "tanh", "sigmoid", "logaddexp", "power"}


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> ex.Expression:
    """A function of a record's numbers, any types."""
    if depth == 0 or (draw(st.booleans()) and depth < 3):
        return col(draw(st.sampled_from("abfgijklpq")))
    deeper = expressions(depth - 1)
    kind = draw(st.sampled_from(["binary", "binary", "unary", "where", "cast", "constant"]))
    try:
        if kind == "binary":
            return call(draw(st.sampled_from(_BINARY)), draw(deeper), draw(deeper))
        if kind == "unary":
            return call(draw(st.sampled_from(_UNARY)), draw(deeper))
        if kind == "where":
            return call("where", draw(deeper), draw(deeper), draw(deeper))
        if kind == "constant":
            return call("multiply", draw(deeper), draw(st.sampled_from([2, -3, 0.5, -1.25])))
        wanted = draw(st.sampled_from(["float64", "float32", "int64", "int32", "bool"]))
        return call("cast", draw(deeper), dtype=wanted)
    except TraceError:
        return col("a")


def _inexact(root: ex.Expression) -> bool:
    """Whether the last bits of some step may differ, and with them what is decided by it."""
    return any(isinstance(n, ex.Call) and n.function.name in _INEXACT for n in ex.within([root]))


@repeated(3)
@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(st.lists(expressions(), min_size=12, max_size=12), st.integers(0, 1000))
def test_random_arithmetic_has_numpys_bits(run: int, roots: list[ex.Expression], seed: int) -> None:
    kept = []
    for root in roots:
        try:
            written(
                [Fold("r", "bitwise_or" if root.type.name == "bool" else "add", (root,))], [root]
            )
        except Refused:
            continue
        if not _inexact(root):
            kept.append(root)
    assume(kept)
    assert_same_elements(kept, records(80, seed))


# Folds.


def _folds() -> list[Fold]:
    a, f, i, k, p, x, z, u, n = (col(c) for c in "afikpxzun")
    w, matrix = np.linspace(-1, 1, 5), np.linspace(-1, 1, 35).reshape(7, 5)
    scores = call("matmul", matrix, x)
    three = call("matmul", call("matmul", x, matrix.T[:, :3]), np.arange(9.0).reshape(3, 3))
    index = call("remainder", i, 3)
    s = call("sigmoid", call("matmul", x, w))
    centred = call("subtract", z, np.array([0.5, -0.5, 1.0]))
    made = [
        ("count", (a,)), ("mean", (f,)), ("sum", (k,)), ("minimum", (a,)), ("maximum", (i,)),
        ("any", (p,)), ("add", (k,)), ("bitwise_and", (i,)), ("sum", (x,)), ("maximum", (u,)),
        ("mean", (n,)), ("mean_scaled", (s, centred)), ("sum_scaled", (f, u)),
        ("sum_outer", (call("softmax", scores), x)), ("sum_outer", (three, centred)),
        ("sum", (call("logsumexp", scores),)), ("sum", (call("take", np.arange(3.0), index),)),
        ("sum", (call("subtract", call("one_hot", index, size=3), z),)),
        ("sum", (call("take", z, index),)), ("sum", (call("index", z, key=(1,)),)),
        ("sum", (call("norm", x),)), ("maximum", (call("max", scores),)),
        ("sum", (call("stack", a, s, axis=0),)),
    ]  # fmt: skip
    return [Fold(f"r{i}", kind, arguments) for i, (kind, arguments) in enumerate(made)]


@pytest.mark.parametrize("step", quick([4, 1], 1))
def test_folds_give_the_partials_of_numpys_kernels(step: int) -> None:
    folds = _folds()[::step]
    own = compiled(folds)
    for rows in (1, 37, 300):
        block = Block(rows, records(rows, special=False))
        before = {n: v.copy() for n, v in block.columns.items()}
        for name in block.columns:  # a user's arrays may be read-only, and lie as they like
            block.columns[name].setflags(write=False)
        block.columns["x"] = np.asfortranarray(block.columns["x"])
        finish = FoldSet(folds).finish
        found = finish(own.partials(0, block, (), 1))
        for fold, got, want in zip(folds, found, finish(by_numpy(folds, block)), strict=True):
            assert (type(got), np.shape(got)) == (type(want), np.shape(want)), fold.kind
            tolerance = 1e-4 if fold.type.name == "float32" else 1e-11
            np.testing.assert_allclose(got, want, tolerance, tolerance, err_msg=fold.kind)
        for name, values in before.items():
            np.testing.assert_array_equal(block.columns[name], values)


def test_nan_and_infinities_reach_the_folds() -> None:
    a = col("a")
    folds = [Fold(k, k, (a,)) for k in ("sum", "minimum", "maximum")]
    own = compiled(folds)
    for values in ([1.0, np.nan, 2.0], [np.inf, -np.inf], [np.inf, 1.0], [-np.inf]):
        block = Block(len(values), {"a": np.array(values)})
        with np.errstate(invalid="ignore"):
            expected = by_numpy(folds, block)
        np.testing.assert_array_equal(own.partials(0, block, (), 1), expected)


def test_what_has_no_compiled_form_is_named() -> None:
    a, i, x = col("a"), col("i"), col("x")
    for root, reason in [
        (call("sin", a), "sin of float64"),
        (call("power", a, 2.5), "a power whose exponent"),
        (call("cast", a, dtype="int32"), "a cast of float64 to int32"),
        (call("outer", x, x), r"outer, a float64\[5,5\]"),
        (call("sort", x), "sort"),
        (call("matmul", np.ones((40, 5)), x), "a product with 40 vectors"),
        (call("floor_divide", a, a), "floor_divide of float64"),
    ]:
        fold = Fold("s", "sum", (root,))
        with pytest.raises(Refused, match=reason):
            written([fold], [root])
    with pytest.raises(Refused, match="var"):
        written([Fold("v", "var", (i,), parameters=(("ddof", 0),))], [i])


# Programs.


def _logistic(rows: int = 3000) -> tuple[Any, Any, Array, Array]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 20))
    y = np.where(x @ rng.standard_normal(20) > 0, 1.0, -1.0)
    table = so.table({"x": x, "y": y})

    class Model(so.Environment):
        w: np.ndarray
        loss: float

    @so.loop(Model(w=np.zeros(20), loss=0.0), range(4))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        gradient = table.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).sum()
        env.loss = table.map(lambda r: np.log1p(np.exp(-margin(r)))).sum()
        env.w -= 0.1 / rows * gradient
        return env

    return table, model, x, y


def test_a_program_gives_the_same_to_rounding_and_on_any_number_of_threads_the_same_bits() -> None:
    _, model, x, y = _logistic(40_000)
    found = []
    for options in ({"threads": 1}, {"threads": 3}, {"threads": 2, "memory": "400KB"}):
        with so.session(jit=True, **options):
            env = model.run().env
            found.append((env.w.tobytes(), float(env.loss)))
    assert len(set(found)) == 1
    w = np.zeros(20)
    for _ in range(4):
        margin = y * (x @ w)
        loss = np.log1p(np.exp(-margin)).sum()
        w -= 0.1 / len(y) * (x.T @ (-y / (1 + np.exp(margin))))
    np.testing.assert_allclose(np.frombuffer(found[0][0]), w, 1e-12)
    np.testing.assert_allclose(found[0][1], loss, 1e-12)


def test_explain_and_fingerprint_tell_which_kernels_run() -> None:
    _, model, _, _ = _logistic()
    shown = {}
    for jit in (True, False, "auto"):
        with so.session(jit=jit):
            shown[jit] = model.explain("physical")
    assert "compiled just in time (numba), as asked for" in shown[True]
    assert "compiled just" not in shown[False]
    assert shown["auto"] == shown[False]  # a few records
    prints = {j: s.split("fingerprint")[1].split()[0] for j, s in shown.items()}
    assert prints[True] != prints[False] == prints["auto"]


def test_explain_names_the_step_without_a_compiled_form() -> None:
    table, *_ = _logistic()
    with so.session(jit=True):
        shown = table.map(lambda r: np.sin(r.y)).sum().explain("physical")
    assert "NumPy's kernels: no compiled form of sin of float64" in shown


def test_nulls_and_indices_without_a_place_are_numpys() -> None:
    t = so.table({"a": [1.0, None, 3.0] * 50, "i": [0, 1, 2] * 50})
    total = t.map(lambda r: np.exp(r.a) * 2).sum()
    with so.session(jit=True):
        got = total.collect()
    with so.session(jit=False):
        assert total.collect() == got
    u = so.table({"x": np.ones((9, 2)), "i": np.arange(9)})
    wrong = u.map(lambda r: r.x[r.i]).sum()
    errors = []
    for jit in (True, False):
        with so.session(jit=jit), pytest.raises(so.ScalopsError) as caught:
            wrong.collect()
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


# Choice and option.


def _work(**given_: Any) -> CompileWork:
    made: dict[str, Any] = {
        "stage": 1, "rows": 1e6, "blocks": 488.0, "passes": 1000.0, "known": True, "calls": 12,
        "elements": 7.0, "heavy": 3.0, "multiplied": 200.0, "lines": 60, "refused": None,
    }  # fmt: skip
    return CompileWork(**{**made, **given_})


def test_columns_of_narrow_integers_are_compiled_where_they_meet_wider_ones() -> None:
    rng = np.random.default_rng(4)
    kinds = (np.int8, np.int16, np.uint8, np.uint16, np.uint32)
    given: dict[str, Any] = {"x": rng.normal(size=3000)}
    for kind in kinds:
        limits = np.iinfo(kind)
        given[np.dtype(kind).name] = rng.integers(limits.min, limits.max, 3000, kind, endpoint=True)
    table = so.table(given)

    def total(r: Any) -> Any:
        wide = r.int8 * r.x - r.uint32 / 3.0 + so.where(r.uint8, r.x, r.int16 * 2.0)
        return wide + so.cast(r.uint16, so.int64) * r.x

    value = table.sum(total)
    with so.session(jit=True):
        assert "compiled just in time" in value.explain("physical")
        found = value.collect()
    with np.errstate(all="ignore"):
        own = {n: c.astype(float) for n, c in given.items()}
        expected = own["int8"] * own["x"] - own["uint32"] / 3
        expected += (
            np.where(own["uint8"] != 0, own["x"], own["int16"] * 2) + own["uint16"] * own["x"]
        )
    np.testing.assert_allclose(found, expected.sum(), rtol=1e-12)
    with so.session(jit=True):
        assert "no compiled form" in table.sum(lambda r: r.int8 + r.int8).explain("physical")


def test_folds_are_compiled_where_that_is_worth_it() -> None:
    assert choose([_work()]).stages == (1,)
    assert choose([_work(passes=2.0)]) == choose([])
    assert choose([_work(rows=1000.0, blocks=1.0)]) == choose([])
    assert choose([_work(passes=2.0)], always=True).stages == (1,)
    assert "(assumed)" in choose([_work(known=False)]).notes[1]


def test_a_fold_without_a_compiled_form_is_spoken_of_where_it_would_be_worth_it() -> None:
    assert choose([_work(refused="sin")]).notes == {1: "NumPy's kernels: no compiled form of sin"}
    assert choose([_work(refused="sin", passes=1.0)]).notes == {}


def test_without_numba_true_is_an_error_and_auto_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(option, "numba_missing", lambda: "no module named numba")
    _, model, _, _ = _logistic()
    with so.session(jit=True), pytest.raises(so.ConfigError, match=r'pip install "scalops\[jit\]"'):
        model.run()
    monkeypatch.setattr(option, "LEAST_RECORDS", 0.0)
    monkeypatch.setattr(option, "choose", lambda works, always: choose(works, True))
    with so.session(jit="auto"):
        assert "NumPy's kernels: numba cannot be imported" in model.explain("physical")
        model.run()


def test_the_option_is_auto_true_or_false() -> None:
    for written_, value in [("auto", "auto"), (True, True), ("off", False), (False, False)]:
        assert so.session(jit=written_).options.jit == value
    with pytest.raises(so.ConfigError, match="jit is 'maybe'; expected 'auto', true or false"):
        so.session(jit="maybe")


def test_numba_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys, numpy as np, scalops as so;"
        "so.table({'a': np.arange(9.0)}).map(lambda r: r.a * 2).sum().collect();"
        "print('numba' in sys.modules)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert made.stdout.strip() == "False"
