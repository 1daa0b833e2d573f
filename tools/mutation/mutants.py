"""Small changes to a file's source, each of which a good test should notice.

What is never changed, because it says nothing about what the code computes: docstrings, type hints, decorators,
assertions, the exception behind `raise`, texts, `__all__`, `strict=` of zip, which negative number stands for the size
that is left over. Functions whose arguments commute are not given theirs in another order.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_OPPOSITE_PAIRS = (("min", "max"), ("minimum", "maximum"), ("any", "all"), ("floor", "ceil"), ("argmin", "argmax"))
_OPPOSITES = {name: other for pair in _OPPOSITE_PAIRS for name, other in (pair, pair[::-1])}
_COMMUTING = frozenset(
    "min max minimum maximum zip gcd lcm array_equal allclose isclose logical_and logical_or "
    "isinstance cast TypeVar".split()  # and those that say something about types
)
_DEFAULTS = {"bool": ("False", "True"), "int": ("0", "1"), "float": ("0.0", "1.0"), "str": ('""', '"x"')}
_SEQUENCES = (ast.List, ast.Tuple, ast.ListComp, ast.JoinedStr)


@dataclass(frozen=True)
class Mutant:
    """Bytes `start` to `end` of `path` become `after`.

    statement: the line where the innermost statement begins. is_imported: executed when the module is imported.
    """

    path: str
    line: int
    statement: int
    function: str
    kind: str
    start: int
    end: int
    before: str
    after: str
    is_imported: bool

    @property
    def label(self) -> str:
        def flat(text: str) -> str:
            line = " ".join(text.split())
            return line if len(line) < 90 else f"{line[:87]}..."

        return f"{self.path}:{self.line} {self.function} [{self.kind}] {flat(self.before)}  ->  {flat(self.after)}"

    def applied(self, source: bytes) -> bytes:
        """The changed file."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in its order."""
    found = _Search(path, source)
    found.visit(ast.parse(source))
    unique = {(mutant.start, mutant.end, mutant.after): mutant for mutant in found.mutants}
    return sorted(unique.values(), key=lambda m: (m.start, m.end, m.after))


