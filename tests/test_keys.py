"""What a user may say of a key, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from keyrouter_openai import ConfigError, Key
from keyrouter_openai.keys import Limits

SECRET = "sk-canary-0123456789"


def test_limits_may_be_given_as_they_are_or_as_a_dict() -> None:
    key = Key(name="a", limits={"gpt-4o*": Limits(rpm=500, tpm=200_000), "*": {"rpd": 1000, "concurrent": 8}})
    assert key.limits == {"gpt-4o*": Limits(rpm=500, tpm=200_000), "*": Limits(rpd=1000, concurrent=8)}
    assert list(key.limits) == ["gpt-4o*", "*"], "the order says which counts"
    assert key.limits["*"].tpd is None


def test_what_is_not_said() -> None:
    key = Key(name="a")
    assert (key.limits, key.price_multiplier, key.quality) == ({}, 1.0, None)


def test_a_key_comes_back_from_json_and_from_a_pickle() -> None:
    key = Key(name="a", limits={"*": Limits(rpm=5)}, price_multiplier=0.8, quality=0)
    assert Key.model_validate_json(key.model_dump_json()) == key
    assert Key(**key.model_dump()) == key
    assert pickle.loads(pickle.dumps(key)) == key
    assert key.model_dump_json(exclude_defaults=True) == (
        '{"name":"a","limits":{"*":{"rpm":5}},"price_multiplier":0.8,"quality":0.0}'
    )


def test_a_key_with_a_secret_is_not_pickled_and_may_be_copied() -> None:
    key = Key(name="a", secret=SECRET, tags=("t",))
    with pytest.raises(TypeError, match="key 'a' cannot be pickled with its secret: make it in each process") as caught:
        pickle.dumps([key])
    assert SECRET not in str(caught.value)
    assert holds_no_secret(caught.value)
    assert copy.copy(key) == copy.deepcopy([key])[0] == key


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"limits": {"*": {"rpm": 0}}}, "key 'a': limits: rpm: Input should be greater than 0"),
        ({"limits": {"*": {"tpm": -5}}}, "key 'a': limits: tpm: Input should be greater than 0"),
        ({"limits": {"*": {"rpd": 1.5}}}, "key 'a': limits: rpd: Input should be a valid integer"),
        ({"limits": {"*": {"tpd": "5"}}}, "key 'a': limits: tpd: Input should be a valid integer"),
        ({"limits": {"*": {"tpd": True}}}, "key 'a': limits: tpd: Input should be a valid integer"),
        ({"limits": {"*": {"tpd": 10**400}}}, "key 'a': limits: tpd: Input should be less than"),
        ({"limits": {"*": {"rps": 5}}}, "key 'a': limits: rps: Extra inputs are not permitted"),
        ({"limits": {"*": 5}}, "key 'a': limits.*: Input should be a valid dictionary or instance of Limits"),
        ({"limits": {"": {"rpm": 5}}}, "limits takes patterns of models and their limits, such as {'gpt-4o*'"),
        ({"limits": Limits(rpm=5)}, "limits takes patterns of models and their limits, such as {'gpt-4o*'"),
        ({"price_multiplier": 0}, "key 'a': price_multiplier: Input should be greater than 0"),
        ({"price_multiplier": float("inf")}, "key 'a': price_multiplier: Input should be a finite number"),
        ({"quality": 1.1}, "key 'a': quality: Input should be less than or equal to 1"),
        ({"quality": -0.1}, "key 'a': quality: Input should be greater than or equal to 0"),
        ({"quality": float("nan")}, "key 'a': quality: Input should be"),
    ],
)
def test_bad_fields(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Key(name="a", secret=SECRET, **fields)
    assert says in str(caught.value)
    assert caught.value.__context__ is None
    assert holds_no_secret(caught.value)


def holds_no_secret(error: BaseException) -> bool:
    """Whether the package's own frames of an error keep the secret from whoever prints their locals."""
    trace, texts = error.__traceback__, list[str]()
    while trace is not None:
        if trace.tb_frame.f_globals["__name__"] != __name__:
            texts.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    return not any(SECRET in text for text in texts)


def test_bad_limits_by_themselves() -> None:
    with pytest.raises(ConfigError, match=r"^limits: rpm: Input should be greater than 0$"):
        Limits(rpm=0)
