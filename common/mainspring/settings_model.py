"""How settings are declared, read, shown and refused. What they are stands in `mainspring.settings`."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from mainspring.errors import SettingsError

_VALUE_CHARACTERS_MAX: Final = 120
_MASK: Final = "****"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as the reference describes it."""

    name: str
    """Its name in the environment."""
    field: str
    """Its name in the model."""
    meaning: str
    default: str
    """The default, in words where it is computed."""
    allowed: str
    """The values that it may have, in words."""
    secret: bool
    """Its value is never shown in full."""

    @classmethod
    def of(cls, field: str, info: FieldInfo) -> Self:
        """Read a setting from the model's field."""
        extra = info.json_schema_extra
        assert isinstance(extra, dict), field
        default = info.default
        return cls(
            name=str(info.validation_alias),
            field=field,
            meaning=info.description or "",
            default=str(extra["shown"]) or (str(default).lower() if isinstance(default, bool) else str(default)),
            allowed=str(extra["allowed"]),
            secret=bool(extra["secret"]),
        )

    @property
    def flag(self) -> str:
        """Its name on a command line."""
        return "--config" if self.name == "MAINSPRING_CONFIG" else "--" + self.name.lower().replace("_", "-")


def read_file(path: Path, known: Iterable[str]) -> dict[str, object]:
    """Return what a flat TOML file sets, by name; its keys are the settings' names in upper or lower case.

    Raises `SettingsError` when the file cannot be read or holds a name that is not among `known`.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"MAINSPRING_CONFIG: cannot read {path}: {error.strerror}; name a readable TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"MAINSPRING_CONFIG: {path} is not TOML: {error}") from error
    values: dict[str, object] = {}
    for key, value in table.items():
        name = setting_name(key)
        refuse_unknown([key], known, f" in {path}")
        if name in values:
            raise SettingsError(f"{name} stands twice in {path}; keep one of them")
        values[name] = value
    if "MAINSPRING_CONFIG" in values:
        raise SettingsError(
            f"MAINSPRING_CONFIG in {path}: a file cannot name another; set it by --config or in the environment"
        )
    return values


def setting_name(text: str) -> str:
    """Return the name of a setting that is written as a flag, as a key of the file or as in the environment."""
    name = text.removeprefix("--").replace("-", "_").upper()
    return "MAINSPRING_CONFIG" if name == "CONFIG" else name


def refuse_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `SettingsError` for the first of `names` that is no setting, with the nearest that is."""
    all_known = set(known)
    for name in names:
        if setting_name(name) not in all_known:
            near = difflib.get_close_matches(setting_name(name), sorted(all_known), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else "; docs/settings.md lists them"
            raise SettingsError(f"there is no setting {name!r}{where}{hint}")


def flag_values(words: Sequence[str], known: Mapping[str, Setting]) -> dict[str, object]:
    """Read `--name value` and `--name=value`; a name alone means "true"."""
    values: dict[str, object] = {}
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        if not word.startswith("--") or word == "--":
            raise SettingsError(f"{word!r} is not a flag; write --name value, such as --http-port 3000")
        name, equals, value = word.partition("=")
        refuse_unknown([name], known, " among the flags")
        if not equals and at < len(words) and not words[at].startswith("--"):
            value, at = words[at], at + 1
        elif not equals:
            value = "true"
        if setting_name(name) in values:
            raise SettingsError(f"{name} is given twice; keep one of them")
        values[setting_name(name)] = value
    return values


def mask(text: str) -> str:
    """Return a URL without its password and its query's values, a web address without its path; else only stars."""
    if "://" not in text:
        return _MASK
    text = re.sub(r"(://[^:@/]*):.*@", rf"\1:{_MASK}@", text)
    text = re.sub(r"([?&][^=&]*=)[^&]*", rf"\1{_MASK}", text)
    return re.sub(r"^(https?://[^/?]*/).+", rf"\1{_MASK}", text)


def show(value: object, *, secret: bool) -> str:
    """Return a value as it may be printed."""
    if value is None:
        return ""
    if secret:
        return mask(str(value))
    text = ",".join(str(part) for part in value) if isinstance(value, tuple | list) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 1] + "…"


