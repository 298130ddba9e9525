"""The tables that tell faults apart: `RULES` by codes and words, `DEFAULTS` by the status alone.

Status, type and code each mislead somewhere: xAI refuses a key with 400, Groq bans an organisation with 400,
DeepSeek's code is always `invalid_request_error`, a 429 can be any of six faults. So what is said decides,
and the status only where nothing is said. Where a comment names an issue, the answer was seen there.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from .model import Fault


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the fault, by which codes or words, on which statuses and at which provider (default: all).

    A row with neither codes nor words goes by status and provider. Status 200 is an error inside a body or
    stream that names no status.
    """

    fault: Fault
    codes: re.Pattern[str] | None
    """Matches a whole code, in lower case."""
    words: re.Pattern[str] | None
    """Matches any part of the text, in lower case."""
    on: Container[int] | None
    provider: str | None


def _rule(
    fault: Fault, codes: str = "", words: str = "", *, on: Container[int] | None = None, provider: str | None = None
) -> Rule:
    """A row from patterns: `codes` parted by blanks, `words` by lines."""
    code_patterns = codes.split()
    word_patterns = [line.strip() for line in words.splitlines() if line.strip()]
    return Rule(
        fault,
        re.compile("|".join(code_patterns)) if code_patterns else None,
        re.compile("|".join(word_patterns)) if word_patterns else None,
        on,
        provider,
    )


_CALLER = frozenset((200, 400, 403, 404, 405, 406, 409, 411, 413, 414, 415, 422))
_ACCESS = frozenset((200, 400, 401, 403, 404))
_LIMITS = frozenset((200, 402, 413, 429))
_TROUBLE = frozenset((200, 408, 409, 424, 425, 429, 498, 499, *range(500, 600)))

