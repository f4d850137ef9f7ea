"""Command-line options made from the fields of a settings struct, so that no option is written twice.

`@settings` turns a command that takes an EngineConfig into one with an option per field: name, type, bounds,
default and help come from the field. Knows msgspec and typer, not what any setting means.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer

from latticework.lang.errors import InvalidArgument


@dataclass(frozen=True)
class Setting:
    """One field of a settings struct."""

    name: str
    type: Any  # as annotated, without Meta; optional ones with None
    default: Any
    description: str
    minimum: float | None
    maximum: float | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def type_name(self) -> str:
        """For a table of settings: `int`, or the values a Literal allows."""
        kinds = typing.get_args(self.type) if typing.get_origin(self.type) in _UNIONS else (self.type,)
        names = []
        for kind in kinds:
            if typing.get_origin(kind) is typing.Literal:
                names += [str(value) for value in typing.get_args(kind)]
            elif kind is not type(None):
                names.append(kind.__name__)
        return " | ".join(names)


_UNIONS = (typing.Union, types.UnionType)


def settings_of(struct: type[msgspec.Struct]) -> list[Setting]:
    """The fields of `struct` in order."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return [_setting(field.name, hints[field.name], field.default) for field in msgspec.structs.fields(struct)]


def _setting(name: str, annotation: Any, default: Any) -> Setting:
    kind, meta = _bare(annotation)
    bounds = meta
    if typing.get_origin(kind) in _UNIONS:  # X | None carries its description, X its bounds
        kinds, metas = zip(*map(_bare, typing.get_args(kind)), strict=True)
        kind = functools.reduce(operator.or_, kinds)
        bounds = metas[0]
    return Setting(name, kind, default, meta.description or "", bounds.ge, bounds.le)


def _bare(annotation: Any) -> tuple[Any, msgspec.Meta]:
    """A type and what its Meta says."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation, msgspec.Meta()
    kind, *metas = typing.get_args(annotation)
    return kind, next((meta for meta in metas if isinstance(meta, msgspec.Meta)), msgspec.Meta())


def option(setting: Setting) -> inspect.Parameter:
    """The typer parameter for a setting."""
    flag, low, high = setting.flag, None, None
    if setting.type is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    elif setting.type in (int, float, int | None, float | None):
        low, high = setting.minimum, setting.maximum
    info = typer.Option(flag, help=setting.description, min=low, max=high)
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=Annotated[setting.type, info]
    )


def settings(**structs: type[msgspec.Struct]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`@settings(engine=EngineConfig)`: the command's parameter `engine` becomes one option per field.

    A field whose name an earlier struct or the command itself uses already is left out and keeps its default.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in structs]
        taken = {parameter.name for parameter in own}
        fields: dict[str, list[str]] = {}
        for name, struct in structs.items():
            added = [setting for setting in settings_of(struct) if setting.name not in taken]
            fields[name] = [setting.name for setting in added]
            taken |= set(fields[name])
            own += [option(setting) for setting in added]

        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            built = {
                name: _build(structs[name], {key: given.pop(key) for key in keys}) for name, keys in fields.items()
            }
            command(**given, **built)

        with_options.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
        return with_options

    return decorate


def _build(struct: type[msgspec.Struct], values: dict[str, Any]) -> msgspec.Struct:
    """The struct, with the bounds of its fields checked. Raises InvalidArgument naming the option."""
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        raise InvalidArgument(f"--{name.replace('_', '-')}: {message}", field=name or None) from None
