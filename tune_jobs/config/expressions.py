"""A small expression language for rules: arithmetic, comparisons, `a if b else c` and a few functions; no `eval`.

Python's own parser reads the text. Only the node types below are accepted; everything else is refused by name.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from tune_jobs.config.space import Value
from tuning_common.errors import RequestError
from tuning_common.strict import nearest

_MAX_CHARACTERS = 500
_MAX_EXPONENT = 64  # 9 ** 9 ** 9 would take hours
_MAX_DEPTH = 40

_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
    }
)
_ORDER: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = MappingProxyType(
    {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
)
_COMPARISONS: tuple[type[ast.cmpop], ...] = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, *_ORDER)
_FUNCTIONS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "sqrt": math.sqrt,
        "log2": math.log2,
        "min": min,
        "max": max,
        "round": round,
        "ceil": math.ceil,
        "floor": math.floor,
        "abs": abs,
    }
)


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A checked expression.

    Attributes:
        text: The source text.
        names: Fields that it reads.
    """

    text: str
    names: frozenset[str]

    def value(self, fields: Mapping[str, Value]) -> Value:
        """Computes the expression.

        Args:
            fields: Values by field; must include `names`.

        Raises:
            RequestError: When the operations do not accept the values, for example text times a number.

        >>> parse("8 if encoder_max_len > 512 else 16", ["encoder_max_len"]).value({"encoder_max_len": 1024})
        8
        """
        try:
            return _value(ast.parse(self.text, mode="eval").body, fields)
        except (ArithmeticError, ValueError, TypeError) as error:
            used = ", ".join(f"{name} = {fields.get(name)!r}" for name in sorted(self.names))
            raise RequestError(f"{self.text!r} cannot be computed with {used or 'no fields'}: {error}") from None


def parse(text: str, fields: Sequence[str], unknown: Callable[[str], str] | None = None) -> Expression:
    """Parses and checks an expression without computing it.

    Args:
        text: The expression.
        fields: Names that it may read.
        unknown: Returns the problem with any other name.

    Raises:
        RequestError: When it is not an expression of this language; the message lists what is allowed.

    >>> sorted(parse("learning_rate * sqrt(batch_size / 16)", ["learning_rate", "batch_size"]).names)
    ['batch_size', 'learning_rate']
    """
    if len(text) > _MAX_CHARACTERS:
        raise RequestError(f"an expression may have {_MAX_CHARACTERS} characters, but has {len(text)}")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "too deeply nested"
        raise RequestError(f"{text!r} is no expression: {reason}") from None
    names: set[str] = set()
    _check(body, names, 0)
    for name in sorted(names - set(fields)):
        problem = unknown(name) if unknown else f"no field is called {name!r}{nearest(name, fields)}"
        raise RequestError(f"{problem} (write text in quotes: \"'{name}'\")")
    return Expression(text=text.strip(), names=frozenset(names))


def _check(node: ast.expr, names: set[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise RequestError("the expression is too deeply nested")
    if isinstance(node, ast.Name):
        names.add(node.id)
        return
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS or node.keywords:
            raise RequestError(f"{ast.unparse(node)!r}: the only functions are {', '.join(_FUNCTIONS)}")
        children: list[ast.expr] = list(node.args)
    else:
        _check_kind(node)
        children = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    for child in children:
        _check(child, names, depth + 1)


def _check_kind(node: ast.expr) -> None:
    allowed = (
        (isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (bool, int, float, str))))
        or (isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)))
        or (isinstance(node, ast.Compare) and all(isinstance(op, _COMPARISONS) for op in node.ops))
        or isinstance(node, (ast.BoolOp, ast.IfExp, ast.Tuple, ast.List))
    )
    if not allowed:
        raise RequestError(
            f"{ast.unparse(node)!r} is not allowed; an expression has numbers, text, fields, + - * / // % **, "
            f"comparisons, in, and, or, not, `a if b else c` and {', '.join(_FUNCTIONS)}"
        )


def _value(node: ast.expr, fields: Mapping[str, Value]) -> Value:
    if isinstance(node, ast.Constant):
        return cast("Value", node.value)
    if isinstance(node, ast.Name):
        return fields[node.id]
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_value(item, fields) for item in node.elts)
    if isinstance(node, ast.IfExp):
        return _value(node.body if _value(node.test, fields) else node.orelse, fields)
    if isinstance(node, ast.BoolOp):
        stop_at = isinstance(node.op, ast.Or)
        return stop_at if any(bool(_value(item, fields)) is stop_at for item in node.values) else not stop_at
    if isinstance(node, ast.Compare):
        return _compare(node, fields)
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, fields)
        return not inner if isinstance(node.op, ast.Not) else -_number(inner)
    if isinstance(node, ast.BinOp):
        left, right = _number(_value(node.left, fields)), _number(_value(node.right, fields))
        if isinstance(node.op, ast.Pow) and abs(right) > _MAX_EXPONENT:
            raise ValueError(f"the exponent {right:g} is above {_MAX_EXPONENT}")
        return _real(_ARITHMETIC[type(node.op)](left, right))
    assert isinstance(node, ast.Call), ast.dump(node)
    assert isinstance(node.func, ast.Name), ast.dump(node)
    return _real(_FUNCTIONS[node.func.id](*(_number(_value(item, fields)) for item in node.args)))


def _compare(node: ast.Compare, fields: Mapping[str, Value]) -> bool:
    left = _value(node.left, fields)
    for op, item in zip(node.ops, node.comparators, strict=True):
        right = _value(item, fields)
        if isinstance(op, (ast.Eq, ast.NotEq)):
            holds = (left == right) is isinstance(op, ast.Eq)
        elif isinstance(op, (ast.In, ast.NotIn)):
            if not isinstance(right, tuple):
                raise TypeError(f"`in` needs a list such as ('t5', 'mt5'), not {right!r}")
            holds = (left in right) is isinstance(op, ast.In)
        else:
            holds = _ORDER[type(op)](_number(left), _number(right))
        if not holds:
            return False
        left = right
    return True


def _number(value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def _real(value: object) -> Value:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"the result {value!r} is no finite number")
    return value