RULES: tuple[Rule, ...] = (
    # --- Front ends and regions: about this machine's address, not about a key. Cloudflare's 1xxx codes are in
    # developers.cloudflare.com/support/troubleshooting/http-status-codes.
    _rule(Fault.HOST_LIMIT, r"1015", r"""
        error(?: code:)? 1015
        you are being rate limited
    """),
    _rule(Fault.NOT_HERE, r"unsupported_country\S* 100[5-9] 1010 1012 1020", r"""
        country, region,? or territory
        location is not supported
        not (?:available|supported) in your (?:country|region|location)
        error(?: code:)? (?:100[5-9]|1010|1012|1020)
        you have been blocked
        just a moment\.\.\.
        attention required
        virtual network
        firewall rules
        public access is disabled
    """),
    # Anthropic, to a valid key from the wrong place (corbt/agent.exe#15, langgenius/dify#5445).
    _rule(Fault.NOT_HERE, words=r"\brequest not allowed\b", on=(403,)),
    # Providers refuse in JSON; a page is a front end's.
    _rule(Fault.HOST_LIMIT, r"html_page", on=(429,)),
    _rule(Fault.SERVER_ERROR, r"html_page", on=_TROUBLE),
    _rule(Fault.NOT_HERE, r"html_page", on=(401, 403)),

    # --- Numbers decide where words mislead: "Rate limit reached" with Requested > Limit never fits (OpenAI,
    # Groq), "Request too large" with Requested < Limit fits later (Groq), a limit of 0 is no access (Gemini).
    _rule(Fault.MODEL_MISSING, r"limit_is_zero", on=_LIMITS),
    _rule(Fault.TOO_LARGE, r"requested_above_limit", on=_LIMITS),
    _rule(Fault.RATE_LIMIT, r"requested_within_limit", on=_LIMITS),

    # --- What OpenAI says of a field of the request: its text quotes the field, which may say anything.
    _rule(Fault.REQUEST, r"""
        invalid_(?:value|type) string_\S+ array_\S+ integer_\S+ decimal_\S+ object_\S+ unknown_parameter
        missing_required_parameter unsupported_parameter
    """, on=(400, 422)),

    # --- Requests that no key can send. Refused content must not be repeated: it endangers every account.
    _rule(Fault.REQUEST, r"""
        context_length\S* (?:string|array)_above_max\S* (?:request|payload)_too_large
        content_filter\S* content_policy\S* responsibleai\S* moderation\S* refusal invalid_prompt
        previous_response_not_found model_decommissioned
    """, r"""
        (?:context|prompt) (?:length|window)
        prompt is too long
        tokens`? .{0,40}must be <=
        reduce the length of
        content (?:management|filter\w*|moderation|usage) polic
        safety system
        content exists risk
        (?:prompt|input|content|image|text|output)s? .{0,60}(?:flagged|violat)
        decommissioned
        (?:has been|is) (?:deprecated|retired|shut down)
        参数
        敏感
        违规
    """, on=_CALLER),

    # What the caller allows one of its sessions to spend (OpenAI's agents): no account is out of money.
    _rule(Fault.REQUEST, r"session_budget_\S+"),

    _rule(Fault.MODEL_MISSING, r"model_not_found deployment_?not_?found", on=(400, 403, 404)),

    # --- Quotas of a minute or a day, though the texts speak of plans and billing (Gemini, OpenRouter, Cerebras).
    _rule(Fault.RATE_LIMIT, r"""
        in_flight_budget_exhausted \S*per(?:second|minute|hour|day)\S* (?:request|token)_quota_\S+ dynamic_\S+ ramp_\S+
    """, r"""
        free-models-per-
        quota exceeded for (?:quota )?metric
        call volume quota
    """),

    # --- A provider at its limit, not an account: also under 429, and with a quota's code (Gemini, and relays:
    # labring/FastGPT#1056).
    _rule(Fault.OVERLOADED, r"""
        \S*overload\S* slow_?down \S*capacity\S* (?:service_?|resource_?)?unavailable\S* server_busy queue_\S+
    """, r"""
        overload
        (?:high|heavy) (?:demand|traffic|load)
        (?:at|over|no|insufficient) capacity
        capacity (?:exceeded|reached|limit)
        too busy|server (?:is )?busy
        pending requests
        temporarily unavailable
        resources? .{0,20}unavailable
        繁忙
        负载
        no deployments available
    """, on=_TROUBLE),

    # --- Money, before what is left of rate limits: much of it comes as a 429 with a rate limit's type. First
    # what an account may not send in one piece, though less would pass: for want of an entitlement
    # (anthropics/claude-code#39948) or of the money that this one request costs (OpenRouter).
    _rule(Fault.TOO_LARGE, r"weight_exceeds_budget", r"""
        long context (?:request|beta)
        request too large for
    """),
    _rule(Fault.EXHAUSTED, r"""
        insufficient_\S*(?:quota|balance|credits?|funds) \S*quota_failed
        credit_\S+ \S*billing\S* \S*spend(?:ing)?[_-]limit\S* organization_usage_limit\S* \S*budget_exceeded
        payment_required
    """, r"""
        credit balance
        insufficient (?:account )?(?:balance|credits?|funds|quota)
        (?:out of|all|any|no|more|enough|available) (?:\w+ )?credits
        credits? .{0,30}(?:depleted|exhausted|expired)
        (?:credit|key|billing|billing hard|spend|spending) (?:limit|cap)\b
        budget .{0,20}(?:exceeded|exhausted)
        (?:monthly|total) (?:quota|budget)
        quota (?:is not enough|.{0,20}(?:used up|exhausted))
        api usage limits
        extra usage
        tokens limit exceeded: \d+ > \d+
        account is not active
        inactive subscription
        enable billing
        payment required
        overdue|past invoices
        余额
        额度
        欠费
    """),
    # Gemini's sentence for every limit is OpenAI's for no money: its status tells them apart.
    _rule(Fault.RATE_LIMIT, r"resource_?exhausted", on=_LIMITS),
    _rule(Fault.EXHAUSTED, words=r"exceeded your current quota"),

    # --- Accounts, keys, models, permissions.
    _rule(Fault.ACCOUNT_CLOSED, r"""
        (?:account|organization|project|user|consumer)_(?:deactivated|disabled|restricted|on_hold|suspended|banned)
        access_terminated
    """, r"""
        (?:account|organi[sz]ation|team|consumer)\b.{0,60} (?:is|was|been) (?:deactivated|disabled|terminated)
        (?:account|organi[sz]ation|team|consumer)\b.{0,60} (?:is|was|been) (?:suspended|banned|blocked|restricted)
        (?:deactivated|disabled|suspended|banned) (?:account|organi[sz]ation|team)
        access was terminated
        disabled in this account
        dunning
        封禁
        禁用
    """),
    _rule(Fault.KEY_REFUSED, r"""
        (?:\S+_)?(?:invalid|incorrect|wrong|expired)_(?:api_?)?key
        api_key_(?:invalid|expired|revoked|not_found)
        (?:invalid_)?authentication\S* unauthori[sz]ed unauthenticated\S*
        access_token_\S+ (?:invalid|expired)_\S*token no_organization (?:invalid|mismatched)_organization
    """, r"""
        (?:invalid|incorrect|wrong|missing|expired) .{0,24}(?:api[ -]?key|subscription key|access token)
        api[ -]?key\b.{0,50} (?:not valid|invalid|incorrect|expired|revoked|disabled|leaked|blocked|deleted|not exist)
        authentication (?:fails|failed|credentials)
        token (?:has )?expired
        tenant .{0,40}not match
        member of an organi[sz]ation
        no such organi[sz]ation
        (?:令牌|密钥).{0,6}(?:无效|过期|错误|不可用|失败)
        无效的?(?:令牌|密钥)
    """),
    _rule(Fault.MODEL_MISSING, r"""
        model_?not_?(?:found|available|exist|supported)\S* deployment_?not_?found (?:invalid|unknown)_model
        model_permission\S* model_terms\S*
    """, r"""
        no available channel
        无可用渠道
        模型.{0,40}(?:不存在|无权)
    """),
    _rule(Fault.MODEL_MISSING, words=r"""
        \b(?:models?|deployment)\b.{0,100} (?:not (?:be )?found|not exist|not (?:been )?deployed)
        \bmodels?\b.{0,100} (?:not|no longer) (?:currently )?available
        not have access to (?:the |this )?model
        unable to access .{0,20}model
        (?:unknown|invalid|no such) model
        not a valid model
        requested model is not supported
        no endpoints found for
    """, on=_CALLER),
    _rule(Fault.MODEL_MISSING, words=r"(?:^|\| )model: \S+(?: \||$)", on=(404,)),  # Anthropic says no more
    _rule(Fault.NOT_PERMITTED, r"""
        \S*scope\S* insufficient_permissions? permission\S* access_?denied api_key_\S+_blocked service_disabled
        ip_not_\S+
    """, r"""
        missing scopes?
        insufficient (?:permissions?|scope|privileges)
        not have (?:\w+ )?permission
        permission denied
        must be verified
        not allowed for this (?:project|organi[sz]ation|account|team)
        only authorized for use
        \bip\b.{0,40} not (?:authori[sz]ed|allowed)
        lacks? the required
        has not been used in project
        data policy
        无权
    """, on=_ACCESS),
    # Their own error pages: 403 is a prompt beyond the context at Together, 412 a suspended account at Fireworks.
    _rule(Fault.REQUEST, on=(403,), provider="together"),
    _rule(Fault.EXHAUSTED, on=(412,), provider="fireworks"),
    # Anthropic lists it among its own troubles; elsewhere a 409 is the caller's, whatever the SDK makes of it.
    _rule(Fault.SERVER_ERROR, on=(409,), provider="anthropic"),

    # --- The provider's own trouble, also under 429. The pool behind OpenRouter or a relay is shared by all.
    _rule(Fault.OVERLOADED, r"upstream_\S+", r"""
        upstream
        provider returned error
        before the given deadline
    """, on=(200, 429)),
    _rule(Fault.SERVER_ERROR, r"""
        \S*server_?error\S* internal\S* api_?error timeout\S* deadline_exceeded bad_gateway cf_\S+
        provider_\S+ upstream_\S+ bad_response\S*
    """, r"""
        server had an error
        internal (?:server )?error
        bad gateway
        upstream
        tim(?:ed?|e) ?out
        error code: 5\d\d
    """, on=_TROUBLE),
    _rule(Fault.RATE_LIMIT, r"""
        \S*rate_?limit\S* too_?many_?\S+ throttl\S* requests tokens images \S*quota_?exceeded\S* usage_limit\S*
    """, r"""
        rate.?limit
        too many (?:requests|tokens|concurrent)
        quota exceeded
        usage limit
        throttl
        (?:requests?|tokens|queries) per (?:second|min|hour|day)
        频繁
        频率
        限流
        速率
        并发
    """),

    # --- What is left of the caller's faults: only to tell them from answers that nobody knows.
    _rule(Fault.REQUEST, r"""
        invalid_\S+ bad_?request\S* unsupported_\S+ operationnotsupported not_?found\S* missing\S*
        \S*validation\S* value_error\S* unprocessable\S* failed_precondition conflict\S*
    """, on=_CALLER - {403}),
    _rule(Fault.REQUEST, words=r"""
        invalid|unsupported|not supported|not found
        missing|required|must be|too (?:large|long)
    """, on=_CALLER - {200, 403}),
)  # fmt: skip
"""Tried in order; the first that matches decides."""

DEFAULTS: dict[int, Fault] = {
    401: Fault.KEY_REFUSED,
    402: Fault.EXHAUSTED,
    403: Fault.NOT_PERMITTED,
    407: Fault.NOT_HERE,
    408: Fault.SERVER_ERROR,
    409: Fault.REQUEST,
    424: Fault.SERVER_ERROR,
    425: Fault.SERVER_ERROR,
    429: Fault.RATE_LIMIT,
    451: Fault.NOT_HERE,
    498: Fault.OVERLOADED,  # Groq's flex tier
    499: Fault.SERVER_ERROR,
    503: Fault.OVERLOADED,
    529: Fault.OVERLOADED,  # Anthropic
}
"""What a status means by itself: what does least harm if wrong. Other 4xx are `REQUEST`, all else `SERVER_ERROR`."""
