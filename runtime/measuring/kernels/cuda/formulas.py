"""The formulas of the `formulas.py` above compiled for a GPU, with the same rounding as on the processor.

A GPU's compiler joins a product and a sum into one operation that rounds once, and numba-cuda cannot forbid it.
The last bit would then differ from the processor's. So the formulas with floating products are compiled from
their own text, each product made a call of the operation that always rounds by itself. And the floor of a number,
a whole number in Python and on the processor, is made one here, where Numba leaves it a fraction.
"""

import ast
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any

from qctrun.runtime.measuring.kernels import formulas
from qctrun.runtime.measuring.kernels.cuda.compiler import SIMULATED, cuda, int64, on_device


@on_device
def floor(value):  # type: ignore[no-untyped-def]
    """The floor as int64."""
    return int64(math.floor(value))


def _plain_product(one: Any, other: Any) -> Any:
    return one * other


product = on_device(_plain_product) if SIMULATED else cuda.libdevice.dmul_rn
"""Product of two float64, rounded before anything is added to it."""
product32 = on_device(_plain_product) if SIMULATED else cuda.libdevice.fmul_rn
"""The same of two float32."""


class _Floors(ast.NodeTransformer):
    """Writes math.floor(x) as floor(x)."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Name("floor", ast.Load()) if ast.unparse(node) == "math.floor" else node


class _Products(_Floors):
    """And a * b as product(a, b)."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        return _product(node.left, node.right) if isinstance(node.op, ast.Mult) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Mult) or not isinstance(node.target, ast.Name):
            return node
        before = ast.Name(node.target.id, ast.Load())
        return ast.Assign(targets=[node.target], value=_product(before, node.value))


def _product(one: ast.expr, other: ast.expr) -> ast.expr:
    return ast.Call(func=ast.Name("product", ast.Load()), args=[one, other], keywords=[])


def _rewritten(function: Callable[..., Any], changes: ast.NodeTransformer) -> Any:
    text = ast.parse(textwrap.dedent(inspect.getsource(function)))
    tree = ast.fix_missing_locations(changes.visit(text))
    names = {**vars(formulas), "product": product, "floor": floor}
    exec(compile(tree, inspect.getfile(function), "exec"), names)
    return on_device(names[function.__name__])


# Fractions throughout.
fuzzy_step = _rewritten(formulas.fuzzy_step, _Products())
soft_positive = _rewritten(formulas.soft_positive, _Products())
local_tmd = _rewritten(formulas.local_tmd, _Products())
# Whole numbers, or no product of fractions that anything is added to.
hard_step = on_device(formulas.hard_step)
whole = _rewritten(formulas.whole, _Floors())
mean = on_device(formulas.mean)
local_sd = _rewritten(formulas.local_sd, _Floors())
