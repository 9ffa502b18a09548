"""Which words carry tags, by hand: pieces, marks, emoji, scripts without spaces, texts that are cut."""

from __future__ import annotations

import pytest

from stillroom.models.pieces import tagged_words

SPECIAL = (0, 0)


def words(text: str, *pieces: tuple[int, int]) -> list[tuple[str, int]]:
    return [(text[word.start : word.end], word.piece) for word in tagged_words(text, pieces)]


def test_further_pieces_go_on_with_a_word_and_special_tokens_are_none() -> None:
    assert words("embedding it", SPECIAL, (0, 2), (2, 5), (5, 9), (10, 12), SPECIAL) == [("embedding", 1), ("it", 4)]
    assert words("O'Neil-Smith.", (0, 1), (1, 2), (2, 6), (6, 7), (7, 12), (12, 13)) == [
        ("O", 0), ("'", 1), ("Neil", 2), ("-", 3), ("Smith", 4), (".", 5)
    ]  # fmt: skip
    assert words("", SPECIAL, SPECIAL) == []


def test_a_piece_over_several_words_stands_for_all_of_them() -> None:
    assert words("it's so", (0, 2), (2, 4), (5, 7)) == [("it", 0), ("'s", 1), ("so", 2)]
    assert words("Rome. Ann", (0, 5), (5, 9)) == [("Rome.", 0), ("Ann", 1)]


def test_a_space_that_a_tokenizer_counts_in_is_no_part_of_a_word() -> None:
    assert words("a  bc", (0, 1), (1, 5)) == [("a", 0), ("bc", 1)]
    assert words("a  bc", (0, 1), (1, 3), (3, 5)) == [("a", 0), ("bc", 2)]


def test_bytes_of_one_character_are_one_word() -> None:
    assert words("😀 Ann", (0, 1), (0, 1), (0, 1), (2, 5)) == [("😀", 0), ("Ann", 3)]
    family = "👩\u200d👧 x"
    assert words(family, (0, 1), (1, 2), (2, 3), (4, 5)) == [("👩\u200d👧", 0), ("x", 3)]


def test_marks_belong_to_the_letter_before() -> None:
    cafe = "cafe\u0301s"  # e and an acute accent
    assert words(cafe, (0, 4), (4, 5), (5, 6)) == [(cafe, 0)]
    assert words("हिन्दी", (0, 1), (1, 3), (3, 6)) == [("हिन्दी", 0)]


def test_where_words_have_no_spaces_every_piece_may_begin_one() -> None:
    assert words("東京都に", (0, 1), (1, 2), (2, 3), (3, 4)) == [("東", 0), ("京", 1), ("都", 2), ("に", 3)]
    assert words("iPhoneを", (0, 3), (3, 6), (6, 7)) == [("iPhone", 0), ("を", 2)]


@pytest.mark.parametrize(("pieces", "found"), [([(0, 2)], ["embedding"]), ([(0, 9), (10, 12)], ["embedding", "is"]), ([], [])])
def test_a_word_that_the_limit_cuts_is_whole_and_those_beyond_are_gone(pieces: list[tuple[int, int]], found: list[str]) -> None:
    assert [word for word, _ in words("embedding is here", *pieces)] == found
