"""When the simulated models call a tool, and with what. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .generate import example, is_tool_result, last_text
from .wire import Json, as_list, as_object, count_tokens


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called; `arguments` is JSON that fits its parameters."""

    id: str
    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        return count_tokens(self.name + self.arguments)


def tool_calls(fields: Json, prompt: object, ident: str) -> list[ToolCall]:
    """The functions that a request makes the model call, if any.

    They are those that the user's last message names ("What does get_weather say of Oslo?"), as long as no result
    of a tool has come since; or the one that `tool_choice` names. With `tool_choice="required"` and none named, it
    is the last of the list, where libraries put the one that stands for their structured output.
    """
    described = [as_object(tool.get("function")) or tool for tool in map(as_object, as_list(fields.get("tools")))]
    functions: dict[str, Json] = {str(each["name"]): each for each in described if "name" in each}
    choice, text = fields.get("tool_choice", "auto"), last_text(prompt)
    wanted = as_object(choice)
    forced = (as_object(wanted.get("function")) or wanted).get("name")
    if not functions or choice == "none":
        return []
    if forced in functions:
        names = [str(forced)]
    else:
        words = re.findall(r"[\w-]+", "" if is_tool_result(prompt) else text)
        names = [name for name in functions if name in words]
        if not names and choice == "required":
            names = list(functions)[-1:]
    return [
        ToolCall(f"call_{ident}{index}", name, example(as_object(functions[name].get("parameters")), text))
        for index, name in enumerate(names)
    ]
