"""What a user says about a key. The secret is optional here: most keys rest in a vault."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from .errors import ConfigError
from .providers import PROVIDERS

_SECRET_LIKE = re.compile(r"(?:sk|gsk|csk|xai|fw|pplx)[-_].{16,}|AIza.{16,}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

_MADE_UP = re.compile(r"key-\d+|api_key")


def made_up_name(place: int) -> str:
    """The name of a key that was given without one, by its place in the list, from 1."""
    return f"key-{place}"


def is_made_up(name: str) -> bool:
    """Whether a key may be called so by its place alone: the next program's may be another key."""
    return _MADE_UP.fullmatch(name) is not None


def check_name(name: str, what: str) -> str:
    """Return `name` if it can name a key or pool, else raise ValueError."""
    if _SECRET_LIKE.match(name):
        raise ValueError(f"the {what} name looks like a secret: choose a name, and give the secret when asked for it")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a usable name for a {what}: use 1 to 64 letters, digits, dots, dashes, underscores or @"
        )
    return name


def check_secret(secret: SecretStr) -> SecretStr:
    """Return `secret` stripped of surrounding blanks, or raise ValueError if it cannot be sent as a credential."""
    text = secret.get_secret_value().strip()
    if not text:
        raise ValueError("the secret is empty: paste the key that the provider gave you")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            "the secret holds a newline, a blank or another character that no HTTP header can carry: "
            "paste the key alone"
        )
    return SecretStr(text)


def is_loopback(host: str) -> bool:
    """Whether a URL's host names this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_base_url(url: str) -> str:
    """Return `url` without a trailing slash if a credential may be sent there, else raise ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url {url!r} is not a URL: write it as https://host/v1")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(
            f"base_url {url!r} would send the key over the network unencrypted: use https "
            "(http is taken for localhost alone)"
        )
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"base_url {url!r} has a port that does not exist: use one up to 65535") from None
    if parts.query or parts.fragment:
        raise ValueError(f"base_url {url!r} has a query or a fragment: give the address alone, as https://host/v1")
    if parts.username or parts.password:
        raise ValueError("base_url must not hold a user or password: put the credential into the key's secret")
    return url.rstrip("/")


