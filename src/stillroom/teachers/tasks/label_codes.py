"""Short codes for labels, whose first token tells them apart as far as a vocabulary allows."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase

from stillroom.core.errors import BadInput

_LETTERS = "BCDEFGHJKLMNOPQRSTUVWXYZ"
"""Without the words A and I: "I cannot" begins with no code."""
_ONE_TOKEN = {
    "A": "ABCDFGLPRUV",
    "B": "ABCLMORSTU",
    "C": "ABCDEFHLMOPRSTV",
    "D": "ABCEIJLMRST",
    "E": "CDLMNPRSTUVX",
    "F": "ACEILMORT",
    "G": "ABCDFLMPRT",
    "H": "ADOPRT",
    "I": "CDEILMOPRVX",
    "J": "OS",
    "L": "AEILOP",
    "M": "ABCDILOPRST",
    "N": "CELSTVY",
    "O": "BPS",
    "P": "ACDEGHIKLMOPRST",
    "R": "CEFOT",
    "S": "ABCDEFHIKLMNPRSTUWY",
    "T": "DEFHLRVX",
    "U": "EIKNV",
    "V": "AIMT",
    "W": "ACHMPR",
    "X": "X",
}
"""First -> second letters of the pairs that begin an answer as one token in the vocabularies of GPT-2 (50,257) and Mistral 7B (32,000)."""
_WORDS = {
    "A": "IMNST",
    "B": "EY",
    "D": "O",
    "G": "O",
    "H": "EI",
    "I": "FNST",
    "M": "EY",
    "N": "AO",
    "O": "FHKNR",
    "S": "O",
    "T": "O",
    "U": "PS",
    "W": "E",
    "Y": "O",
}
"""Likewise, of words: "No" is no code."""


def label_codes(num_labels: int) -> tuple[str, ...]:
    """A code for each of so many labels: capitals, all of one length, so that none is the beginning of another.

    One letter for up to 24 labels. Two above: first the pairs that are one token (187), so that the log-probabilities of one place
    tell all labels apart; where a tokenizer splits them, their first letters are as many as there can be.

    Raises:
        BadInput: there are more labels than codes.
    """
    if num_labels <= len(_LETTERS):
        return tuple(_LETTERS[:num_labels])
    others = {a: "".join(b for b in ascii_uppercase if b not in _ONE_TOKEN.get(a, "") + _WORDS.get(a, "")) for a in ascii_uppercase}
    codes = [*_spread(_ONE_TOKEN), *_spread(others)]
    if num_labels > len(codes):
        raise BadInput.at("teacher.answers", f"= 'logprobs' has codes for {len(codes)} labels, not for {num_labels}; use answers: samples.")
    return tuple(codes[:num_labels])


def _spread(pairs: Mapping[str, str]) -> list[str]:
    """One pair of each first letter, then the second of each, and so on."""
    ranked = sorted((rank, first, second) for first, seconds in pairs.items() for rank, second in enumerate(seconds))
    return [first + second for _, first, second in ranked]
