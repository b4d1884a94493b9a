"""Scores a file of greedy ids on test-api-calls.jsonl: EM_intent and EM_structure as defined in README.md.

  score_api_calls.py [IDS.jsonl]     lines of {"id", "greedy_ids", ...}; default: the stored float32 PyTorch ids

For the stored file it also asserts the stored flags line by line and the model card's numbers, and that the prompts that the chat
template makes have the stored lengths.
"""

import json
import re
import sys
from pathlib import Path

import jinja2
import sentencepiece

from mobilellm import DEMO, DEMO_FIXTURES

CALL, END = 6, 8
tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
CONTROLS = {tokenizer.id_to_piece(i): i for i in range(9)}


def calls(ids: list[int]) -> list | None:
    """The calls of one answer: each <|call|> begins one, its text up to the next <|call|> or <|end|> is JSON. None: not valid JSON."""
    texts, current = [], None
    for token in ids:
        if token == END:
            break
        if token == CALL:
            texts.append(current := [])
        elif current is not None:
            current.append(token)
    try:
        return [json.loads(tokenizer.decode(text)) for text in texts]
    except json.JSONDecodeError:
        return None


def score(ids: list[int], expected: dict) -> tuple[bool, bool]:
    """(EM_intent, EM_structure) of one answer."""
    got, wanted = calls(ids), expected.get("tool_calls", [])
    if got is None:
        return False, False
    names = [c.get("name") for c in got] == [c["name"] for c in wanted]
    return names, got == wanted


def prompt_ids(messages: list[dict]) -> list[int]:
    """Every text between two control tokens is encoded on its own."""
    config = json.loads((DEMO / "tokenizer_config.json").read_text())
    env = jinja2.Environment()
    env.filters["tojson"] = lambda x, **kw: json.dumps(x, **kw)
    text = env.from_string(config["chat_template"]).render(messages=messages, bos_token="<s>", add_generation_prompt=True)
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, CONTROLS)) + ")", text):
        ids += [CONTROLS[part]] if part in CONTROLS else tokenizer.encode(part) if part else []
    return ids


if __name__ == "__main__":
    stored = DEMO_FIXTURES / "expected-greedy.jsonl"
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else stored
    samples = {s["id"]: s for s in map(json.loads, (DEMO_FIXTURES / "test-api-calls.jsonl").read_text().splitlines())}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    scores = []
    for row in rows:
        sample = samples[row["id"]]
        flags = score(row["greedy_ids"], sample["expected"])
        scores.append((*flags, "tool_calls" in sample["expected"]))
        if path == stored:
            assert flags == (row["intent"], row["exact"]), row["id"]
            assert row["calls"] == ("tool_calls" in sample["expected"]), row["id"]
            assert len(prompt_ids(sample["messages"])) == row["prompt_tokens"], row["id"]

    def percent(part):
        return [round(100 * sum(s[i] for s in part) / len(part), 2) for i in (0, 1)]

    results = {"all": scores, "with calls": [s for s in scores if s[2]], "first 300": scores[:300]}
    for name, part in results.items():
        print(f"{name} ({len(part)}): EM_intent {percent(part)[0]}, EM_structure {percent(part)[1]}")
    if path == stored:
        assert percent(scores) == [98.14, 97.12]
        assert percent(results["with calls"]) == [98.86, 97.55]
        assert percent(scores[:300]) == [99.0, 97.33]
