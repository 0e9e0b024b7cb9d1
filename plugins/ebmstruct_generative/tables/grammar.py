"""The small language of rules: comparisons, arithmetic, ``in``, ``not``, ``and``, ``or``, ``implies``; nothing is executed.

    rule       = either ["implies" rule]
    either     = both {"or" both}
    both       = negation {"and" negation}
    negation   = "not" negation | comparison
    comparison = sum {("<" | "<=" | ">" | ">=" | "==" | "!=") sum} | sum ["not"] "in" list | sum "is" ["not"] "missing"
    sum        = product {("+" | "-") product}
    product    = unary {("*" | "/") unary}
    unary      = "-" unary | number | text | column | "(" rule ")"
    list       = "[" value {"," value} "]"

A column is a word, or anything between backquotes; a text is in single or double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|(?P<word>[^\W\d]\w*)|`(?P<column>[^`]+)`"
    r"|'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<sign><=|>=|==|!=|[-+*/<>()\[\],]))"
)
WORDS = ("and", "or", "not", "in", "is", "missing", "implies")
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
DEEPEST = 50
"""Parentheses within each other."""


class RuleFault(ValueError):
    """A rule that is none; the message says where."""


@dataclass(frozen=True)
class Number:
    """A number as it stands."""

    value: float


@dataclass(frozen=True)
class Text:
    """A text in quotes."""

    value: str


@dataclass(frozen=True)
class Name:
    """A column."""

    value: str


@dataclass(frozen=True)
class Listed:
    """``part in [...]``; negated: ``not in``."""

    part: Node
    values: tuple[Number | Text, ...]
    negated: bool = False


@dataclass(frozen=True)
class Missing:
    """``part is missing``; negated: ``is not missing``."""

    part: Node
    negated: bool = False


@dataclass(frozen=True)
class Operation:
    """sign: an arithmetic or comparison sign, ``and``, ``or``, ``implies``, ``not`` or ``minus`` (of one part)."""

    sign: str
    parts: tuple[Node, ...]


Node = Number | Text | Name | Listed | Missing | Operation


def parsed(rule: str) -> Node:
    """The tree of a rule; RuleFault where it is none."""
    parser = _Parser(rule)
    found = parser.rule()
    if parser.kind != "end":
        raise parser.fault("the rule should end here")
    if not is_condition(found):
        raise RuleFault(f"{rule!r} is a value and not a condition; compare it with something")
    return found


def is_condition(node: Node) -> bool:
    """Whether a part is true or false, and not a value."""
    if isinstance(node, Operation):
        return node.sign in (*COMPARISONS, "and", "or", "not", "implies")
    return isinstance(node, (Listed, Missing))


def columns_of(node: Node) -> list[str]:
    """The columns that a rule names, each once."""
    if isinstance(node, Name):
        return [node.value]
    parts: Sequence[Node] = ()
    if isinstance(node, Operation):
        parts = node.parts
    elif isinstance(node, (Listed, Missing)):
        parts = (node.part,)
    return list(dict.fromkeys(name for part in parts for name in columns_of(part)))


class _Parser:
    """Recursive descent over the tokens of a rule; kind and value are those of the token at hand."""

    def __init__(self, rule: str) -> None:
        self.text, self.place, self.depth = rule, 0, 0
        self.begin, self.kind, self.value = 0, "", ""
        self.advance()

    def advance(self) -> None:
        """Go to the next token."""
        self.begin = self.place
        if not self.text[self.place :].strip():
            self.kind, self.value = "end", ""
            return
        match = _TOKEN.match(self.text, self.place)
        if match is None:
            raise self.fault("this is no sign of the language of rules")
        self.place = match.end()
        self.kind = str(match.lastgroup)
        self.value = match[self.kind]
        if self.kind == "word" and self.value in WORDS:
            self.kind = "sign"

    def fault(self, why: str) -> RuleFault:
        """The sentence for a fault at the token at hand."""
        rest = self.text[self.begin :].strip()
        return RuleFault(f"{self.text!r}, at {rest[:20]!r}: {why}" if rest else f"{self.text!r}, at its end: {why}")

    def takes(self, *signs: str) -> str | None:
        """The sign at hand, where it is one of these, and on to the next token."""
        if self.kind != "sign" or self.value not in signs:
            return None
        found = self.value
        self.advance()
        return found

    def needs(self, sign: str) -> None:
        """Go over a sign that must be here."""
        if self.takes(sign) is None:
            raise self.fault(f"{sign!r} is needed here")

    def rule(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.fault(f"more than {DEEPEST} parentheses within each other")
        left = self.joined("or")
        if self.takes("implies"):
            left = Operation("implies", (self.condition(left), self.condition(self.rule())))
        self.depth -= 1
        return left

    def joined(self, sign: str) -> Node:
        parts = [self.joined("and") if sign == "or" else self.negation()]
        while self.takes(sign):
            parts.append(self.joined("and") if sign == "or" else self.negation())
        return parts[0] if len(parts) == 1 else Operation(sign, tuple(self.condition(p) for p in parts))

    def condition(self, node: Node) -> Node:
        if not is_condition(node):
            raise self.fault("a condition is needed on both sides of and, or, implies")
        return node

    def negation(self) -> Node:
        negations = 0
        while self.takes("not"):
            negations += 1
        found = self.comparison()
        if negations:
            found = self.condition(found)
        return Operation("not", (found,)) if negations % 2 else found

    def comparison(self) -> Node:
        left = self.sum()
        negated = self.takes("not") is not None
        if self.takes("in"):
            return Listed(self.value_of(left), self.list(), negated)
        if negated:
            raise self.fault("'in' is needed behind 'not'")
        if self.takes("is"):
            turned = self.takes("not") is not None
            self.needs("missing")
            return Missing(self.value_of(left), turned)
        parts = []
        while sign := self.takes(*COMPARISONS):
            right = self.sum()
            parts.append(Operation(sign, (self.value_of(left), self.value_of(right))))
            left = right
        if not parts:
            return left
        return parts[0] if len(parts) == 1 else Operation("and", tuple(parts))

    def value_of(self, node: Node) -> Node:
        if is_condition(node):
            raise self.fault("a value is compared, and this is a condition")
        return node

    def sum(self) -> Node:
        left = self.product()
        while sign := self.takes("+", "-"):
            left = Operation(sign, (self.value_of(left), self.value_of(self.product())))
        return left

    def product(self) -> Node:
        left = self.unary()
        while sign := self.takes("*", "/"):
            left = Operation(sign, (self.value_of(left), self.value_of(self.unary())))
        return left

    def unary(self) -> Node:
        signs = 0
        while self.takes("-"):
            signs += 1
        found = self.single()
        return Operation("minus", (self.value_of(found),)) if signs % 2 else found

    def single(self) -> Node:
        if self.takes("("):
            found = self.rule()
            self.needs(")")
            return found
        kind, value = self.kind, self.value
        if kind not in ("number", "word", "column", "single", "double"):
            raise self.fault("a column, a number, a text in quotes or a parenthesis is needed here")
        self.advance()
        if kind == "number":
            return Number(float(value))
        return Name(value) if kind in ("word", "column") else Text(value)

    def list(self) -> tuple[Number | Text, ...]:
        self.needs("[")
        out: list[Number | Text] = []
        while True:
            found = self.unary()
            if isinstance(found, Operation) and found.sign == "minus" and isinstance(found.parts[0], Number):
                found = Number(-found.parts[0].value)
            if not isinstance(found, (Number, Text)):
                raise self.fault("a list holds numbers and texts in quotes")
            out.append(found)
            if not self.takes(","):
                break
        self.needs("]")
        return tuple(out)
