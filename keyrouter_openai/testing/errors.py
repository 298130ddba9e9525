"""OpenAI's error answers, as a table: `ERRORS[name]` with `error_reply(name, context)`.

Status, type and code are from https://developers.openai.com/api/docs/guides/error-codes; the texts are those
seen in public logs. The text of `conflict` was seen nowhere and is made up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .wire import Reply, go_duration, json_reply, whole_millis


@dataclass(frozen=True, slots=True)
class Context:
    """What an error text may name. `wait` is in seconds; the numbers are those of the limit that was hit."""

    secret: str = field(default="", repr=False)
    organization: str = ""
    project: str = ""
    model: str = ""
    route: str = ""
    wait: float = 1.0
    unit: str = "requests"
    dimension: str = ""
    """In the API's words. Default: `unit` per minute."""
    limit: int = 60
    used: int = 60
    requested: int = 1


@dataclass(frozen=True, slots=True)
class ApiError:
    """One kind of error answer. `message` and `type` are templates; `waits` if it names a time to wait."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    waits: bool = False


_INVALID = "invalid_request_error"
_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on "
    "this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
_INCORRECT = "You can find your API key at https://platform.openai.com/account/api-keys."
_PER_MINUTE = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}
_LIMITS_PAGE = "Visit https://platform.openai.com/account/rate-limits to learn more."

ERRORS: dict[str, ApiError] = {
    # the credential, or what it may do
    "no_key": ApiError(
        401,
        _INVALID,
        None,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    ),
    "key_revoked": ApiError(401, _INVALID, "invalid_api_key", "Incorrect API key provided: {masked}. " + _INCORRECT),
    "key_echo": ApiError(401, _INVALID, "invalid_api_key", "Incorrect API key provided: {secret}. " + _INCORRECT),
    "account_deactivated": ApiError(
        401,
        _INVALID,
        "account_deactivated",
        "The OpenAI account associated with this API key has been deactivated. If you are the developer for "
        "this OpenAI app, please check your email for more information.",
    ),
    "wrong_organization": ApiError(
        401,
        _INVALID,
        "mismatched_organization",
        "OpenAI-Organization header should match organization for API key",
    ),
    "wrong_project": ApiError(
        401, _INVALID, "mismatched_project", "OpenAI-Project header should match project for API key"
    ),
    "missing_scope": ApiError(
        403,
        _INVALID,
        "missing_scope",
        "You have insufficient permissions for this operation. Missing scopes: model.request. Check that you "
        "have the correct role in your organization (Reader, Writer, Owner) and project (Member, Owner), and "
        "if you're using a restricted API key, that it has the necessary scopes.",
    ),
    "region": ApiError(
        403,
        "request_forbidden",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    "model_missing": ApiError(
        404,
        _INVALID,
        "model_not_found",
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    "model_forbidden": ApiError(
        403, _INVALID, "model_not_found", "Project `{project}` does not have access to model `{model}`"
    ),
    # limits and money
    "rate_limit": ApiError(
        429,
        "{unit}",
        "rate_limit_exceeded",
        "Rate limit reached for {model} in organization {organization} on {dimension}: Limit {limit}, "
        "Used {used}, Requested {requested}. Please try again in {wait}. " + _LIMITS_PAGE,
        waits=True,
    ),
    "request_too_large": ApiError(
        429,
        "tokens",
        "rate_limit_exceeded",
        "Request too large for {model} in organization {organization} on {dimension}: "
        "Limit {limit}, Requested {requested}. The input or output tokens must be reduced in order to run "
        "successfully. " + _LIMITS_PAGE,
    ),
    # DeepSeek's words: it limits nothing but the calls at a time, and names no wait.
    "concurrency_limit": ApiError(429, "unknown_error", "invalid_request_error", "Too many concurrent requests"),
    "quota_exhausted": ApiError(429, "insufficient_quota", "insufficient_quota", _QUOTA),
    "spend_limit_project": ApiError(429, "insufficient_quota", "project_spend_limit_exceeded", _QUOTA),
    "spend_limit_organization": ApiError(429, "insufficient_quota", "organization_spend_limit_exceeded", _QUOTA),
    "slow_down": ApiError(
        429,
        "rate_limit_error",
        "slow_down",
        "A sudden increase in your request rate is impacting service reliability. Please reduce your request "
        "rate to its original level, maintain a consistent rate for at least 15 minutes, and then gradually "
        "increase it.",
        waits=True,
    ),
    # the request
    "bad_request": ApiError(
        400,
        _INVALID,
        "unsupported_parameter",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        param="max_tokens",
    ),
    "context_too_long": ApiError(
        400,
        _INVALID,
        "context_length_exceeded",
        "This model's maximum context length is 4097 tokens. However, your messages resulted in 4294 tokens. "
        "Please reduce the length of the messages.",
        param="messages",
    ),
    "content_policy": ApiError(
        400,
        _INVALID,
        "content_policy_violation",
        "Your request was rejected as a result of our safety system. Your prompt may contain text that is "
        "not allowed by our safety system.",
    ),
    "not_found": ApiError(404, _INVALID, None, "No such File object: file-missing", param="id"),
    "unknown_route": ApiError(404, _INVALID, None, "Invalid URL ({route})"),
    "conflict": ApiError(409, _INVALID, None, "The resource was changed by another request. Please try again."),
    "too_large_body": ApiError(
        413, "server_error", None, "Maximum content size limit (26214400) exceeded (222592852 bytes read)"
    ),
    # the provider
    "server_error": ApiError(
        500,
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that! You can retry your "
        "request, or contact us through our help center at help.openai.com if the error persists.",
    ),
    "unavailable": ApiError(
        503,
        "service_unavailable_error",
        "server_is_overloaded",
        "The engine is currently overloaded, please try again later.",
    ),
}


def error_reply(name: str, context: Context) -> Reply:
    """The answer of `ERRORS[name]`, its text filled in from `context`."""
    error = ERRORS[name]
    facts = {
        "secret": context.secret,
        "masked": mask(context.secret),
        "organization": context.organization,
        "project": context.project,
        "model": context.model,
        "route": context.route,
        "wait": go_duration(context.wait),
        "unit": context.unit,
        "dimension": context.dimension or _PER_MINUTE[context.unit],
        "limit": context.limit,
        "used": context.used,
        "requested": context.requested,
    }
    body = error_object(error.message.format_map(facts), error.type.format_map(facts), error.code, error.param)
    return json_reply(body, error.status, wait_headers(context.wait) if error.waits else None)


def error_object(message: str, type: str, code: str | None, param: str | None) -> dict[str, object]:
    """OpenAI's envelope of an error."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Reply:
    """A 400 for a request that is wrong in itself."""
    return json_reply(error_object(message, _INVALID, code, param), 400)


def wait_headers(seconds: float) -> dict[str, str]:
    """`retry-after` in whole seconds, and `retry-after-ms`, which tells it exactly."""
    return {
        "retry-after": str(math.ceil(whole_millis(seconds) / 1000)),
        "retry-after-ms": str(whole_millis(seconds)),
    }


def mask(secret: str) -> str:
    """A credential as OpenAI quotes it: its first eight and last four characters."""
    if len(secret) <= 12:
        return "*" * len(secret)
    return secret[:8] + "*" * (len(secret) - 12) + secret[-4:]
