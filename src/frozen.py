"""Frozen: classes of named fields, like dataclasses but without generated code, which takes 10 ms of each start."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

T = TypeVar("T")


class _Factory:
    """Makes the default of a field anew for each object."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """Return a default that is made anew for each object, such as a list."""
    return _Factory(default_factory)  # type: ignore[return-value]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Frozen:
    """The base of classes whose annotations are their fields, in this order; assigned values are the defaults.

    The constructor takes the fields by position or name; they cannot be set afterwards. Objects are equal if they are
    of one class and have equal fields. `_fields`, `_asdict` and `_replace` are as in a NamedTuple. Unlike a NamedTuple,
    the class may have cached properties, and lists and mappings as defaults.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    _factories: ClassVar[dict[str, Callable[[], Any]]] = {}
    __hash__ = None  # type: ignore[assignment]  # some values are lists

    def __init_subclass__(cls) -> None:
        own = [name for name, declared in cls.__annotations__.items() if not declared.startswith("ClassVar")]
        cls._fields = tuple(dict.fromkeys((*cls._fields, *own)))
        defaults = {name: value for name, value in vars(cls).items() if name in own}
        factories = {name: value.make for name, value in defaults.items() if isinstance(value, _Factory)}
        cls._factories = cls._factories | factories
        cls._defaults = cls._defaults | {name: value for name, value in defaults.items() if name not in factories}
        for name in factories:
            delattr(cls, name)

    def __init__(self, *values: Any, **named: Any) -> None:
        positional = dict(zip(self._fields, values, strict=False))
        attributes = vars(self)
        attributes.update(self._defaults)
        attributes.update(positional)
        attributes.update(named)
        for name, make in self._factories.items():
            if name not in attributes:
                attributes[name] = make()
        if (attributes.keys() != set(self._fields) or len(positional) < len(values)
                or not named.keys().isdisjoint(positional)):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(self._fields)}; given were {len(values)} "
                            f"values and {', '.join(named) or 'no names'}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: use _replace")

    def __eq__(self, other: object) -> bool:
        return self._asdict() == other._asdict() if isinstance(other, type(self)) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

    def _asdict(self) -> dict[str, Any]:
        """Return the values by name."""
        attributes = vars(self)
        return {name: attributes[name] for name in self._fields}

    def _replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**self._asdict(), **changes})
