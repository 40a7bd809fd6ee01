"""Settings from the environment, or from files named like the variables: passwords need not be in an environment.

The folder of the files is what BRIGADE_SECRETS names.
"""

import os
import sys
from pathlib import Path
from typing import Final, TypeVar

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX: Final = "BRIGADE_"
FOLDER: Final = "BRIGADE_SECRETS"


class UnreadableFileError(Exception):
    """A setting's file is there and cannot be read; the text names it."""


class Settings(BaseSettings):
    """Of two values for one setting the environment's counts, then the file's."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003, there are no such files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003, it warns of a missing folder, and strips blanks
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = EnvSettingsSource(settings_cls)
        files.env_vars = {name.lower(): text for name, text in from_files().items()}
        return init_settings, env_settings, files


S = TypeVar("S", bound=Settings)


def load(settings: type[S]) -> S:
    """The settings as environment and files have them; where they are wrong, say which and why, and exit with 2."""
    try:
        return settings()
    except UnreadableFileError as error:
        lines = [str(error)]
    except ValidationError as error:
        lines = [_line(settings, wrong) for wrong in error.errors()]
    sys.stderr.write("\n".join([*lines, "docs/settings.md lists every setting.", ""]))
    raise SystemExit(2)


def names() -> set[str]:
    """Of all variables and files, whether they can be read or not."""
    try:
        return {*os.environ, *(file.name for file in _files())}
    except UnreadableFileError:
        return {*os.environ}


def from_files() -> dict[str, str]:
    """The text of each file BRIGADE_… in the folder, without the newline at its end; none when there is no folder."""
    return {file.name: _text(file) for file in _files()}


def _files() -> list[Path]:
    if not (folder := os.environ.get(FOLDER)):
        return []
    try:
        return sorted(file for file in Path(folder).iterdir() if file.name.startswith(PREFIX))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnreadableFileError(f"{folder}, which {FOLDER} names: {error.strerror}") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise UnreadableFileError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"{file}: not UTF-8 text") from error


def variable(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """What a field is called outside."""
    match field.validation_alias:
        case AliasChoices(choices=choices):
            return next(str(choice) for choice in choices if str(choice).startswith(PREFIX))
        case _:
            return f"{settings.model_config['env_prefix']}{name}".upper()


def where(name: str) -> str:
    """What to change: the variable, or the file that the value came from."""
    if name in os.environ:
        return name
    return next((str(file) for file in _files() if file.name == name), name)


def _line(settings: type[BaseSettings], wrong: ErrorDetails) -> str:
    """The wrong setting's variable, its value unless secret, what is wrong, what it is for."""
    reason = wrong["msg"].removeprefix("Value error, ")
    if not wrong["loc"]:
        return reason  # two settings contradict each other: the text names them
    name, field = _field(settings, str(wrong["loc"][0]))
    if wrong["type"] == "missing":
        return f"{name}: must be set, or be a file of this name in the folder {FOLDER}. It means: {field.description}"
    value = "" if "Secret" in repr(field.annotation) else f"={wrong['input']}"
    return f"{where(name)}{value}: {reason[0].lower()}{reason[1:]}. It means: {field.description}"


def _field(settings: type[BaseSettings], told: str) -> tuple[str, FieldInfo]:
    """Pydantic tells a field by its name or by its alias."""
    names = {name: variable(settings, name, field) for name, field in settings.model_fields.items()}
    name = next(name for name, outside in names.items() if told in {name, outside})
    return names[name], settings.model_fields[name]
