"""Codes in real vocabularies: one token tells the labels apart."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from stillroom.teachers.tasks.label_codes import label_codes


@pytest.mark.parametrize("name", ["gpt2_tokenizer.json.gz", "mistral_7b_v0.1_tokenizer.json.gz"])
@pytest.mark.parametrize("num_labels", [3, 24, 77, 151, 187])
def test_the_first_token_is_the_whole_code(name: str, num_labels: int, shared_data: Path) -> None:
    tokenizer = Tokenizer.from_str(gzip.decompress((shared_data / "tokenizers" / name).read_bytes()).decode())
    split = {code: tokens for code in label_codes(num_labels) if len(tokens := tokenizer.encode(code, add_special_tokens=False).tokens) > 1}
    assert split == {}