def refusal(error: ValidationError, settings: Mapping[str, Setting], origins: Mapping[str, str]) -> SettingsError:
    """Turn what the model says into one error that names each setting, its value and what is allowed."""
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        setting = settings.get(str(problem["loc"][0])) if problem["loc"] else None
        if setting is None:
            lines.append(problem["msg"].removeprefix("Value error, "))
            continue
        value = show(problem["input"], secret=setting.secret)
        told = problem["msg"].removeprefix("Value error, ") if problem["type"] == "value_error" else ""
        line = f"{setting.name} = {value!r} ({origins.get(setting.name, 'default')}): allowed is {setting.allowed}"
        lines.append(f"{line}; {told}" if told else line)
    return SettingsError("\n".join(dict.fromkeys(lines)))


def declare(
    name: str,
    meaning: str,
    default: Any,
    *,
    allowed: str = "",
    shown: str = "",
    secret: bool = False,
    low: float | None = None,
    high: float | None = None,
    pattern: str | None = None,
) -> Any:
    """Declare a setting; `allowed` and `shown` say in words what its bounds and its default do not."""
    value: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return Field(
        **value,
        validation_alias=name,
        description=meaning,
        ge=low,
        le=high,
        pattern=pattern,
        allow_inf_nan=None if low is None else False,
        repr=not secret,
        json_schema_extra={"allowed": allowed or f"{low} to {high}", "shown": shown, "secret": secret},
    )


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """A setting as it is in force."""

    name: str
    value: str
    """Secrets are masked; empty when nothing is set."""
    origin: str
    """`flag`, `environment`, `file` or `default`."""


class Settings(BaseModel):
    """The root of the parts' settings.

    `load` reads all sources, `of` none: `CoordinatorSettings.of(HEARTBEAT_INTERVAL=1000)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict[str, str])

    @classmethod
    def of(cls, **values: object) -> Self:
        """Take these values, by the settings' names, and the defaults for all others. Raises `SettingsError`."""
        return cls._make(values, dict.fromkeys(values, "flag"))

    @classmethod
    def _make(cls, values: Mapping[str, object], origins: Mapping[str, str]) -> Self:
        settings = cls.reference()
        refuse_unknown(values, settings, "")
        try:
            made = cls.model_validate(values)
        except ValidationError as error:
            raise refusal(error, settings, origins) from error
        made._origins = origins  # noqa: SLF001  (our own class; pydantic leaves private fields to be set afterwards)
        return made

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_numbers(cls, value: object, info: ValidationInfo) -> object:
        # Without this, `http_port = true` in a file would be port 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("it is neither on nor off")
        return value

    @classmethod
    def load(
        cls, flags: Mapping[str, object] | Sequence[str] = (), environment: Mapping[str, str] = os.environ
    ) -> Self:
        """Read flags, environment and file.

        `flags` are the words of a command line, or a mapping in which None means "not given"; its names may be written
        as flags or as settings. Raises `SettingsError` that names the setting, its value and what is allowed.
        """
        settings = cls.reference()
        if isinstance(flags, Mapping):
            refuse_unknown(flags, settings, " among the flags")
            given = {setting_name(name): value for name, value in flags.items() if value is not None}
        else:
            given = flag_values(flags, settings)
        # An empty variable is what compose files make of an unset one.
        outside = {name: environment[name] for name in settings if environment.get(name)}
        path = given.get("MAINSPRING_CONFIG") or outside.get("MAINSPRING_CONFIG")
        file = read_file(Path(str(path)), known_names()) if path else {}
        layers = (("file", {n: v for n, v in file.items() if n in settings}), ("environment", outside), ("flag", given))
        return cls._make(
            {name: value for _, layer in layers for name, value in layer.items()},
            {name: origin for origin, layer in layers for name in layer},
        )

    @classmethod
    def reference(cls) -> dict[str, Setting]:
        """Return all settings of this part by name."""
        settings = (Setting.of(field, info) for field, info in cls.model_fields.items())
        return {setting.name: setting for setting in settings}

    def effective(self) -> list[EffectiveSetting]:
        """Return all settings as they are in force, secrets masked."""
        return [
            EffectiveSetting(
                name, show(getattr(self, setting.field), secret=setting.secret), self._origins.get(name, "default")
            )
            for name, setting in self.reference().items()
        ]


def known_names() -> frozenset[str]:
    """Return the names of all settings of all parts."""
    parts: list[type[Settings]] = [Settings]
    for part in parts:
        parts.extend(part.__subclasses__())
    return frozenset(name for part in parts for name in part.reference())
