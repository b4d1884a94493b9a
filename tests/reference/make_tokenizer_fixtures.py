"""Makes tests/fixtures/tokenizer/: what sentencepiece, tokenizers and transformers say about a few thousand strings.

    python3 tests/reference/make_tokenizer_fixtures.py        (sentencepiece 0.2.3, tokenizers 0.23.3, transformers 5.23)

Seeded; the training corpora are Python's own documentation and sources, so another Python trains other tokenizers.
  llama.model   LLaMA's trainer and normalizer flags, its tied scores of spaces      odd.model   user-defined symbols, no byte fallback, no dummy prefix
  bytes.json    SmolLM2's pipeline                        split.json  Llama 3's pipeline
  strings.jsonl {"t": text, "model"|"json"|"llama"|"odd"|"bytes"|"split": ids}; "json" only where it differs from "model"
  control.jsonl {"t": text with control tokens, "json"|"meta"|"bytes"|"split": ids}; meta is the demo's tokenizer.json
                with LLaMA's newer pipeline: no normalizer, Metaspace that prepends to the first segment
  decode.jsonl  {"k": tokenizer, "ids": random ids, "t": text without, "s": with special tokens}
  chat.json     templates with inputs and what transformers renders
"""

import io
import json
import pathlib
import pydoc_data.topics
import random
import inspect, argparse, textwrap, json.decoder, heapq  # noqa: E401  (corpora)

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import render_jinja_template

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/fixtures/tokenizer"
DEMO = ROOT / "www/models/demo"
rng = random.Random(20240624)

PROSE = [line for topic in sorted(pydoc_data.topics.topics) for line in pydoc_data.topics.topics[topic].split("\n")]
CODE = "".join(inspect.getsource(m) for m in (argparse, textwrap, json.decoder, heapq)).split("\n")
CORPUS = [line for line in PROSE + CODE if line.strip()]
WORLD = (
    "naïve café Ünïcödé straße İstanbul ŁÓDŹ Ελληνικά русский язык עברית العربية हिन्दी ไทย 日本語 汉字 漢字 한국어 ｆｕｌｌ ①②③ ½ ¼ "
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 e\u0301 n\u0303 a\u0300\u0301\u0302 \u0301 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L ﬁ ﬂ ﷺ ꧁꧂ 𝔘𝔫𝔦 𐍈 𓀀 \u200b \u200d \ufeff \u00a0 \u3000 \u2028 \u2029 "
    "▁ ▁▁ <s> </s> <unk> <0x0A> <0x41> <|user|> <|end|> <|im_start|> \u202eabc\u202c … — “q” ‘s’ € £ ¥ © \ufffd \ufffe \ufdd0 \ue000 \U0010ffff"
).split(" ")
SPACE = [" ", "  ", "   ", "    ", "        ", " " * 15, " " * 16, " " * 17, " " * 33, "\t", "\t\t", "\n", "\n\n", "\r\n", " \n ", "\n    "]
CONTROL = [chr(c) for c in [*range(32), *range(127, 160)]]


def text():
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(PROSE)[:80]
    if kind == 1:
        return "\n".join(CODE[(at := rng.randrange(len(CODE) - 3)) : at + rng.randrange(1, 4)])[:140]
    if kind == 2:
        return "".join(rng.choice(WORLD + SPACE) for _ in range(rng.randrange(1, 9)))
    if kind == 3:
        return rng.choice(["", " ", "x"]).join(str(rng.randrange(10 ** rng.randrange(1, 12))) for _ in range(rng.randrange(1, 5)))
    if kind == 4:
        return "".join(rng.choice(SPACE + ["a", "the", "x=1", "  return", "."]) for _ in range(rng.randrange(1, 8)))
    if kind == 5:
        planes = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x900, 0xE80), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (1, 0xD7FF)]
        low, high = rng.choice(planes)
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 20)))
    if kind == 6:
        return "".join(rng.choice(CONTROL + ["a", " ", "é"]) for _ in range(rng.randrange(1, 10)))
    words = [word for _ in range(3) for word in rng.choice(CORPUS).split()] + WORLD
    return rng.choice([" ", "  ", "", "-", "\n"]).join(rng.choice(words) for _ in range(rng.randrange(1, 9)))[:120]


