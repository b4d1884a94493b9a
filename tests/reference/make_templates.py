"""Writes tests/fixtures/templates.json: the templates of templates.py over a list of conversations, as Python's jinja2 renders them
in the environment that transformers gives chat templates."""

import json
from datetime import datetime, timezone

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template, _plain_template_data

from mobilellm import ROOT
from templates import CONSTRUCTS, FAMILIES

NOW = 1_772_000_000 + 5 * 3600
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a place.", "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "The place's name"}, "days": {"type": "integer"}, "unit": {"type": "string", "enum": ["C", "F"]}}, "required": ["place"]}}},
    {"type": "function", "function": {"name": "now", "description": "The \"time\" & <date>.", "parameters": {"type": "object", "properties": {}, "required": []}}},
]  # fmt: skip
SYSTEM = {"role": "system", "content": "Be brief. /no_think"}
HI, BYE = {"role": "user", "content": " Hi there!\n"}, {"role": "user", "content": "And naïve 日本 😀?"}
ANSWER = {"role": "assistant", "content": "<think>\nwell\n</think>\n\nHello 'you'."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"place": "Öland", "days": 2}}}]}
RESULT = {"role": "tool", "content": "{\"sun\": true}", "name": "get_weather"}
CHATS = {
    "question": {"messages": [HI]},
    "question and system": {"messages": [SYSTEM, HI]},
    "history": {"messages": [HI, ANSWER, BYE]},
    "all of it": {"messages": [SYSTEM, HI, ANSWER, BYE], "enable_thinking": False},
    "tools": {"messages": [SYSTEM, HI], "tools": TOOLS},
    "a call": {"messages": [HI, CALL, RESULT], "tools": TOOLS},
    "a call without text": {"messages": [HI, CALL | {"content": None}, RESULT, ANSWER, BYE], "tools": TOOLS[:1]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "look "}, {"type": "image"}]}, ANSWER]},
    "documents": {"messages": [HI], "documents": [{"title": "T", "text": "words"}]},
}


def render(template: str, variables: dict, prompt: bool):
    now = datetime.fromtimestamp(NOW, timezone.utc).replace(tzinfo=None)
    try:
        variables = {"tools": None, "documents": None} | TOKENS | variables
        return _compile_jinja_template(template).render(
            **_plain_template_data(variables), add_generation_prompt=prompt, strftime_now=lambda format: now.strftime(format)
        )
    except (TemplateError, TypeError, KeyError, ValueError, ZeroDivisionError, OverflowError, AttributeError, IndexError):
        return None


def main():
    # Constructs that do not look at the conversation need only one.
    chats = {f"{name}{', answer' if prompt else ''}": {"variables": variables, "add_generation_prompt": prompt}
             for name, variables in CHATS.items() for prompt in ((True, False) if name in ("history", "tools") else (True,))}  # fmt: skip
    listed = []
    for name, template in (FAMILIES | CONSTRUCTS).items():
        outputs = [(chat, render(template, c["variables"], c["add_generation_prompt"])) for chat, c in chats.items()]
        if name in CONSTRUCTS and len({output for _, output in outputs}) == 1:
            outputs = outputs[:1]
        listed.append({"name": name, "template": template, "chats": outputs})
        if all(output is None for _, output in outputs):
            print(f"{name}: an error each time")
    text = ",\n".join(json.dumps(item, ensure_ascii=False) for item in listed)
    head = json.dumps({"now": NOW, "tokens": TOKENS, "chats": chats}, ensure_ascii=False)[:-1]
    (ROOT / "tests/fixtures/templates.json").write_text(f"{head},\n\"templates\": [\n{text}\n]}}\n")
    print(len(listed), "templates,", sum(len(item["chats"]) for item in listed), "renderings")


if __name__ == "__main__":
    main()
