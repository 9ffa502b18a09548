"""Conversations under the chat templates of well-known models (less what they say of tools): what is learnt, decoded back to text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from stillroom.core.errors import BadInput
from stillroom.data.conversations import conversation
from stillroom.data.sequences import tokenise

transformers = pytest.importorskip("transformers")

ALTERNATE = "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN2 = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    '{%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}'
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# As trainers write it who learn what stands between the two tags.
QWEN2_GENERATION = (
    "{%- for message in messages %}{%- if message.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}"
    "{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{{- '\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# An empty thought before the last answer only; thoughts of earlier answers are dropped.
QWEN3 = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}"
    "{%- set ns = namespace(last_query_index=messages|length - 1, found=false) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if not ns.found and message.role == 'user' %}{%- set ns.last_query_index = index %}{%- set ns.found = true %}"
    "{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- set content = message.content %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set reasoning_content = '' %}"
    "{%- if '</think>' in content %}"
    "{%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ " + ALTERNATE + " }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Writes the day on which it is asked.
LLAMA32 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}"
    '{%- else %}{%- set system_message = "" %}{%- endif %}'
    '{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}{{- "Cutting Knowledge Date: December 2023\n" }}'
    '{{- "Today Date: " + date_string + "\n\n" }}{{- system_message }}{{- "<|eot_id|>" }}'
    "{%- for message in messages %}{%- if 'tool_calls' in message and message.tool_calls|length != 1 %}"
    '{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}'
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ " + ALTERNATE + " }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ " + ALTERNATE + " }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# The system message stands in the last user turn, so that every further turn moves it.
MISTRAL3 = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}"
    "{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for message in loop_messages %}"
    "{%- if message['role'] == 'user' %}{%- if loop.last and system_message is defined %}"
    "{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST] ' + message['content'] + '[/INST]' }}"
    "{%- endif %}{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}"
)
# Ends the whole text once more behind the last turn.
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

SYSTEM, ASK, TWO = (
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One and one?"},
    {"role": "assistant", "content": "Two."},
)
AGAIN, THREE = {"role": "user", "content": "And one?"}, {"role": "assistant", "content": "Three, naïvely."}
MARKS = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
]  # fmt: skip
NO_SYSTEM = {"gemma", "mistral"}
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "qwen2": (QWEN2, "<|im_end|>"),
    "qwen2-generation": (QWEN2_GENERATION, "<|im_end|>"),
    "qwen3": (QWEN3, "<|im_end|>"),
    "llama2": (LLAMA2, " </s>"),
    "llama3": (LLAMA3, "<|eot_id|>"),
    "llama3.2": (LLAMA32, "<|eot_id|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "mistral": (MISTRAL, "</s>"),
    "mistral3": (MISTRAL3, "</s>"),
    "phi3": (PHI3, "<|end|>"),
}


@pytest.fixture(scope="module")
def make() -> Callable[[str], Any]:
    """A tokenizer of bytes that puts <s> before every text, as those of Llama, Gemma and Mistral do, with this template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])

    def tokenizer(template: str) -> Any:
        made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template)
        made.add_special_tokens({"additional_special_tokens": MARKS})
        return made

    return tokenizer