def train_sentencepiece(name, **flags):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS + WORLD * 3), model_writer=model, model_type="bpe", normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True, num_threads=1,
        minloglevel=2, **flags)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    for piece in proto.pieces:
        if piece.type == piece.NORMAL and set(piece.piece) == {"▁"} and len(piece.piece) > 1:
            piece.score = -1e9  # as in LLaMA's file: runs of spaces are merged last, and all have one score
    (OUT / name).write_bytes(proto.SerializeToString())
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def train_bytes(name, pre_tokenizer, specials, size, post=None, ignore_merges=False):
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS + WORLD * 3, trainer)
    if post:
        tokenizer.post_processor = post(tokenizer)
    tokenizer.save(str(OUT / name), pretty=False)
    return tokenizer


def lines(name, rows):
    (OUT / name).write_text("".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows))


OUT.mkdir(parents=True, exist_ok=True)
llama = train_sentencepiece("llama.model", vocab_size=1600, character_coverage=0.9995, byte_fallback=True, add_dummy_prefix=True)
odd = train_sentencepiece("odd.model", vocab_size=500, character_coverage=0.99, add_dummy_prefix=False,
                          user_defined_symbols=["<think>", "</think>", "self.", "▁▁▁", "aa", "ab"], control_symbols=["<|user|>"])
model = sentencepiece.SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
demo = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
smol = train_bytes("bytes.json", digits, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 1400)
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
split = train_bytes(
    "split.json", pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], 900, ignore_merges=True,
    post=lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))])]))


def ids(tokenizer, text, control=False):
    tokenizer.encode_special_tokens = not control
    return tokenizer.encode(text, add_special_tokens=False).ids


rows = []
for t in dict.fromkeys(["", *WORLD, *SPACE, *CONTROL, *(a + b for a in SPACE for b in ("x", "▁", "7")), *(text() for _ in range(2450))]):
    row = {"t": t, "model": model.encode(t), "llama": llama.encode(t), "odd": odd.encode(t), "bytes": ids(smol, t), "split": ids(split, t)}
    if ids(demo, t) != row["model"]:
        row["json"] = ids(demo, t)
    rows.append(row)
lines("strings.jsonl", rows)