def sample(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """`size` of them, or all: from each file in proportion to how many it has, in an order of no meaning."""
    generator = random.Random(seed)
    ordered: list[Mutant] = []
    for path in sorted({mutant.path for mutant in mutants}):
        of_file = [mutant for mutant in mutants if mutant.path == path]
        ordered += generator.sample(of_file, len(of_file))
    step = max(1.0, len(ordered) / size)
    first = generator.random() * step
    chosen = [ordered[int(first + index * step)] for index in range(min(size, len(ordered)))]
    generator.shuffle(chosen)  # what was tried when a run is ended early is a fair sample, too
    return chosen


def compiles(mutant: Mutant, source: bytes) -> bool:
    """Whether Python takes the changed file."""
    try:
        compile(mutant.applied(source), mutant.path, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


class _Search(ast.NodeVisitor):
    """Walks a module and notes every change."""

    def __init__(self, path: str, source: bytes) -> None:
        self.mutants: list[Mutant] = []
        self._path, self._source = path, source
        self._line_starts = [0]
        for line in source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))
        self._scopes: list[str] = []
        self._functions: list[ast.FunctionDef] = []
        self._statement = 1

    def visit(self, node: ast.AST) -> None:
        """Visit a node, and know in which statement."""
        around = self._statement
        if isinstance(node, ast.stmt):
            self._statement = node.lineno
        super().visit(node)
        self._statement = around

    # places and texts

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._line_starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._line_starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _note(self, kind: str, at: ast.expr | ast.stmt, after: str, place: tuple[int, int] | None = None) -> None:
        start, end = place or (self._start(at), self._end(at))
        before = self._source[start:end].decode()
        function = ".".join(self._scopes) or "<module>"
        if before != after:
            is_imported = not self._functions
            place_of = (self._path, self._source.count(b"\n", 0, start) + 1, self._statement, function, kind)
            self.mutants.append(Mutant(*place_of, start, end, before, after, is_imported))

    def _note_between(self, kind: str, left: ast.expr, right: ast.expr, operator: str, other: str) -> None:
        """Replace the operator between two operands; parentheses of theirs may lie there, too."""
        start, end = self._end(left), self._start(right)
        between = self._source[start:end].decode()
        place = between.find(operator)
        if place >= 0 and "#" not in between:
            self._note(kind, left, other, (start + place, start + place + len(operator)))

    def _visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    # what is never changed, and scopes

    def visit_Assert(self, node: ast.Assert) -> None:
        """It states what the code before it guarantees."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scopes.append(node.name)
        self._visit_all(node.body)
        self._scopes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scopes.append(node.name)
        self._visit_all([*node.args.defaults, *node.args.kw_defaults])
        self._functions.append(node)
        self._visit_all(node.body)
        self._functions.pop()
        self._scopes.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if ast.unparse(node.annotation) != "TypeAlias":
            self._visit_all([node.value])

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self._note("deleted statement", node, "pass")
        self._visit_all([*node.targets, node.value])

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":
            self.visit(node.value)

    # statements

    def visit_Raise(self, node: ast.Raise) -> None:
        self._note("deleted statement", node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._note("deleted statement", node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._note("deleted statement", node, "pass")
        if type(node.op) in _ARITHMETIC and not isinstance(node.value, _SEQUENCES):
            operator, other = _ARITHMETIC[type(node.op)]
            self._note_between("arithmetic", node.target, node.value, f"{operator}=", f"{other}=")
        self._visit_all([node.target, node.value])

    def visit_Break(self, node: ast.Break) -> None:
        self._note("break, continue", node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._note("break, continue", node, "break")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        function = self._functions[-1]
        hint = ast.unparse(function.returns) if function.returns is not None else ""
        default, other = _DEFAULTS.get(hint, ("None", "None"))
        is_default = isinstance(node.value, ast.Constant) and self._text(node.value) == default
        self._note("returned value", node.value, other if is_default else default)
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    # expressions

    def _negate(self, test: ast.expr) -> None:
        """Comparisons, `and`, `or` and `not` have changes of their own."""
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant | ast.NamedExpr):
            self._note("negated condition", test, f"(not ({self._text(test)}))")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            text, others = _COMPARISONS[type(operator)]
            for other in others:
                self._note_between("comparison", left, right, text, other)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(
            isinstance(each, ast.Constant) and isinstance(each.value, str) for each in (node.left, node.right)
        )
        is_sequence = is_text or isinstance(node.left, _SEQUENCES) or isinstance(node.right, _SEQUENCES)
        if type(node.op) in _ARITHMETIC and not is_sequence:
            self._note_between("arithmetic", node.left, node.right, *_ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        operator, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._note_between("and, or", left, right, operator, other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._note("removed not", node, f"({self._text(node)[3:].lstrip()})")
        elif isinstance(node.op, ast.USub):
            self._note("removed minus", node, f"({self._text(node)[1:].lstrip()})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._note("constant", node, str(not node.value))
        elif isinstance(node.value, int | float):
            self._note("constant", node, repr(node.value + 1))

    def visit_Slice(self, node: ast.Slice) -> None:
        for edge, change in ((node.lower, "+ 1"), (node.upper, "- 1")):
            if edge is not None and not isinstance(edge, ast.Constant):
                self._note("slice edge", edge, f"({self._text(edge)}) {change}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in _OPPOSITES:
            end = self._end(node.func)
            self._note("opposite function", node, _OPPOSITES[name], (end - len(name), end))
        first, second = (*node.args, None, None)[:2]
        is_text = isinstance(first, ast.JoinedStr) or isinstance(second, ast.JoinedStr)
        is_starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
        if first is not None and second is not None and name not in _COMMUTING and not is_text and not is_starred:
            start, end = self._start(first), self._end(second)
            between = self._source[self._end(first) : self._start(second)].decode()
            self._note("swapped arguments", node, f"{self._text(second)}{between}{self._text(first)}", (start, end))
        if name == "reshape":
            self._visit_all([node.func, *node.keywords])
            self._visit_sizes(node.args)
        elif name not in {"cast", "TypeVar"}:
            self.generic_visit(node)

    def _visit_sizes(self, sizes: Sequence[ast.expr]) -> None:
        """Of a reshape, where numpy takes any negative size for the one that is left over."""
        for size in sizes:
            if isinstance(size, ast.UnaryOp) and isinstance(size.op, ast.USub):
                self._note("removed minus", size, f"({self._text(size)[1:].lstrip()})")
            else:
                self.visit(size)


def mutants_in(root: Path, rooms: Sequence[str]) -> Iterator[Mutant]:
    """The mutants of all Python files in these folders or files of the tree."""
    for room in rooms:
        place = root / room
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            yield from mutants_of(str(file.relative_to(root)), file.read_bytes())