def learnt(messages: list[dict[str, Any]], tokenizer: Any, max_length: int = 1000) -> tuple[str, Any]:
    sequences, _ = tokenise([conversation(messages, tokenizer, place="row 1")], tokenizer, max_length=max_length)
    example = sequences.examples[0]
    return str(tokenizer.decode(example.token_ids[example.trained])), example.token_ids


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_and_its_end_is_learnt_and_nothing_else(name: str, make: Callable[[str], Any]) -> None:
    template, end = TEMPLATES[name]
    tokenizer = make(template)
    talk = [ASK, TWO, AGAIN, THREE] if name in {*NO_SYSTEM, "mistral3"} else [SYSTEM, ASK, TWO, AGAIN, THREE]
    text, ids = learnt(talk, tokenizer)
    thought = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    finish = "\n</s>" if name == "phi3" else ""
    first, second = text.split(end, 1)
    assert (first.strip(), second.lstrip()) == ("Two.", f"{thought}Three, naïvely.{end}{finish}")
    assert "".join(tokenizer.decode(ids).split()) == "".join(
        tokenizer.apply_chat_template(talk, tokenize=False, date_string="26 Jul 2024").split()
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_begins_as_its_template_says(name: str, make: Callable[[str], Any]) -> None:
    tokenizer = make(TEMPLATES[name][0])
    _, ids = learnt([ASK, TWO, AGAIN, THREE], tokenizer)
    writes_it = "bos_token" in TEMPLATES[name][0]
    assert (ids == tokenizer.bos_token_id).sum() == (0 if not writes_it else 2 if name == "llama2" else 1)
    assert (ids[0] == tokenizer.bos_token_id) == writes_it


@pytest.mark.parametrize(("name", "talk"), [("gemma", [SYSTEM, ASK, TWO]), ("mistral", [SYSTEM, ASK, TWO]), ("llama2", [ASK, AGAIN, TWO])])
def test_what_a_template_refuses_is_one_line_with_the_row(name: str, talk: list[dict[str, Any]], make: Callable[[str], Any]) -> None:
    with pytest.raises(BadInput, match=r"^data.source.train, row 7: the chat template refuses .*(not supported|must alternate)") as caught:
        conversation(talk, make(TEMPLATES[name][0]), place="data.source.train, row 7")
    assert len(str(caught.value).splitlines()) == 1


def test_what_moves_when_the_talk_goes_on_is_refused(make: Callable[[str], Any]) -> None:
    thinking = {"role": "assistant", "content": "<think>\n1 + 1\n</think>\n\nTwo."}
    for template, talk in ((MISTRAL3, [SYSTEM, ASK, TWO]), (QWEN3, [ASK, thinking, AGAIN, THREE])):
        with pytest.raises(BadInput, match="writes earlier turns anew"):
            conversation(talk, make(template), place="row 1")
    assert learnt([ASK, thinking], make(QWEN3))[0] == "<think>\n1 + 1\n</think>\n\nTwo.<|im_end|>"


@pytest.mark.parametrize("name", ["qwen2", "llama3", "phi3"])
def test_an_assistant_that_speaks_first_learns_its_words_alone(name: str, make: Callable[[str], Any]) -> None:
    hello = {"role": "assistant", "content": "You are Q?"}
    text, ids = learnt([hello, ASK, TWO], make(TEMPLATES[name][0]))
    assert text.startswith(f"You are Q?{TEMPLATES[name][1]}")
    assert len(ids) > len("You are Q?") + 10


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_follows_the_last_answer_is_left_out(name: str, make: Callable[[str], Any]) -> None:
    tokenizer = make(TEMPLATES[name][0])
    assert conversation([ASK, TWO, AGAIN], tokenizer, place="row 1") == conversation([ASK, TWO], tokenizer, place="row 1")


def test_an_empty_answer_is_not_learnt(make: Callable[[str], Any]) -> None:
    tokenizer = make(CHATML)
    silence = {"role": "assistant", "content": " "}
    assert learnt([ASK, silence, AGAIN, THREE], tokenizer)[0] == "Three, naïvely.<|im_end|>"
    rows = [conversation(talk, tokenizer, place="row") for talk in ([ASK, silence], [ASK, TWO])]
    sequences, losses = tokenise(rows, tokenizer, max_length=100)
    assert (sequences.rows.tolist(), losses.blank) == ([1], 1)
    assert rows[0].halves == ("", "")


def test_a_date_in_a_template_is_the_same_every_day(make: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make(LLAMA32)
    assert datetime.now().strftime("%d %b %Y") in tokenizer.apply_chat_template([ASK, TWO], tokenize=False)
    assert "Today Date: 26 Jul 2024" in conversation([ASK, TWO], tokenizer, place="row 1").text


def test_keys_that_parquet_fills_with_nothing_are_not_there(make: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, shown = make(LLAMA32), []
    true = tokenizer.apply_chat_template

    def spy(messages: list[dict[str, Any]], **settings: Any) -> Any:
        shown.extend(messages)
        return true(messages, **settings)

    monkeypatch.setattr(tokenizer, "apply_chat_template", spy)  # newer releases of transformers drop them, older ones do not
    filled = [{**message, "tool_calls": None} for message in (ASK, TWO)]
    assert conversation(filled, tokenizer, place="row 1") == conversation([ASK, TWO], tokenizer, place="row 1")
    assert {key for message in shown for key in message} == {"role", "content"}


def test_calls_of_tools_are_refused_in_words(make: Callable[[str], Any]) -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {}}}]}
    for turn in (calls, {**TWO, "tool_calls": 3}):
        with pytest.raises(BadInput, match="turn 2 calls tools"):
            conversation([ASK, turn], make(CHATML), place="row 1")


def test_a_long_conversation_loses_its_end_and_says_so(make: Callable[[str], Any]) -> None:
    tokenizer = make(GEMMA)
    rows = [conversation([ASK, TWO, AGAIN, THREE], tokenizer, place="row 1")]
    whole = tokenise(rows, tokenizer, max_length=1000)[0].examples[0].token_ids
    sequences, losses = tokenise(rows, tokenizer, max_length=len(whole) - 10)
    assert np.array_equal(sequences.examples[0].token_ids, whole[:-10])
    assert losses.cut == 1
    with pytest.raises(BadInput, match="prompt alone fills 12 tokens"):
        tokenise(rows, tokenizer, max_length=12)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_asked_as_it_was_trained(name: str, make: Callable[[str], Any], tiny_causal: Callable[..., Any]) -> None:
    from stillroom.models.language import LanguagePredictor

    tokenizer = make(TEMPLATES[name][0])
    model, _ = tiny_causal("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    marked = conversation([ASK, TWO, AGAIN, THREE], tokenizer, place="row 1")
    sequences, _ = tokenise([marked], tokenizer, max_length=500)
    example = sequences.examples[0]
    asked = LanguagePredictor(model, tokenizer).prompt_ids(marked.halves[0], is_rendered=True)
    assert np.array_equal(asked, example.token_ids[: len(asked)])
    assert example.trained[len(asked)]
    assert not example.trained[len(asked) - 1]
