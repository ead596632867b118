"""What a chat template takes a message's content for, read from its syntax tree."""

from __future__ import annotations

import enum

from jinja2 import nodes


class ContentFormat(enum.Enum):
    """The form in which content reaches a template."""

    TEXT = "text"
    """A string."""
    PARTS = "parts"
    """A list of parts, such as {"type": "text", "text": …}."""
    TEXT_OR_PARTS = "text or parts"
    """Either: the template asks which it is."""


def detect_content_format(tree: nodes.Template) -> ContentFormat:
    """Tell which form a template reads: parts if it loops over content, else text."""
    aliases = {"content"}
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, aliases):
            aliases.add(assignment.target.name)
    if not any(_is_content(loop.iter, aliases) for loop in tree.find_all(nodes.For)):
        return ContentFormat.TEXT
    tests = (test for test in tree.find_all(nodes.Test) if test.name in ("string", "iterable", "sequence"))
    asks = any(_is_content(test.node, aliases) for test in tests)
    return ContentFormat.TEXT_OR_PARTS if asks else ContentFormat.PARTS


def _is_content(node: nodes.Node | None, aliases: set[str]) -> bool:
    """Whether an expression is a message's content, perhaps filtered or sliced."""
    while isinstance(node, nodes.Filter):
        node = node.node
    if isinstance(node, nodes.Name):
        return node.name in aliases
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            return _is_content(node.node, aliases)
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return False
