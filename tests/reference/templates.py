"""Chat templates in the manner of the families that are around, and small ones for each construct that such templates use."""

FAMILIES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "chatml-default-system": "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}{% for message in messages -%}\n<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\n{%- if add_generation_prompt -%}\n<|im_start|>assistant\n{%- endif %}",
    "llama-2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if loop.index0 == 0 and system_message != false %}
        {%- set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {%- else %}
        {%- set content = message['content'] %}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content | trim + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + content | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "llama-3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "llama-3.1": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message comes first. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n"}}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Given the following functions, respond with JSON.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
            {{- "<|python_tag|>" + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val + '"' }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- endif %}
            {%- endfor %}
            {{- ")" }}
        {%- else  %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
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
""",
    "mistral-old": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "mistral-v3": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- ', "id": "' + 'abcdefghi' + '"}' }}
            {%- else %}
                {{- ', "id": "' + tool_call.id + '"}' }}
            {%- endif %}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
""",
    "mistral-tekken": """{%- set today = strftime_now("%Y-%m-%d") %}
{%- set default_system_message = "You are a model. The current date is " + today + ".\\n\\nWhen unsure, say so (e.g. \\"What are some good restaurants around me?\\" => \\"Where are you?\\")" %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set system_message = messages[0]['content'] %}
    {%- else %}
        {%- set system_message = messages[0]['content'][0]['text'] %}
    {%- endif %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = default_system_message %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}
{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {%- if message['content'] is string %}
            {{- '[INST]' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST]' }}
            {%- for block in message['content'] %}
                {%- if block['type'] == 'text' %}
                    {{- block['text'] }}
                {%- elif block['type'] in ['image', 'image_url'] %}
                    {{- '[IMG]' }}
                {%- else %}
                    {{- raise_exception('Only text and image blocks are supported in message content!') }}
                {%- endif %}
            {%- endfor %}
            {{- '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'system' %}
        {{- '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user, system and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}""",
    "gemma-2": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "gemma-3": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
""",
    "qwen-2.5": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\nYou may call one or more functions.\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\nReturn <tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "qwen-3": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "phi-3": "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi-4-tools": "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + (message['content'] or '') + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "command-r": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'You are Command-R.' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
    "command-r-tools": """{%- macro json_to_python_type(json_spec) %}
{%- set basic_type_map = { "string": "str", "number": "float", "integer": "int", "boolean": "bool" } %}
{%- if basic_type_map[json_spec.type] is defined %}
{{- basic_type_map[json_spec.type] }}
{%- elif json_spec.type == "array" %}
{{- "List[" +  json_to_python_type(json_spec.items) + "]"}}
{%- elif json_spec.type == "object" %}
{%- if json_spec.additionalProperties is defined %}
{{- "Dict[str, " + json_to_python_type(json_spec.additionalProperties) + ']'}}
{%- else %}
{{- "Dict" }}
{%- endif %}
{%- elif json_spec.type is iterable %}
{{- "Union[" }}
{%- for t in json_spec.type %}
{{- json_to_python_type({"type": t}) }}
{%- if not loop.last %}
{{- "," }}
{%- endif %}
{%- endfor %}
{{- "]" }}
{%- else %}
{{- "Any" }}
{%- endif %}
{%- endmacro %}
{%- macro old_tool_parser(tools) %}
{%- for tool in tools %}
{%- if loop.index0 != 0 %}
{{- '\\n\\n' }}
{%- endif %}
{{- '```python\\ndef ' + tool.function.name + '(' }}
{%- for param_name, param_fields in tool.function.parameters.properties|items %}
{%- if loop.index0 != 0 %}
{{- ', '}}
{%- endif %}
{{- param_name + ": " }}
{%- if not (param_name in tool.function.parameters.required) %}
{{- 'Optional[' + json_to_python_type(param_fields) + '] = None'}}
{%- else %}
{{- json_to_python_type(param_fields) }}
{%- endif %}
{%- endfor %}
{{- ') -> List[Dict]:\\n    \"\"\"'}}
{{- tool.function.description }}
{{- '\\n    \"\"\"\\n    pass\\n```' }}
{%- endfor %}
{%- endmacro %}
{{- bos_token }}{{ old_tool_parser(tools or []) }}
{%- for message in messages %}{% if message.content %}|{{ message.role }}: {{ message.content }}{% endif %}{%- endfor %}""",
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}{{'<|Assistant|><|tool▁calls▁begin|>' + tool['type'] + '<|tool▁sep|>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] | tojson + '\\n' + '```'}}{%- set ns.is_first = true -%}{%- else %}{{'\\n' + tool['type']}}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'<|tool▁outputs▁end|>' + message['content'] + '<|end|>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|Assistant|>' + content + '<|end|>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<|tool▁outputs▁begin|>' + message['content']}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n' + message['content']}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<|tool▁outputs▁end|>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}""",
    "granite": """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = "Knowledge Cutoff Date: April 2024.\nToday's Date: " + strftime_now('%B %d, %Y') + ".\nYou are Granite." %}{%- if tools and documents %}{%- set system_message = system_message + " You have tools and documents." %}{%- elif tools %}{%- set system_message = system_message + " You have tools." %}{%- elif documents %}{%- set system_message = system_message + " Use the documents." %}{%- endif %}{%- set loop_messages = messages %}{%- endif %}{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>
' }}
{%- if tools %}
    {{- '<|start_of_role|>tools<|end_of_role|>' }}
    {{- tools | tojson(indent=4) }}
    {{- '<|end_of_text|>
' }}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + (message['content'] | default('', true)) + '<|end_of_text|>
' }}
    {%- if loop.last and add_generation_prompt %}
            {{- '<|start_of_role|>assistant' }}
            {%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}
            {{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}""",
    "smollm-2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "smollm-3": """{# Thinking is on unless it is switched off #}
{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{%- if enable_thinking -%}{%- set reasoning_mode = "/think" -%}{%- else -%}{%- set reasoning_mode = "/no_think" -%}{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}
    {%- set reasoning_mode = "/no_think" -%}
  {%- elif "/think" in system_message -%}
    {%- set reasoning_mode = "/think" -%}
  {%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "## Metadata\\n\\n" -}}
{%- set today = strftime_now("%d %B %Y") -%}
{{- "Today Date: " ~ today ~ "\\n" -}}
{{- "Reasoning Mode: " + reasoning_mode + "\\n\\n" -}}
{{- "## Custom Instructions\\n\\n" -}}
{%- if custom_instructions -%}
  {{- custom_instructions + "\\n\\n" -}}
{%- else -%}
  {{- "You are a helpful AI assistant.\\n\\n" -}}
{%- endif -%}
{%- if xml_tools or python_tools or tools -%}
  {{- "### Tools\\n\\n" -}}
  {%- set ns = namespace(xml_tool_string="<tools>\\n") -%}
  {%- for tool in tools[:] -%}
    {%- set ns.xml_tool_string = ns.xml_tool_string ~ (tool | string) ~ "\\n" -%}
  {%- endfor -%}
  {{- ns.xml_tool_string + "</tools>\\n" -}}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\\n"  + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if reasoning_mode == "/think" -%}
            {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- elif message.role == "tool" -%}
        {{ "<|im_start|>" + "user\\n"  + content + "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if reasoning_mode == "/think" -%}
        {{ "<|im_start|>assistant\\n" }}
    {%- else -%}
        {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n"  }}
    {%- endif -%}
{%- endif -%}
""",
    "hermes-tool-use": """{%- macro json_to_python_type(json_spec) %}
    {%- set basic_type_map = {
    "string": "str",
    "number": "float",
    "integer": "int",
    "boolean": "bool"
} %}

    {%- if basic_type_map[json_spec.type] is defined %}
        {{- basic_type_map[json_spec.type] }}
    {%- elif json_spec.type == "array" %}
        {{- "list[" +  json_to_python_type(json_spec|items) + "]" }}
    {%- else %}
        {{- "Any" }}
    {%- endif %}
{%- endmacro %}
{{- bos_token }}
{{- '<|im_start|>system\\n' }}
{{- "You are a function calling AI model. Here are the available tools: <tools> " }}
{%- for tool in tools %}
    {%- if tool.function is defined %}
        {%- set tool = tool.function %}
    {%- endif %}
    {{- '{"type": "function", "function": ' }}
    {{- '{"name": "' + tool.name + '", ' }}
    {{- '"description": "' + tool.name + '(' }}
    {%- for param_name, param_fields in tool.parameters.properties|items %}
        {{- param_name + ": " + json_to_python_type(param_fields) }}
        {%- if not loop.last %}
            {{- ", " }}
        {%- endif %}
    {%- endfor %}
    {{- ")" }}
    {%- if tool.return is defined %}
        {{- " -> " + json_to_python_type(tool.return) }}
    {%- endif %}
    {{- " - " + tool.description + "\\n\\n" }}
    {%- for param_name, param_fields in tool.parameters.properties|items %}
        {%- if loop.first %}
            {{- "    Args:\\n" }}
        {%- endif %}
        {{- "        " + param_name + "(" + json_to_python_type(param_fields) + "): " + param_fields.description|default('?')|trim }}
    {%- endfor %}
    {{- '", "parameters": ' }}
    {%- if tool.parameters.properties | length == 0 %}
        {{- "{}" }}
    {%- else %}
        {{- tool.parameters|tojson }}
    {%- endif %}
    {{- "}" }}
    {%- if not loop.last %}
        {{- "\\n" }}
    {%- endif %}
{%- endfor %}
{{- " </tools>" }}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role == "user" or message.role == "system" or (message.role == "assistant" and message.tool_calls is not defined) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
    {%- for tool_call in message.tool_calls %}
       {{- '\\n<tool_call>\\n' }}           {%- if tool_call.function is defined %}
            {%- set tool_call = tool_call.function %}
        {%- endif %}
        {{- '{' }}
        {{- '"name": "' }}
        {{- tool_call.name }}
        {{- '"' }}
        {{- ', '}}
        {%- if tool_call.arguments is defined %}
            {{- '"arguments": ' }}
            {%- if tool_call.arguments is string %}
                {{- tool_call.arguments }}
            {%- else %}
                {{- tool_call.arguments|tojson }}
            {%- endif %}
        {%- endif %}
         {{- '}' }}
            {{- '\\n</tool_call>' }}
    {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.previtem and loop.previtem.role != "tool" %}
            {{- '<|im_start|>tool\\n' }}
        {%- endif %}
        {{- '<tool_response>\\n' }}
        {{- message.content }}
        {%- if not loop.last %}
            {{- '\\n</tool_response>\\n' }}
        {%- else %}
            {{- '\\n</tool_response>' }}
        {%- endif %}
        {%- if not loop.last and loop.nextitem.role != "tool" %}
            {{- '<|im_end|>' }}
        {%- elif loop.last %}
            {{- '<|im_end|>' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "vicuna": "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'].strip() + ' ' %}{% set messages = messages[1:] %}{% else %}{% set system_message = 'A chat between a curious user and an artificial intelligence assistant. ' %}{% endif %}{{ system_message }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'].strip() + ' ' }}{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'].strip() + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "falcon": "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if message['role'] == 'system' %}{{ 'System: ' }}{% elif message['role'] == 'user' %}{{ 'User: ' }}{% elif message['role'] == 'assistant' %}{{ 'Falcon: ' }}{% endif %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '\n' + 'Falcon:' }}{% endif %}",
    "olmo": "{{ eos_token }}{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "yi": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}{% if system_message is defined %}{{ system_message }}{% endif %}{% for message in messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n<|im_start|>assistant\\n' }}{% elif message['role'] == 'assistant' %}{{ content + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}",
    "internlm": "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] | string + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "tinyllama": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "alpaca": "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}### Instruction:\n{{ m.content|trim }}\n\n{% elif m.role == 'assistant' %}### Response:\n{{ m.content|trim }}{{ eos_token if not loop.last else '' }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}",
    "openchat": "{{ bos_token }}{% for message in messages %}{% if message['role'] in ['user', 'assistant'] %}{% set content = 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + '<|end_of_turn|>' %}{% elif message['role'] == 'system' %}{% set content = message['content'] + '<|end_of_turn|>' %}{% else %}{{ raise_exception('Only user, assistant, and system messages are supported!') }}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}",
    "stablelm": "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + eos_token }}\n{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt else '' }}",
    "starling-capitalise": "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content | default('') | string | replace('\\n', ' ') }}{{ '\\n' if not loop.last }}{% endfor %}",
    "functionary": """{%- for message in messages %}{% if message['role'] == 'tool' %}<|from|>{{ message.name | default('tool') }}
<|content|>{{ message.content }}
{% elif message.tool_calls %}{% for call in message['tool_calls'] %}<|recipient|>{{ call['function']['name'] }}
<|content|>{{ call['function']['arguments'] | tojson(separators=(',', ':')) }}{{ '<|stop|>' if loop.last else '' }}
{% endfor %}{% else %}<|from|>{{ message['role'] }}
<|content|>{{ message['content'] }}
{% endif %}{% endfor %}{% if add_generation_prompt %}<|from|>assistant
<|recipient|>{% endif %}""",
    "gpt-oss": """{%- macro render_typescript_type(param_spec, required_params, is_nullable=false) -%}
    {%- if param_spec.type == "array" -%}
        {%- if param_spec['items'] -%}
            {{- render_typescript_type(param_spec['items'], required_params) + "[]" }}
        {%- else -%}
            {{- "any[]" }}
        {%- endif -%}
        {%- if is_nullable -%}{{- " | null" }}{%- endif -%}
    {%- elif param_spec.type is defined and param_spec.type is iterable and param_spec.type is not string and param_spec.type is not mapping and param_spec.type[0] is defined -%}
        {%- if param_spec.type | length > 1 -%}{{- param_spec.type | join(" | ") }}{%- else -%}{{- param_spec.type[0] }}{%- endif -%}
    {%- elif param_spec.type == "string" -%}
        {%- if param_spec.enum -%}{{- '"' + param_spec.enum|join('" | "') + '"' -}}{%- else -%}{{- "string" }}{%- endif -%}
    {%- elif param_spec.type in ("number", "integer") -%}{{- "number" }}
    {%- elif param_spec.type == "boolean" -%}{{- "boolean" }}
    {%- else -%}{{- "any" }}{%- endif -%}
{%- endmacro -%}
{%- macro render_tool_namespace(namespace_name, tools) -%}
    {{- "## " + namespace_name + "\\n\\nnamespace " + namespace_name + " {\\n\\n" }}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "// " + tool.description + "\\n" }}
        {{- "type "+ tool.name + " = " }}
        {%- if tool.parameters and tool.parameters.properties %}
            {{- "(_: {\\n" }}
            {%- for param_name, param_spec in tool.parameters.properties.items() %}
                {%- if param_spec.description %}{{- "// " + param_spec.description + "\\n" }}{%- endif %}
                {{- param_name }}
                {%- if param_name not in (tool.parameters.required or []) -%}{{- "?" }}{%- endif -%}
                {{- ": " }}{{- render_typescript_type(param_spec, tool.parameters.required or []) }}
                {%- if param_spec.default is defined -%}{{- ", // default: " + param_spec.default|tojson }}{%- else -%}{{- ",\\n" }}{%- endif -%}
            {%- endfor %}
            {{- "}) => any;\\n\\n" }}
        {%- else -%}{{- "() => any;\\n\\n" }}{%- endif -%}
    {%- endfor %}
    {{- "} // namespace " + namespace_name }}
{%- endmacro -%}
{%- if tools -%}{{- render_tool_namespace("functions", tools) }}{%- endif -%}
{%- set last_tool_call = namespace(name=none) %}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "tool_calls" in message %}
            {%- set tool_call = message.tool_calls[0] %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- "<|start|>assistant to=functions." + tool_call.name + "<|message|>" + tool_call.arguments|tojson + "<|call|>" }}
            {%- set last_tool_call.name = tool_call.name %}
        {%- else %}{{- "<|start|>assistant<|message|>" + message.content + "<|end|>" }}{%- set last_tool_call.name = none %}{%- endif %}
    {%- elif message.role == 'tool' -%}
        {%- if last_tool_call.name is none %}{{- raise_exception("Message has tool role, but there was no previous assistant message with a tool call!") }}{%- endif %}
        {{- "<|start|>functions." + last_tool_call.name + " to=assistant<|message|>" + message.content|tojson + "<|end|>" }}
    {%- else -%}{{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""",
    "exaone": "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\n' }}{% endif %}{{ '[|' + message['role'] + '|]' + message['content'] }}{% if message['role'] == 'user' %}{{ '\n' }}{% else %}{{ '[|endofturn|]\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
    "baichuan": "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<reserved_106>' + message['content']}}{% elif message['role'] == 'assistant' %}{{ '<reserved_107>' + message['content']}}{% elif message['role'] == 'system' and loop.index == 1 %}{{ message['content'] ~ '' }}{% endif %}{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '<reserved_107>' }}{% endif %}",
    "glm-4": """[gMASK]<sop>{% for item in messages %}{% if item['tools'] is defined %}<|system|>
{{ item['tools'] | tojson(indent=4) }}{% endif %}{% if item['content'] %}<|{{ item['role'] }}|>{{ item['metadata'] }}
{{ item['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}""",
    "jamba": """{%- set ns = namespace(message_count=0, is_last_checked_defined=False) %}
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user' or message['role'] == 'assistant') and (message['content'] is string) and message['content']|length > 3 and not message['content'].isspace() %}
        {%- set ns.message_count = ns.message_count + 1 %}
    {%- endif %}
    {{- '<|bom|>' + message.role + ' ' + (message.content or '') ~ '<|eom|>' }}
{%- endfor %}
{{- ns.message_count }}/{{ ns.is_last_checked_defined }}/{{ messages | map(attribute='role') | join(',') }}""",
    "nemotron": """{{'<extra_id_0>System'}}{% for message in messages %}{% if message['role'] == 'system' %}{{'\n' + message['content'].strip()}}{% if tools or contexts %}{{'\n'}}{% endif %}{% endif %}{% endfor %}{% if tools %}{% for tool in tools %}{{ '\n<tool> ' + tool|tojson + ' </tool>' }}{% endfor %}{% endif %}{{'\n\n'}}{% for message in messages %}{% if message['role'] == 'user' %}{{ '<extra_id_1>User\n' + message['content'].strip() + '\n' }}{% elif message['role'] == 'assistant' %}{{ '<extra_id_1>Assistant\n' + (message['content'] or '').strip() + '\n' }}{% elif message['role'] == 'tool' %}{{ '<extra_id_1>Tool\n' + message['content'].strip() + '\n' }}{% endif %}{% endfor %}{%- if add_generation_prompt %}{{'<extra_id_1>Assistant\n'}}{%- endif %}""",
}

# name -> template; each is rendered with the same conversations.
CONSTRUCTS = {
    "percent": "{{ '%s|%5d|%-5s|%05.2f|%x|%%' % (messages[0].role, messages | length, 'ab', 3.14159, 255) }} {{ '%s' % messages | length }} {{ '<%s>' % 'x' }} {{ 'n=%d' % 7 }} {{ '%(a)s-%(b)03d' % {'a': 'q', 'b': 7} }} {% for m in messages %}{{ loop.index % 2 }}{{ 'odd' if loop.index % 2 else 'even' }}{% endfor %} {{ 2 + 7 % 4 * 3 }} {{ -7 % 3 }} {{ (1, 2)[5 % 2] }} {{ 7.5 % 2 }} {{ '%s' % none }}",
    "percent-format-variable": "{% set pattern = '%s: %s;' %}{% for m in messages %}{{ pattern % (m.role, m.role | length) }}{% endfor %}{{ ('a' ~ '%s') % 1 }}{{ '%s' % [1, 'a'] }}{{ '%.3s|%+d|%e|%g' % ('abcdef', 5, 12345.678, 0.0001) }}{% if '%s' % 'a' == 'a' and not 5 % 5 %}yes{% endif %}{{ ['%s' % 1, 6 % 4] | join('/') }}{{ {'k': '%d' % 3}['k'] }}{{ '%s' % ('a' if false else 'b') }}{{ '%s' % 'a' | upper }}",
    "strip-and-split": "{{ '  a b  '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'a,b,c'.rsplit(',') }}|{{ ' a  b '.rsplit() }}|{{ ' a  b c '.rsplit(none, 1) }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a b  c'.split() }}|{{ 'a b  c'.split(' ') }}|{{ 'a-b-c'.partition('-') }}|{{ 'a-b-c'.rpartition('-') }}|{{ 'abc'.partition('-') }}|{{ 'abc'.rpartition('-') }}|{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x'.removeprefix('y') }}|{{ 'x.txt'.removesuffix('.txt') }}|{{ 'x'.removesuffix('') }}|{{ 'a\\nb\\r\\nc'.splitlines() }}|{{ 'a\\nb'.splitlines(true) }}|{{ ''.split(',') }}",
    "string-methods": "{{ 'abc'.upper() }}{{ 'ABC'.lower() }}{{ 'hello world'.title() }}{{ 'hELLO'.capitalize() }}{{ 'aBc'.swapcase() }}{{ 'ß'.casefold() }}|{{ 'abc'.find('c') }}{{ 'abc'.find('z') }}{{ 'abcabc'.rfind('b') }}{{ 'abcabc'.find('b', 2) }}{{ 'abc'.index('b') }}{{ 'abcb'.rindex('b') }}{{ 'banana'.count('an') }}|{{ 'a'.center(5, '*') }}{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}|{{ 'x=1'.replace('=', ':') }}{{ 'aaa'.replace('a', 'b', 2) }}|{{ 'abc'.startswith('ab') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('c') }}{{ 'abc'.startswith('b', 1) }}|{{ '12'.isdigit() }}{{ '1a'.isalnum() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ 'Ab'.isupper() }}{{ 'Ab'.istitle() }}{{ 'a_b'.isidentifier() }}{{ '1'.isdecimal() }}|{{ '-'.join(['a', 'b']) }}{{ 'a\\tb'.expandtabs(4) }}{{ '{} {x} {0}'.format(1, x=2) if false else '{} {x}'.format(1, x=2) }}",
    "joiner-cycler": "{% set comma = joiner(', ') %}{% for m in messages %}{{ comma() }}{{ m.role }}{% endfor %}{% set j = joiner() %}{{ j() }}{{ j() }} {% set c = cycler('a', 'b', 'c') %}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% do c.reset() if false %}{{ c.reset() or '' }}{{ c.next() }}" .replace("{% do c.reset() if false %}", ""),
    "tests": "{% for v in [none, true, 1, 1.5, 's', [1], (1, 2), {'a': 1}, undefined_name, raise_exception, range(3)] %}{{ v is none }},{{ v is boolean }},{{ v is number }},{{ v is integer }},{{ v is float }},{{ v is string }},{{ v is sequence }},{{ v is iterable }},{{ v is mapping }},{{ v is defined }},{{ v is callable }},{{ v is true }};{% endfor %}{{ strftime_now is callable }}{{ messages is not callable }}{{ 4 is divisibleby 2 }}{{ 3 is odd }}{{ 4 is even }}{{ 'a' is in 'abc' }}{{ 1 is eq 1 }}{{ 1 is sameas 1 }}{{ 'A' is upper }}{{ 'a' is lower }}{{ 5 is gt 3 }}{{ 5 is lt(3) }}{{ messages is sameas messages }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ none is sameas none }}{{ x is undefined }}",
    "printing": "{{ none }} {{ true }} {{ false }} {{ [1, 'a', none, true, 1.0, [\"it's\"]] }} {{ {'a': 1, 'b': [none]} }} {{ (1, 'b') }} {{ (1,) }} {{ () }} {{ 1.0 }} {{ 1e20 }} {{ 1.5e-7 }} {{ 10 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 'a\\nb' }} {{ ['a\\nb', 'é', '\"', \"'\"] }} {{ [] }} {{ {} }} {{ 'x' ~ none ~ true ~ 1.0 ~ [1, none] }} {{ [none, true] | join(',') }} {{ none | string }} {{ true | string ~ 1 }} {{ {'a': none} | string }} {{ undefined_thing }} {{ 3 | float }} {{ '3' | int + 1 }} {{ 'x' | int }} {{ 3.7 | int }} {{ 3.14159 | round(2) }} {{ 2.5 | round }} {{ -3 | abs }} {{ messages }} {{ tools }}",
    "slices": "{{ 'abcdef'[::-1] }}{{ 'abcdef'[1:4] }}{{ 'abcdef'[-2:] }}{{ 'abcdef'[:-1] }}{{ 'abcdef'[::2] }}{{ 'abcdef'[4:1:-1] }}{{ 'abcdef'[-1] }}|{{ [1, 2, 3, 4][::-1] }}{{ [1, 2, 3, 4][1:] }}{{ [1, 2, 3, 4][-3:-1] }}{{ [1, 2, 3, 4][10:] }}{{ [1, 2, 3, 4][::-2] }}{{ (1, 2, 3)[1:] }}|{{ messages[-1].role }}{{ messages[:1] | length }}{{ messages[::-1][0]['role'] }}{{ [1, 2][5] is defined }}{{ 'abc'[1] }}{{ messages[0]['nothing'] is defined }}{{ messages[0].nothing }}",
    "arithmetic": "{{ 7 // 2 }},{{ -7 // 2 }},{{ 7 // -2 }},{{ 7 % -3 }},{{ 7.0 // 2 }},{{ 1 / 4 }},{{ 2 ** 3 ** 2 }},{{ -2 ** 2 }},{{ 'ab' * 3 }},{{ 2 * 'x' }},{{ [1] * 2 }},{{ [1] + [2, 3] }},{{ (1,) + (2,) }},{{ 1 < 2 < 3 }},{{ 1 < 3 < 2 }},{{ 3 > 2 >= 2 != 1 }},{{ 1 == 1.0 }},{{ 'a' < 'b' }},{{ [1, 2] < [1, 3] }},{{ 1 if 0 else 2 }},{{ 'x' if false }},{{ not none }},{{ 1 and 2 }},{{ 0 or 'd' }},{{ none or false }},{{ '' and 1 }},{{ 1 in [1] and 2 not in [1] }},{{ 'k' in {'k': 1} }},{{ true + 1 }},{{ 5 - 2 - 1 }},{{ 1_000 }},{{ 0x10 if false else 16 }},{{ 1.5 + 1 }},{{ 10 - 2 * 3 }},{{ +5 }},{{ 'a' 'b' }}",
    "dict-methods": "{% set d = {'b': 2, 'a': 1, 'C': 3} %}{{ d.items() | list }}{{ d.keys() | list }}{{ d.values() | list }}{{ d.get('a') }}{{ d.get('z') }}{{ d.get('z', 'def') }}{{ d | dictsort }}{{ d | dictsort(case_sensitive=true) }}{{ d | dictsort(by='value', reverse=true) }}{{ d | length }}{{ d | list }}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{{ d.b }}{{ d['b'] }}{{ dict(x=1, y='z') }}{{ dict(d, q=9) | length }}{{ d.copy() | length }}{{ d | items | list | first }}{{ 'a' in d }}{{ d == {'a': 1, 'b': 2, 'C': 3} }}{{ {'items': 5}.items is defined }}{{ {'items': 5}['items'] }}",
    "list-methods": "{% set l = [3, 1, 2, 1] %}{{ l.index(1) }}{{ l.count(1) }}{{ l | sort }}{{ l | sort(reverse=true) }}{{ l | unique | list }}{{ l | min }}{{ l | max }}{{ l | sum }}{{ l | first }}{{ l | last }}{{ l | reverse | list }}{{ l | length }}{{ l.copy() }}{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true) }}{{ [1, 2, 3, 4, 5] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 'x') | list }}{{ [1, 2, 3, 4, 5] | slice(2) | list }}{{ [[1, 2], [3]] | sum(start=[]) }}{{ [{'p': 2}, {'p': 1}] | sort(attribute='p') | map(attribute='p') | list }}{{ range(5) | list }}{{ range(1, 10, 3) | list }}{{ range(3, 0, -1) | list }}{{ 'abc' | list }}{{ 'abc' | reverse }}{{ 'cab' | sort }}{{ [1, [2, 3]] | string }}",
    "mutation-is-refused": "{% set l = [] %}{{ l.append(1) }}",
    "update-is-refused": "{% set d = {} %}{% set _ = d.update({'a': 1}) %}{{ d }}",
    "select": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | selectattr('role', '==', 'user') | map(attribute='role') | list }}{{ messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | join('+') }}{{ messages | selectattr('tool_calls') | list | length }}{{ messages | selectattr('tool_calls', 'defined') | list | length }}{{ [1, 2, 3, 4] | select('odd') | list }}{{ [1, 2, 3, 4] | reject('gt', 2) | list }}{{ [0, 1, '', 'a', none] | select | list }}{{ ['a', 'b'] | map('upper') | list }}{{ [1, 2] | map('string') | list }}{{ ['a ', ' b'] | map('trim') | join('|') }}{{ messages | map(attribute='nothing', default='-') | list | length }}{{ messages | groupby('role') | map(attribute=0) | list }}{% for role, group in messages | groupby('role') %}{{ role }}{{ group | length }};{% endfor %}{{ [{'a': {'b': 1}}] | map(attribute='a.b') | list }}",
    "loops": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.cycle('x', 'y') }}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if not loop.last else '-' }}{{ loop.changed(m.role) }};{% else %}none{% endfor %}{% for a in [] %}x{% else %}empty{% endfor %}{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% for n in [1, 2, 3, 4, 5] if n is odd %}{{ n }}{{ loop.length }}{% endfor %}{% for n in range(10) %}{% if n == 2 %}{% continue %}{% endif %}{% if n == 5 %}{% break %}{% endif %}{{ n }}{% endfor %}{% for t in [{'n': 1, 'c': [{'n': 2, 'c': []}]}] recursive %}{{ t.n }}{{ loop(t.c) if t.c }}{{ loop.depth0 }}{% endfor %}{% for i in [1] %}{% for j in [1, 2] %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }}{% endfor %}",
    "scopes": "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% set ns = namespace(n=0, l=[]) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set block %}in {{ x }}{% endset %}{{ block }}{% set up | upper %}abc{% endset %}{{ up }}{% with q = 5, r = 6 %}{{ q }}{{ r }}{% endwith %}{{ q is defined }}{% filter upper %}shout {{ x }}{% endfilter %}{% raw %}{{ raw }}{% endraw %}{# comment #}",
    "generation-scope": "{% set x = 'out' %}{% for m in messages %}{% generation %}{% set x = 'in' %}{{ m.role }}{{ x }}\n{% endgeneration %}\n{{ x }}\n{%- generation -%} a {%- endgeneration %} b{% endfor %}",
    "macros": "{% macro tag(name, text='', *args, **kwargs) %}<{{ name }}{% for k, v in kwargs | dictsort %} {{ k }}={{ v }}{% endfor %}>{{ text }}{{ args | length if args }}{{ caller() if caller }}</{{ name }}>{% endmacro %}".replace(", *args, **kwargs", "").replace("{% for k, v in kwargs | dictsort %} {{ k }}={{ v }}{% endfor %}", "").replace("{{ args | length if args }}", "") + "{{ tag('a') }}{{ tag('b', 'x') }}{{ tag(text='k', name='c') }}{% call tag('d') %}inner{% endcall %}{% macro fact(n) %}{{ n if n <= 1 else n * (fact(n - 1) | int) }}{% endmacro %}{{ fact(5) }}{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{% macro each(items) %}{% for i in items %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(v) each([1, 2]) %}[{{ v }}]{% endcall %}{{ tag is defined }}{{ tag.name }}",
    "macro-scope": "{% set outside = 'o' %}{% macro show() %}{{ outside }}{{ messages | length }}{% endmacro %}{{ show() }}{% for m in messages %}{% macro inloop() %}{{ m.role }}{% endmacro %}{{ inloop() }}{% endfor %}",
    "tojson": "{{ {'b': 1, 'a': [1.0, none, true, 'é\\n\"<&>\\'']} | tojson }}{{ {'b': 1, 'a': 2} | tojson(indent=2, sort_keys=true) }}{{ [1, {'a': []}] | tojson(separators=(',', ':')) }}{{ 'é' | tojson(ensure_ascii=true) }}{{ {'b': [1, {'a': none}]} | tojson(false, 1) }}{{ [1] | tojson(false, none, (',', ':')) }}{{ [] | tojson(indent=4) }}{{ 1e16 | tojson }}{{ 0.1 | tojson }}{{ (1, 2) | tojson }}{{ 'x' | tojson(indent='--') }}{{ [[1]] | tojson(indent='--') }}{{ {1: 2} | tojson }}{{ tools | tojson }}",
    "filters": "{{ 'hello world' | title }}{{ 'HeLLo' | capitalize }}{{ 'a' | upper }}{{ ' x ' | trim }}{{ 'xxaxx' | trim('x') }}{{ 'hello' | replace('l', 'L') }}{{ 'hello' | replace('l', 'L', 1) }}{{ 'a\\nb' | indent }}{{ 'a\\nb' | indent(2, true) }}{{ 'a\\n\\nb' | indent(2) }}{{ 'a\\nb' | indent(width=3, first=true, blank=true) }}{{ 'x' | default('d') }}{{ nothing | default('d') }}{{ '' | default('d', true) }}{{ none | default('n') }}{{ nothing | d('e') }}{{ 'hello world foo' | wordcount }}{{ 'abcdefghij' | truncate(5) }}{{ 'hello world foo' | truncate(12, false, '..') }}{{ '%s-%s' | format('a', 'b') }}{{ 'x' | center(5) }}|{{ ['a', 'b'] | join(', ') }}{{ [{'n': 1}, {'n': 2}] | join('-', attribute='n') }}{{ '<a>' | escape }}{{ '<a>' | e }}{{ '<a>' | safe }}{{ '5' | float }}{{ 5 | string | length }}{{ 'abc' | first }}{{ 'abc' | last }}{{ '<p>a</p>' | striptags }}",
    "whitespace": "  {% if true %}  \n  a\n  {%- if true -%}  b  {%- endif +%}  \n c {{- ' d ' -}} e\n{%+ if true %}f{% endif %}\n\n   {# comment #}\n  g\n{% for i in [1] -%}\n  h\n{%- endfor %}\n{{ 'i' }}\n{% set z = 1 %}\n\nj   {% endif %}\n\n",
    "whitespace-2": "\n{% for m in messages %}\n    {{ m.role }}\n    {% if m.role == 'user' %}\n        u\n    {% else %}\n        o\n    {% endif %}\n{% endfor %}\n\tend {% if add_generation_prompt %}go{% endif %} \n",
    "date": "{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%B %d, %Y') }}|{{ strftime_now('%A, %d %B %Y') }}|{{ strftime_now('%H:%M:%S') }}|{{ strftime_now('%I:%M %p') }}|{{ strftime_now('%y %j %U %W %w %u %a %e') }}|{{ strftime_now('%-d/%-m/%y') }}|{{ strftime_now('%F %T') }}|{{ strftime_now('%x %X') }}|{{ strftime_now('%c') }}|{{ strftime_now('100%%') }}|{{ strftime_now('%D %R %h %C %G %V') }}|{{ strftime_now('%-I %-H %-M %-S %-j') }}|{{ strftime_now('%s') | length > 5 }}|{{ strftime_now('%n%t') | length }}|{{ strftime_now('%f') | length }}|{{ strftime_now('%k %l %P') }}|{{ strftime_now('') }}",
    "none-and-undefined": "{{ messages[0].missing is defined }}{{ messages[0].missing }}{{ missing }}{{ missing is none }}{{ (missing or 'x') }}{{ missing | length }}{% for x in missing %}{{ x }}{% endfor %}{{ none is none }}{{ not missing }}{{ missing == none }}{{ missing == missing }}{{ [missing] | length }}",
    "undefined-attribute": "{{ missing.attribute }}",
    "undefined-plus": "{{ 'a' + missing }}",
    "none-plus": "{{ 'a' + none }}",
    "number-plus": "{{ 'a' + 1 }}",
    "none-attribute": "{{ none.x }}|{{ none.x is defined }}",
    "divide-by-zero": "{{ 1 // 0 }}",
    "missing-index": "{{ [1][3] }}|{{ {'a': 1}['b'] }}|{{ {'a': 1}.b }}",
    "unknown-filter": "{{ 'a' | nofilter }}",
    "unknown-test-unused": "{% if false %}{{ 'a' is notest }}{% endif %}x",
    "raise": "{{ raise_exception('no: ' ~ messages | length) }}",
    "raise-in-branch": "{% if messages | length > 99 %}{{ raise_exception('too long') }}{% endif %}fine",
    "strings": "{{ \"it's\" }}{{ 'say \"hi\"' }}{{ 'tab\\tnl\\n' }}{{ '\\u00e9\\x41' }}{{ 'back\\\\slash' }}{{ 'a' + \"b\" ~ 1 }}{{ '{% not a block %}' }}{{ '}}' }}{{ '{{' }}{{ \"%}\" }}{{ '#}' }}{{ 'multi\nline' }}{{ '\\'' }}{{ 'é' | length }}{{ '😀'[0] }}{{ 'naïve'.upper() }}",
    "line-comments": "{# a\nlong {{ comment }} #}a{#- b -#}  c  {#+ d #}\n{%- if true %}{# in #}x{% endif -%}  \n y",
    "in-operator": "{{ 'a' in 'cat' }}{{ 'z' not in 'cat' }}{{ 1 in (1, 2) }}{{ 'role' in messages[0] }}{{ 'tool_calls' in messages[-1] }}{{ messages[0].role in ['user', 'system'] }}{{ none in [none] }}{{ '' in 'x' }}{{ not 'a' in 'b' }}{{ messages[0] in messages }}",
    "conditional-chain": "{{ 'a' if false else 'b' if false else 'c' }}{{ ('x' if true else 'y') + 'z' }}{{ 'p' ~ ('q' if messages | length > 1 else 'r') }}{% set v = messages[0].content if messages[0].content is string else 'list' %}{{ v | length > 0 }}{% if messages | length == 1 %}one{% elif messages | length == 2 %}two{% else %}many{% endif %}{{ 'y' if messages and messages[-1].role == 'user' and not tools }}",
    "content-parts": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% elif m.content is sequence %}{% for part in m.content %}{{ part.text if part.type == 'text' else '<' ~ part.type ~ '>' }}{% endfor %}{% elif m.content is none %}(none){% endif %}|{% endfor %}",
    "tool-schema": "{% for t in tools or [] %}{% set f = t.function %}{{ f.name }}({% for p, s in f.parameters.properties.items() %}{{ p }}: {{ s.type }}{{ '' if p in f.parameters.required else '?' }}{% if s.enum is defined %} of {{ s.enum | join('|') }}{% endif %}{% if not loop.last %}, {% endif %}{% endfor %}){{ f.parameters | tojson(indent=2) }}\n{% endfor %}",
    "tool-calls-string": "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }} {{ c.function.arguments }} {{ c.id | default('no id') }}{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v if v is string else v | tojson }}</{{ k }}>{% endfor %}{% endfor %}{% endfor %}",
    "reverse-search": "{% set ns = namespace(last=-1) %}{% for m in messages | reverse %}{% if m.role == 'user' and ns.last < 0 %}{% set ns.last = loop.revindex0 %}{% endif %}{% endfor %}{{ ns.last }}{% for i in range(messages | length - 1, -1, -1) %}{{ messages[i].role[0] }}{% endfor %}{{ (messages | last).role }}{{ (messages | selectattr('role', 'equalto', 'user') | first).content is string }}",
    "think-split": "{% for m in messages if m.role == 'assistant' and m.content is string %}{% set parts = m.content.split('</think>', 1) %}{% if parts | length > 1 %}{{ parts[0].replace('<think>', '').strip() }}->{{ parts[1].lstrip() }}{% else %}{{ m.content.rsplit('\\n', 1)[-1] }}{% endif %};{% endfor %}",
    "include-is-refused": "{% include 'x' %}",
    "private-attributes": "{{ ''.__class__ }}",
    "big-range": "{{ range(100001) | length }}",
    "numbers": "{{ 12345678901234567890 }} {{ 1e3 }} {{ 1.0e-5 }} {{ 0.1 + 0.2 }} {{ 100000000000000000.0 }} {{ 3 * 1.0 }} {{ 7 / 7 }} {{ (10 / 4) | int }} {{ 1 == true }} {{ 5 | round(1) }} {{ 5.55 | round(1, 'floor') }} {{ 1.1 | round(0, 'ceil') }} {{ 3 | max if false else [3, 4] | max }} {{ '0x1f' | int(0, 16) }} {{ '10' | int(base=2) }} {{ 'abc' | int(-1) }} {{ 'abc' | float(2.5) }}",
    "globals": "{{ dict is callable }}{{ range is callable }}{{ namespace is callable }}{{ joiner is callable }}{{ cycler is callable }}{{ raise_exception is callable }}",
    "block-tag": "{% block a %}in block{% endblock %} after",
    "if-expression-filters": "{{ messages | length if messages else 0 }}{{ (messages | map(attribute='role') | list)[0] }}{{ messages | map(attribute='role') | unique | sort | join(',') }}{{ messages[1:] | length }}{{ [messages[0].role, 'x'] | join('-') | upper | replace('-', '_') }}{{ messages | map('length') | list }}{{ messages | map(attribute='content') | select('string') | map('length') | sum }}",
    "call-with-splat": "{{ '{}-{}'.format(*['a', 'b']) }}{{ dict(**{'a': 1}) }}{{ range(*[1, 3]) | list }}",
    "unpack": "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% set (p, q) = [4, 5] %}{{ p }}{{ q }}{% for k, v in {'x': [1, 2]} | items %}{{ k }}{{ v[0] }}{% endfor %}{% for i, m in [(0, 'a')] %}{{ i }}{{ m }}{% endfor %}",
    "format-filter": "{{ '%.2f' | format(3.14159) }}{{ '%s and %s' | format('a', 1) }}{{ '{:>5}|{:<5}|{:^5}|{:05.1f}'.format('a', 'b', 'c', 2.25) }}{{ '{0}{1}{0}'.format('x', 'y') }}{{ '{a}'.format(a=1) }}",
    "set-block-namespace": "{% set ns = namespace(t='') %}{% set ns.t %}[{{ messages | length }}]{% endset %}{{ ns.t }}{% set ns.u = ns.t ~ '!' %}{{ ns.u }}{{ ns.missing is defined }}",
    "string-comparisons": "{{ 'a' == 'a' and 'b' != 'c' }}{{ 'abc' < 'abd' }}{{ '10' == 10 }}{{ [1, 2] == [1, 2] }}{{ (1, 2) == [1, 2] }}{{ {'a': 1} == {'a': 1.0} }}{{ none == false }}{{ 0 == false }}{{ '' == none }}",
    "truthiness": "{% for v in ['', 'a', 0, 1, 0.0, [], [0], {}, {'a': 1}, none, false, (), ' '] %}{{ 'T' if v else 'F' }}{% endfor %}",
    "nested-loops-break": "{% for a in [1, 2, 3] %}{% for b in [1, 2, 3] %}{% if b == 2 %}{% break %}{% endif %}{{ a }}{{ b }} {% endfor %}{% if a == 2 %}{% break %}{% endif %}{% endfor %}",
    "loop-over-string": "{% for c in 'añb' %}{{ c }}.{% endfor %}{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}{% for a in {'a': 1}.items() %}{{ a[0] }}{{ a[1] }}{{ a }}{% endfor %}",
    "chained-filters": "{{ [3, 1, 2] | sort | reverse | list | join('<') }}{{ ' a ' | trim | upper | length }}{{ 'a,b' | replace(',', ' ') | title }}{{ ['x', 'y'] | map('upper') | join }}{{ [[1, 2], [3]] | map('length') | sum }}{{ ['b', 'a'] | sort | first }}",
    "set-in-if-in-loop": "{% set found = namespace(v=none) %}{% for m in messages %}{% if m.role == 'user' and found.v is none %}{% set found.v = m.content %}{% endif %}{% endfor %}{{ (found.v | string)[:5] }}",
    "ternary-without-else": "{{ 'x' if messages[0].role == 'nobody' }}|{{ ('a' if false) is defined }}|{{ ('a' if false) ~ 'b' }}",
    "tojson-nested": "{{ messages[-1] | tojson }}{{ {'m': messages[0].role, 'n': [1, 2.5, -0.0, 1e-7, 123456789012]} | tojson }}{{ 'a\\tb\\u2028é\\x7f/' | tojson }}{{ 'a' | tojson(indent=2) }}{{ {} | tojson(indent=2) }}{{ [{}] | tojson(indent=2) }}{{ {'z': 1, 'a': {'y': 2, 'b': 3}} | tojson(sort_keys=True) }}",
    "capitalised-constants": "{{ True }}{{ False }}{{ None }}{{ true and not False }}{{ None is none }}",
    "default-chain": "{{ a | default(b) | default('c') }}{{ (a or b or 'd') }}{{ a is defined and a }}{{ a.b is defined if a is defined else 'no' }}{{ none | default('x', true) }}{{ none | default('x', boolean=true) }}",
    "trim-lstrip-mixed": "{%- if true -%}\n  a\n{%- endif %}\n\n  {%- if true %}\n  b\n  {%- endif -%}\n  c\n  {{- 'd' }}\n  {{ 'e' -}}\n  f\n\t{% if true %}\n\tg\n\t{% endif %}\n",
    "escapes": "{{ 'a\\\\nb' }}{{ '\\x41\\u0042\\U00000043' }}{{ 'a\\'b' }}{{ \"a\\\"b\" }}{{ 'a\\/b' }}{{ '\\r\\n\\t' | length }}{{ 'a\\qb' }}",
    "filter-block-and-call": "{% filter trim | upper %}  hi {{ messages | length }} {% endfilter %}{% filter replace('a', 'b') %}banana{% endfilter %}",
    "integer-strings": "{{ '12' | int + 1 }}{{ 12 | string + '1' }}{{ '1' * 3 }}{{ ('1' * 3) | int * 2 }}{{ 7 | float }}{{ 1.0 | int }}{{ '1.9' | int }}{{ true | int }}{{ '' | int }}{{ none | int }}",
    "attribute-of-item": "{{ messages[0]['role'] }}{{ messages[0].get('name', 'anon') }}{{ messages[0].get('content') is string }}{{ messages[0].keys() | list }}{{ (messages[0].items() | list)[0] }}{{ messages[0]['content'][0] is defined }}",
    "not-precedence": "{{ not 1 == 2 }}{{ not true and false }}{{ not (true and false) }}{{ 1 + 1 == 2 and not false }}{{ 'a' not in ['b'] and 'b' in ['b'] }}{{ not 'a' is defined }}{{ 2 is not odd }}{{ none is not defined }}",
    "wide-join": "{{ messages | map(attribute='role') | join(' -> ') }}{{ ['a', 1, none, true] | join('-') }}{{ [] | join(',') }}{{ 'abc' | join('.') }}{{ {'a': 1, 'b': 2} | join(',') }}",
    "unicode": "{{ '日本語'[::-1] }}{{ '日本語' | length }}{{ 'É'.lower() }}{{ 'straße'.upper() }}{{ '😀x'.find('x') }}{{ '日本'.center(6, '*') }}{{ 'ÀB' | lower }}{{ 'naïve café' | title }}{{ 'ǆ'.upper() }}",
    "replace-count": "{{ 'aaa'.replace('a', 'b', 1) }}{{ 'aaa' | replace('a', 'b', 2) }}{{ 'abc'.replace('', '-') }}{{ 'x'.replace('x', '') | length }}",
    "sum-of-attributes": "{{ [{'n': 1}, {'n': 2}] | sum(attribute='n') }}{{ [1, 2] | sum(start=10) }}{{ [{'n': 3}, {'n': 1}] | min(attribute='n') }}{{ [{'n': 3}, {'n': 1}] | max(attribute='n') }}{{ ['a', 'B'] | min }}{{ [{'n': 1}, {'n': 1}] | unique(attribute='n') | list | length }}",
    "macro-defaults": "{% macro m(a, b=2, c='x') -%}{{ a }}{{ b }}{{ c }}{%- endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='z') }}{{ m(b=5, a=4) }}{{ m('q') | upper }}{{ m(1) | length }}{% set out = m(9) %}{{ out ~ '!' }}",
    "recursive-macro": "{% macro tree(n, depth=0) %}{{ '  ' * depth }}{{ n.name }}\n{% for c in n.children or [] %}{{ tree(c, depth + 1) }}{% endfor %}{% endmacro %}{{ tree({'name': 'a', 'children': [{'name': 'b', 'children': [{'name': 'c'}]}, {'name': 'd'}]}) }}",
    "python-percent-in-text": "100% sure, 5 %of {{ 5 % 3 }}% {% if 4 % 2 == 0 %}even%{% endif %} %} }}",
    "bool-arithmetic": "{{ (true + true) }}{{ true * 3 }}{{ [1, 2, 3][true] }}{{ 'ab'[false] }}{{ 3 - false }}",
    "float-format": "{{ 0.1 + 0.2 }}{{ 1/3 }}{{ 1e16 }}{{ 123456.789 * 10 }}{{ 2.0 * 3 }}{{ 1e5 }}{{ 5.0 }}{{ 3.0 // 2 }}{{ -7.5 // 2 }}{{ 10 // 3.0 }}{{ 7.25 | round(1) }}{{ 2.675 | round(2) }}{{ 1234.5 | round | int }}",
    "range-forms": "{{ range(3) | list }}{{ range(2, 5) | list }}{{ range(5, 0, -2) | list }}{{ range(0) | list }}{{ range(3)[1] }}{{ range(3) | length }}{{ 2 in range(3) }}",
    "comments-and-raw": "a{#- c1 -#} b {# multi\nline #}c\n{#- x #}\nd{% raw %}{{ not }} {% neither %}{% endraw %}e{%- raw -%}  {{ x }}  {%- endraw -%}  f",
    "list-building": "{% set ns = namespace(items=[]) %}{% for m in messages %}{% set ns.items = ns.items + [m.role ~ loop.index] %}{% endfor %}{{ ns.items | join(' ') }}{{ ns.items[-1] }}{{ ns.items | length }}{{ (ns.items + ['z'])[::-1] }}",
    "inline-dict": "{% set names = {'user': 'U', 'assistant': 'A', 'system': 'S'} %}{% for m in messages %}{{ names[m.role] or '?' }}{{ names.get(m.role, 'X') }}{% endfor %}{% set r = {'a': {'b': {'c': 1}}} %}{{ r.a.b.c }}{{ r['a']['b'] }}{{ r.x.y is defined if r.x is defined else 'none' }}",
    "split-loops": "{% for line in 'a: 1\\nb: 2'.split('\\n') %}{% set k, v = line.split(': ') %}{{ k }}={{ v }};{% endfor %}{% for w in ' x  y '.split() %}[{{ w }}]{% endfor %}{% set parts = 'k=v=w'.split('=', 1) %}{{ parts[1] }}{{ 'a|b'.split('|')[-1] }}",
    "update-list-in-place": "{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}",
    "is-in-chain": "{{ messages[0].role is string and messages[0].role is not none }}{{ 3 is number and 3 is not string }}{{ 'x' is not mapping and {} is mapping }}{{ [] is sequence and 'a' is sequence and {} is iterable }}{{ 5 is integer }}{{ 5.0 is float }}{{ true is boolean }}{{ true is integer }}",
    "strftime-formats": "{{ strftime_now('%d/%m/%Y %H:%M') }} {{ strftime_now('%a %b %d') }} {{ strftime_now('%Y-%m-%dT%H:%M:%SZ') }} {{ strftime_now('Today is %A the %-dth') }} {{ strftime_now('%d-%b-%y') }} {{ strftime_now('%-m/%-d/%Y %-I:%M%p') }} {{ strftime_now('%q') }} {{ strftime_now('%') }}",
    "indent-and-lines": "{{ 'a\\nb\\n\\nc' | indent(4) }}|{{ 'a\\nb' | indent(2, first=True) }}|{{ 'x\\ny'.splitlines() | join('/') }}|{{ 'a\\r\\nb\\n'.splitlines() }}|{{ 'a\\n'.split('\\n') }}",
}