meta_json = json.loads((DEMO / "tokenizer.json").read_text())
meta_json["normalizer"] = None
meta_json["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
meta = tokenizers.Tokenizer.from_str(json.dumps(meta_json))
specials = ["<s>", "<|user|>", "<|end|>", "<|assistant|>", "<|call|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>"]
rows = []
for _ in range(160):
    t = "".join(rng.choice([rng.choice(specials), text()[:40]]) for _ in range(rng.randrange(1, 7)))
    rows.append({"t": t, **{k: ids(v, t, True) for k, v in [("json", demo), ("meta", meta), ("bytes", smol), ("split", split)]}})
lines("control.jsonl", rows)

rows = []
for kind, tokenizer, size in [("model", model, 6144), ("llama", llama, 1600), ("odd", odd, 500), ("bytes", smol, 1400), ("split", split, 900)]:
    for _ in range(200):
        # Low ids hold the bytes and control tokens.
        some = [rng.randrange(rng.choice([12, 300, size])) for _ in range(rng.randrange(1, 14))]
        if isinstance(tokenizer, tokenizers.Tokenizer):
            rows.append({"k": kind, "ids": some, "t": tokenizer.decode(some), "s": tokenizer.decode(some, skip_special_tokens=False)})
        else:
            rows.append({"k": kind, "ids": some, "t": tokenizer.decode(some)})
lines("decode.jsonl", rows)

CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
          "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
LLAMA3_CHAT = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have access to the following functions.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = ("{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
           "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}")
THINK = """{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' and not message.content.startswith('<tool_response>') %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{% for message in messages %}
    {% if message.role == 'tool' %}
        {% continue %}
    {% endif %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set reasoning = '' %}
    {%- if '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
<|im_start|>{{ message.role }}
    {% if loop.index0 > ns.last and reasoning %}
<think>
{{ reasoning }}
</think>
    {% endif %}
{{ content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}
<think>

</think>
{% endif %}
{% endif %}"""
VALUES = """{% for m in messages %}{{ m.content }}|{{ m.extra }}|{{ m.missing }}|{{ m.extra | tojson }}|{{ m.extra | tojson(sort_keys=True, indent=2) }}|{{ m.extra | tojson(ensure_ascii=True) }}|{{ m.extra | tojson(separators=(',', ':')) }}
{% for key, value in m.extra.items() %}{{ key }}={{ value }};{% endfor %}{{ m.extra.keys() | list | join(',') }}|{{ m.content.upper() }}|{{ m.content | length }}|{{ m.content[:3] }}|{{ m.content.replace('a', 'b').title() }}|{{ true }}|{{ none }}|{{ [1, 2.0, 'x'] }}|{{ (1 / 2) }}|{{ 7 // 2 }}|{{ 'a' ~ 1 ~ none }}|{{ m.get('role', 'none') }}|{{ m.content is string }}{% endfor %}
"""
MACRO = """{%- macro turn(role, text) -%}
[{{ role | upper }}] {{ text | trim }}
{% endmacro -%}
{# a comment #}
  {% for m in messages if m.role != 'system' %}
{{ turn(m.role, m.content) -}}
  {% else %}
nothing
  {% endfor %}
{% if tools %}{{ tools | map(attribute='function') | map(attribute='name') | join(', ') }}{% endif %}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ documents is none }}

"""
weather = {"type": "function", "function": {"name": "get_weather", "description": "The weather <b>now</b> & 'here'", "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Łódź", "München"]}, "days": {"type": "integer", "default": 1}, "exact": {"type": "number", "default": 0.5}}, "required": ["city"]}}}
call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Łódź", "days": 2, "z": None, "a": [True, 1.0, 1e20, 1e-7, {}]}}}]}
plain = [{"role": "user", "content": "  Hi <there> & \"you\"!\n"}, {"role": "assistant", "content": "Hello.\n"}, {"role": "user", "content": "naïve 日本 😀"}]
system = [{"role": "system", "content": " Be brief. "}, *plain]
tooling = [*system, call, {"role": "tool", "content": "{\"ok\":true}"}]
multi = [plain[0], {"role": "assistant", "tool_calls": [{"name": "a", "arguments": {"x": "1 \"é\"", "n": 2}}, {"name": "b", "arguments": "{\"raw\":true}"}]}, {"role": "tool", "content": "{\"ok\":true}"}, {"role": "tool", "content": "[]"}, plain[1], plain[2]]
thinking = [plain[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}, plain[2], {"role": "assistant", "content": "<think>\nso\n</think>\n\nBye"}, {"role": "tool", "content": "x"}]
values = [{"role": "user", "content": "banana", "extra": {"z": 1, "a": {"b": [1.5, None, True, "é<&'\">"]}, "k": "\x1f\x7f😀", "f": 3.0}}]
config = json.loads((DEMO / "tokenizer_config.json").read_text())
tokens = {"bos_token": "<s>", "eos_token": "</s>"}
cases = []
for name, template, chats in [
    ("demo", config["chat_template"], [(plain, {}), (system, {}), (multi, {})]),
    ("chatml", CHATML, [(plain, {}), (system, {})]),
    ("llama3", LLAMA3_CHAT, [(plain, {}), (system, {"tools": [weather, weather]}), (tooling, {"tools": [weather]}), (multi, {})]),
    ("mistral", MISTRAL, [(plain, {}), (system, {})]),
    ("think", THINK, [(thinking, {}), (thinking, {"enable_thinking": False}), (plain, {"enable_thinking": True})]),
    ("values", VALUES, [(values, {})]),
    ("macro", MACRO, [(system, {}), (system[:1], {"tools": [weather]})]),
]:
    for messages, options in chats:
        for generate in (False, True):
            case = {"name": name, "template": template, "messages": messages, "add_generation_prompt": generate, **options}
            try:
                rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=generate, **options, **tokens)
                case["text"] = rendered[0]
            except Exception as error:
                case["error"] = str(error)
            cases.append(case)
(OUT / "chat.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
