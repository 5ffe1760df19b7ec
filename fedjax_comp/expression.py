"""Makes the objects that flags describe by Python expressions.

`--uplink='chain(top_k(0.01), to_dtype("bfloat16"))'` is what a notebook would write.
The parser allows calls of named factories and literals, and executes nothing but these
factories. Whatever is wrong is reported in one line that says where.
"""

import ast
import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping

MAX_LENGTH = 2000
MAX_DEPTH = 30

RENAMED = {"blocks": "blockwise", "one_sign": "sign_sgd", "sign": "scaled_sign"}
"""Former names of factories: by its letters the nearest would be another factory."""


class ExpressionError(ValueError):
    """One line: the flag, what is wrong, at which column, and the way out."""


def parse(text: str, names: Mapping[str, object], *, flag: str) -> object:
    """Evaluates a call of a public factory given as text.

    Allowed are calls of `names`, `names` as arguments, numbers and negative numbers,
    strings, True, False, None, and tuples, lists and dictionaries of these.

    Args:
      text: the expression, at most `MAX_LENGTH` characters and `MAX_DEPTH` deep.
      names: what may be called or passed, name to object.
      flag: the flag whose value this is, for the message.

    Returns:
      What the call returns.

    Raises:
      ExpressionError: for anything else, an unknown name, arguments that do not fit
        the factory's signature, and arguments that the factory itself refuses.

    Example:
      >>> from fedjax_comp.compress import chain, qsgd, top_k
      >>> names = {"chain": chain, "qsgd": qsgd, "top_k": top_k}
      >>> type(parse("chain(top_k(0.01), qsgd(7))", names, flag="uplink")).__name__
      'Compressor'
      >>> parse("chain(topk(0.01), qsgd(7))", names, flag="uplink")
      Traceback (most recent call last):
      ...
      fedjax_comp.expression.ExpressionError: --uplink: unknown name 'topk' at \
column 7; did you mean 'top_k'?
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"--{flag}: the expression has {len(text)} characters, more than "
            f"{MAX_LENGTH}."
        )
    return _Reader(text, names, flag).read()


def _nearest(name: str, candidates: Iterable[str]) -> str:
    known = list(candidates)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    if RENAMED.get(name) in known:
        matches = [RENAMED[name]]
    return f"; did you mean {matches[0]!r}?" if matches else "."


class _Reader:
    """One text being read: where it starts, what it may name, whom to blame."""

    def __init__(self, text: str, names: Mapping[str, object], flag: str):
        self._names = names
        self._flag = flag
        # An expression's own leading blanks would be an indentation error, and line
        # breaks carry no meaning between its tokens.
        self._text = text.lstrip().replace("\r", " ").replace("\n", " ")
        self._skipped = len(text) - len(text.lstrip())

    def read(self) -> object:
        if not self._text:
            raise self._error("expected a call", 0, f", such as {self._example()}")
        if self._bracket_depth() > MAX_DEPTH:
            raise self._error(f"brackets more than {MAX_DEPTH} deep", 0)
        try:
            body = ast.parse(self._text, mode="eval").body
        except SyntaxError as error:
            raise self._error(
                f"not an expression ({error.msg})", (error.offset or 1) - 1
            ) from None
        except (ValueError, MemoryError, RecursionError):
            raise self._error("not an expression", 0) from None
        if isinstance(body, ast.Name):
            self._lookup(body)
            raise self._error(
                f"{body.id!r} is a name", self._column(body), self._as_call(body.id)
            )
        if not isinstance(body, ast.Call):
            raise self._error(
                "expected a call", self._column(body), f", such as {self._example()}"
            )
        return self._evaluate(body, MAX_DEPTH)

    def _evaluate(self, node: ast.expr, depth: int) -> object:
        if depth == 0:
            raise self._error(f"nested more than {MAX_DEPTH} deep", self._column(node))
        match node:
            case ast.Call():
                return self._call(node, depth)
            case ast.Name():
                return self._lookup(node)
            case ast.Constant(value=value) if value is None or isinstance(
                value, bool | int | float | str
            ):
                if isinstance(value, float) and not math.isfinite(value):
                    raise self._error("a number too large", self._column(node))
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)) if (
                isinstance(value, int | float) and not isinstance(value, bool)
            ):
                return -value
            case ast.Tuple(elts=items):
                return tuple(self._evaluate(item, depth - 1) for item in items)
            case ast.List(elts=items):
                return [self._evaluate(item, depth - 1) for item in items]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {
                    self._key(key, depth): self._evaluate(value, depth - 1)
                    for key, value in zip(keys, values, strict=True)
                    if key is not None
                }
            case ast.Attribute(attr=attr):
                raise self._error(
                    f"a dotted name ending in {attr!r}",
                    self._column(node),
                    _nearest(attr, self._names),
                )
        raise self._error(
            "only calls of known names, literals, tuples, lists and dictionaries are "
            "read; found something else",
            self._column(node),
        )

    def _key(self, node: ast.expr, depth: int) -> object:
        if not isinstance(node, ast.Constant):
            raise self._error(
                "a dictionary's key that is not a literal", self._column(node)
            )
        return self._evaluate(node, depth - 1)

    def _call(self, node: ast.Call, depth: int) -> object:
        if not isinstance(node.func, ast.Name):
            self._evaluate(node.func, depth - 1)
            raise self._error("only a name can be called; a call", self._column(node))
        name = node.func.id
        factory = self._lookup(node.func)
        if not callable(factory):
            raise self._error(f"{name!r} cannot be called", self._column(node))
        args = [self._evaluate(arg, depth - 1) for arg in node.args]
        kwargs: dict[str, object] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._error("'**' is not read", self._column(keyword.value))
            if keyword.arg in kwargs:
                raise self._error(
                    f"argument {keyword.arg!r} a second time", self._column(keyword)
                )
            kwargs[keyword.arg] = self._evaluate(keyword.value, depth - 1)
        self._check_signature(node, name, factory, args, kwargs)
        try:
            return factory(*args, **kwargs)
        except ExpressionError:
            raise
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise self._error(
                f"{name}(...)", self._column(node), f": {error}"
            ) from error

    def _check_signature(
        self,
        node: ast.Call,
        name: str,
        factory: Callable[..., object],
        args: list[object],
        kwargs: dict[str, object],
    ) -> None:
        try:
            signature = inspect.signature(factory)
        except (ValueError, TypeError):
            return  # Some builtins publish none; calling them will tell.
        kinds = {p.kind for p in signature.parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            for keyword in node.keywords:
                if keyword.arg not in signature.parameters:
                    raise self._error(
                        f"{name}() has no argument {keyword.arg!r}",
                        self._column(keyword),
                        _nearest(str(keyword.arg), signature.parameters),
                    )
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise self._error(
                f"{name}(...)",
                self._column(node),
                f": {error}; it is {name}{self._parameters(signature)}",
            ) from error

    @staticmethod
    def _parameters(signature: inspect.Signature) -> str:
        bare = [
            p.replace(annotation=inspect.Parameter.empty)
            for p in signature.parameters.values()
        ]
        return str(inspect.Signature(bare))

    def _lookup(self, node: ast.Name) -> object:
        if node.id not in self._names:
            raise self._error(
                f"unknown name {node.id!r}",
                self._column(node),
                _nearest(node.id, self._names),
            )
        return self._names[node.id]

    def _as_call(self, name: str) -> str:
        return f"; write it as a call: {name}(...)"

    def _example(self) -> str:
        callables = [name for name, value in self._names.items() if callable(value)]
        return f"{callables[0]}(...)" if callables else "name(...)"

    def _bracket_depth(self) -> int:
        """The deepest nesting of brackets, counted before the parser recurses."""
        depth = deepest = 0
        for character in self._text:
            depth += (character in "([{") - (character in ")]}")
            deepest = max(deepest, depth)
        return deepest

    def _column(self, node: ast.expr | ast.keyword) -> int:
        # The parser counts bytes of UTF-8, people count characters.
        return len(self._text.encode()[: node.col_offset].decode(errors="ignore"))

    def _error(self, what: str, column: int, then: str = ".") -> ExpressionError:
        line = f"--{self._flag}: {what} at column {column + self._skipped + 1}{then}"
        return ExpressionError(" ".join(line.split()))
