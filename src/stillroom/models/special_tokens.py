"""Whose work a text's special tokens are: the tokenizer's, or the chat template's that wrote the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def adds_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str, *, is_rendered: bool = False) -> bool:
    """Whether the tokenizer is to add its own: not to a text of a chat template, nor to one that begins with the first of them.

    A second beginning-of-sequence token is a context that no model was trained on; most tokenizers add it without a word.

    Args:
        is_rendered: a chat template wrote the text, or the beginning of one.
    """
    first = tokenizer.bos_token
    return not is_rendered and not (isinstance(first, str) and text.startswith(first))