class Declared(BaseModel):
    """What users declare: frozen, and with errors that are the package's own, in plain words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # the classes' own signatures are for type checkers

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
                return
            except pydantic.ValidationError as error:
                problem = f"{self._title(values)}: {_in_words(error)}"
            except ConfigError as error:  # of something declared within
                problem = f"{self._title(values)}: {error}"
            # Out of the `except`, and without the arguments: an error keeps its frames, and what they hold.
            del values
            raise ConfigError(problem)

    @classmethod
    def _title(cls, values: Mapping[str, Any]) -> str:
        """What errors begin with."""
        raise NotImplementedError


_Count = Annotated[int | None, Field(gt=0, le=10**12, strict=True)]
_Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Limits(Declared):
    """What an account is known to grant for a model, where it should not have to be learned.

    What is left out is learned from answers. So is what is given: a provider that says otherwise is believed.

    Args:
        rpm: requests per minute.
        tpm: tokens per minute, of input and output together.
        rpd: requests per day.
        tpd: tokens per day.
        concurrent: requests at a time.

    Raises:
        ConfigError: a number is not a whole one above 0.
    """

    rpm: _Count = None
    tpm: _Count = None
    rpd: _Count = None
    tpd: _Count = None
    concurrent: _Count = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            rpm: int | None = None,
            tpm: int | None = None,
            rpd: int | None = None,
            tpd: int | None = None,
            concurrent: int | None = None,
        ) -> None: ...

    @classmethod
    def _title(cls, values: Mapping[str, Any]) -> str:
        return "limits"


class Key(Declared):
    """Metadata of one credential.

    Args:
        name: unique in its pool; shown everywhere in place of the secret.
        secret: the credential; left out where it rests in a vault. Never printed, never stored with the rest.
        provider: one of `keyrouter_openai.providers.PROVIDERS`; `compatible` takes any server with `base_url`.
        base_url: where this key is sent; https unless loopback. Default: the provider's own.
        organization: sent as `OpenAI-Organization`.
        project: sent as `OpenAI-Project`.
        account: the quota domain; keys that name the same account share its limits. Default: learned from
            answers, until then the key's own.
        weight: how many calls it may have in flight, relative to the others; above 0.
        models: patterns (`gpt-4o*`) of the models that this key may serve. Default: all.
        model_map: the caller's model name to this provider's, where they differ.
        limits: what its account grants, by patterns of models; the first pattern that matches counts.
        price_multiplier: what its calls cost, relative to the provider's list prices; above 0.
        quality: how good its answers are, from 0 to 1, for pools that choose by quality.
        tags: free labels, shown in listings.
        enabled: False keeps the key out of use.
    """

    name: str
    secret: Annotated[SecretStr | None, Field(exclude=True)] = None
    provider: str = "openai"
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    account: str | None = None
    weight: _Factor = 1.0
    models: tuple[str, ...] | None = None
    model_map: dict[str, str] = {}
    limits: dict[str, Limits] = {}
    price_multiplier: _Factor = 1.0
    quality: Annotated[float | None, Field(ge=0, le=1)] = None
    tags: Annotated[tuple[str, ...], BeforeValidator(tuple)] = ()
    enabled: bool = True

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            name: str,
            secret: SecretStr | str | None = None,
            provider: str = "openai",
            base_url: str | None = None,
            organization: str | None = None,
            project: str | None = None,
            account: str | None = None,
            weight: float = 1.0,
            models: Sequence[str] | None = None,
            model_map: Mapping[str, str] = {},
            limits: Mapping[str, Limits | Mapping[str, int | None]] = {},
            price_multiplier: float = 1.0,
            quality: float | None = None,
            tags: Sequence[str] = (),
            enabled: bool = True,
        ) -> None: ...

    @classmethod
    def _title(cls, values: Mapping[str, Any]) -> str:
        name = values.get("name")
        return "key ***" if isinstance(name, str) and _SECRET_LIKE.match(name) else f"key {name!r}"

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled. Raises TypeError if there is a secret: a pickle shows it to whoever reads it."""
        if self.secret is not None:
            raise TypeError(
                f"key {self.name!r} cannot be pickled with its secret: make it in each process, "
                "or leave the secret to a vault (`keyrouter-openai keys add`)"
            )
        return super().__getstate__()

    @pydantic.field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "key")

    @pydantic.field_validator("secret")
    @classmethod
    def _secret(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else check_secret(value)

    @pydantic.field_validator("provider")
    @classmethod
    def _provider(cls, value: str) -> str:
        if value not in PROVIDERS:
            raise ValueError(f"unknown provider {value!r}: use one of {', '.join(sorted(PROVIDERS))}")
        return value

    @pydantic.field_validator("base_url")
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        return None if value is None else check_base_url(value)

    @pydantic.field_validator("organization", "project", "account")
    @classmethod
    def _label(cls, value: str | None, info: pydantic.ValidationInfo) -> str | None:
        if value is not None and (
            not value.isprintable() or not value.strip() or value.startswith("key:") or value == "*"
        ):
            raise ValueError(f"{info.field_name} {value!r} is not usable: give it as the provider shows it")
        if value is not None and info.field_name != "account" and not value.isascii():
            raise ValueError(f"{info.field_name} {value!r} cannot be sent in an HTTP header: give the id, not the name")
        return value

    @pydantic.field_validator("models", mode="before")
    @classmethod
    def _patterns(cls, value: Any) -> Any:
        given: object = value
        listed = isinstance(given, list | tuple)
        if isinstance(given, str) or (listed and (not given or "" in given)):
            raise ValueError("models takes a list of patterns, such as ['gpt-4o*']; leave it out for all models")
        return value

    @pydantic.field_validator("limits", mode="before")
    @classmethod
    def _limits(cls, value: Any) -> Any:
        given: object = value
        if not isinstance(given, Mapping) or "" in given:
            raise ValueError("limits takes patterns of models and their limits, such as {'gpt-4o*': Limits(rpm=500)}")
        return value

    @pydantic.model_validator(mode="after")
    def _has_somewhere_to_go(self) -> Self:
        if self.base_url is None and PROVIDERS[self.provider].base_url is None:
            raise ValueError(f"provider {self.provider!r} has no address of its own: give base_url")
        return self


def _in_words(error: pydantic.ValidationError) -> str:
    problems: list[str] = []
    for item in error.errors(include_input=False, include_url=False):
        field = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        problems.append(message if item["type"] == "value_error" else f"{field}: {message}")
    return "; ".join(problems)
