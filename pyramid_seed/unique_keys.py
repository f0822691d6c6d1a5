"""YAML without surprises: a repeated key is an error, and every value is what is written.

It allows lists, mappings, and plain values as in JSON, no more than can be read within about a second.
Aliases, merge keys and tags are refused: a few lines of them make gigabytes, or objects. `yes`, `1_000`,
`010`, `0x1f`, `1:30` and dates, which YAML 1.1 reads differently than people do, stay the texts that they
are.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

YAML_ERRORS = (yaml.YAMLError, ValueError, OverflowError)
"""The errors of reading YAML; the second and third for escapes and numbers out of range."""
_MAX_DEPTH = 20
_MAX_VALUES = 15_000  # lists, mappings and plain values, including keys; each takes some 50 microseconds
_VALUES = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}


class UniqueKeyLoader(yaml.SafeLoader):
    """Reads one text; plain YAML silently keeps the last of two equal keys."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._num_values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(f"the alias *{event.anchor} is not accepted; write its value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"the tag {event.tag} is not accepted; write the plain value", event)
        if self._depth == _MAX_DEPTH:
            raise _refusal(f"it is nested more than {_MAX_DEPTH} deep", event)
        if self._num_values == _MAX_VALUES:
            raise _refusal(f"it holds more than {_MAX_VALUES:,} values; use .jsonl for long lists", event)
        self._num_values += 1
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise _refusal("the merge key << is not accepted; write its values out", key_node)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _refusal("a key must be text", key_node)
            if key in seen:
                raise _refusal(f"key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _name, _pattern in _VALUES.items():
    UniqueKeyLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), None)


def _refusal(reason: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, at.start_mark)  # type: ignore[arg-type]
