"""The integer subset of CEL: a parser by precedence climbing and an evaluator, both straight from the description of the subset."""

import re

SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1
TOKEN = re.compile(r"\s*(0[xX][0-9a-fA-F]+|\d+|[A-Za-z_]\w*|&&|\|\||==|!=|<=|>=|[-+*/%!<>?:(),])")
PRECEDENCE = {"||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "+": 4, "-": 4, "*": 5, "/": 5, "%": 5}


class NoValue(Exception):
    """Overflow, division by zero, an absent feature."""


def parse(text):
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise SyntaxError(text[at:])
        tokens.append(match.group(1))
        at = match.end()
    tree, rest = _choice(tokens)
    if rest:
        raise SyntaxError(rest)
    return tree


def _choice(tokens):
    condition, tokens = _binary(tokens, 1)
    if not tokens or tokens[0] != "?":
        return condition, tokens
    yes, tokens = _binary(tokens[1:], 1)
    assert tokens[0] == ":"
    no, tokens = _choice(tokens[1:])
    return ("?", condition, yes, no), tokens


def _binary(tokens, lowest):
    left, tokens = _unary(tokens)
    while tokens and PRECEDENCE.get(tokens[0], 0) >= lowest:
        operator = tokens[0]
        right, tokens = _binary(tokens[1:], PRECEDENCE[operator] + 1)
        left = (operator, left, right)
    return left, tokens


def _unary(tokens):
    head, tokens = tokens[0], tokens[1:]
    if head == "-" and tokens[0][0].isdigit():
        return ("literal", -int(tokens[0], 0 if "x" in tokens[0].lower() else 10)), tokens[1:]
    if head in "-!":
        operand, tokens = _unary(tokens)
        return ("negative" if head == "-" else "not", operand), tokens
    if head == "(":
        inner, tokens = _choice(tokens)
        assert tokens[0] == ")"
        return inner, tokens[1:]
    if head in ("true", "false"):
        return ("literal", head == "true"), tokens
    if head in ("min", "max"):
        operands = []
        while tokens[0] != ")":
            operand, tokens = _choice(tokens[1:])
            operands.append(operand)
        return (head, *operands), tokens[1:]
    if head[0].isdigit():
        return ("literal", int(head, 0 if "x" in head.lower() else 10)), tokens
    return ("feature", head), tokens


def _fits(value):
    if not SMALLEST <= value <= LARGEST:
        raise NoValue("overflow")
    return value


def evaluate(tree, features):
    kind, *operands = tree
    if kind == "literal":
        return operands[0]
    if kind == "feature":
        value = features[operands[0]]
        if value is None:
            raise NoValue("absent")
        return value
    if kind == "?":
        return evaluate(operands[1] if evaluate(operands[0], features) else operands[2], features)
    if kind in ("&&", "||"):
        return _logic(kind == "||", operands, features)
    values = [evaluate(operand, features) for operand in operands]
    if kind == "not":
        return not values[0]
    if kind == "negative":
        return _fits(-values[0])
    if kind in ("min", "max"):
        return min(values) if kind == "min" else max(values)
    return _apply(kind, *values)


def _logic(deciding, operands, features):
    failure = None
    for operand in operands:
        try:
            if evaluate(operand, features) == deciding:
                return deciding
        except NoValue as error:
            failure = failure or error
    if failure:
        raise failure
    return not deciding


def _apply(operator, a, b):
    if operator == "+":
        return _fits(a + b)
    if operator == "-":
        return _fits(a - b)
    if operator == "*":
        return _fits(a * b)
    if operator in "/%":
        if b == 0:
            raise NoValue("division by zero")
        quotient = _fits(abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1))
        return quotient if operator == "/" else a - quotient * b
    return {"==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]
