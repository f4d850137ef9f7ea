"""mkdocs hook: replaces `<!-- commands -->` by a section for each command, made from the commands themselves."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from typer.models import ArgumentInfo

from latticework.runtime.cli import app
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.options import Setting, settings_of

MARK = "<!-- commands -->"
SETTINGS = {
    "engine": {setting.name for setting in settings_of(EngineConfig)},
    "server": {setting.name for setting in settings_of(ServerConfig)},
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARK, sections()) if MARK in markdown else markdown


def sections() -> str:
    return "\n\n".join(section(command.callback) for command in app.registered_commands if command.callback)


def section(command: Callable[..., Any]) -> str:
    """Usage, what it does, and a table of what is its own."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    names = {parameter.name for parameter in parameters}
    inherited = [which for which, known in SETTINGS.items() if known <= names]
    settings = set().union(*(SETTINGS[which] for which in inherited))
    own = [parameter for parameter in parameters if parameter.name not in settings]
    arguments = [_usage(one) for one in own if isinstance(_said(one), ArgumentInfo)]
    options = ["[OPTIONS]"] if len(names) > len(arguments) else []
    lines = [f"## latticework {command.__name__}", "", inspect.getdoc(command) or "", ""]
    lines += ["```", " ".join(["latticework", command.__name__, *arguments, *options]), "```"]
    if own:
        lines += ["", "| | type | default | what |", "|---|---|---|---|", *map(_row, own)]
    for which in inherited:
        lines += ["", f"And every [{which} setting](../settings.md#{which})."]
    return "\n".join(lines)


def _said(parameter: inspect.Parameter) -> Any:
    """typer's ArgumentInfo or OptionInfo of a parameter."""
    return typing.get_args(parameter.annotation)[1]


def _usage(parameter: inspect.Parameter) -> str:
    """How an argument is written on the command line."""
    name = _said(parameter).metavar or parameter.name.upper()
    return name if parameter.default is inspect.Parameter.empty else f"[{name}…]"


def _row(parameter: inspect.Parameter) -> str:
    said = _said(parameter)
    kind = typing.get_args(parameter.annotation)[0]
    setting = Setting(parameter.name, kind, parameter.default, said.help or "", said.min, said.max)
    declared = [name for name in (said.default, *(said.param_decls or ())) if str(name).startswith("--")]
    name = _usage(parameter) if isinstance(said, ArgumentInfo) else declared[0] if declared else setting.flag
    default = "" if parameter.default in (inspect.Parameter.empty, None) else f"`{parameter.default}`"
    return f"| `{name}` | {setting.type_name.replace('|', chr(92) + '|')} | {default} | {setting.description} |"
