"""mkdocs hook: replaces `<!-- settings: EngineConfig -->` by a table made from the struct itself."""

from __future__ import annotations

import re
from typing import Any

from latticework.runtime import config
from latticework.runtime.options import settings_of

MARK = re.compile(r"<!-- settings: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return MARK.sub(lambda match: table(match[1]), markdown)


def table(struct: str) -> str:
    lines = ["| option | field | type | default | what |", "|---|---|---|---|---|"]
    for setting in settings_of(getattr(config, struct)):
        default = "" if setting.default is None else f"`{setting.default}`"
        kind = setting.type_name.replace("|", "\\|")
        lines.append(f"| `{setting.flag}` | `{setting.name}` | {kind} | {default} | {setting.description} |")
    return "\n".join(lines)
