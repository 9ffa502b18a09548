"""What people found about the teacher, on the page and in the card; and nothing where nobody has looked."""

from __future__ import annotations

from dataclasses import replace

from stillroom.core.review import Confusion, Overlap, ReviewFinding
from stillroom.report.card import render_card
from stillroom.report.data import ReportData
from stillroom.report.page import render_report
from stillroom.report.review import review_words


def test_the_page_and_the_card_say_what_was_found(run: ReportData, review: ReviewFinding) -> None:
    reviewed = replace(run, review=review)
    for text in (render_report(reviewed), render_card(reviewed)):
        text = text.replace("\u202f", " ")
        assert "The teacher was wrong on 3.1 % (1.2 to 7.8 %) of the 426 rows it labelled, by 100 reviewed rows." in text
        assert "2 rows were skipped." in text
        assert "Two reviewers of 40 rows agreed on 92.5 % of them (Cohen\u2019s kappa 0.84)." in text
    assert '<tr><th scope="row">benign</th><td>malignant</td><td>3</td></tr>' in render_report(reviewed)
    assert "It said benign for malignant (3 rows), malignant for benign (1 row)." in render_card(reviewed)


def test_without_a_review_nothing_is_said(run: ReportData) -> None:
    for text in (render_report(run), render_card(run)):
        assert "review" not in text.replace("max-height", "").lower()
        assert "people" not in text


def test_a_review_alone_opens_the_section_on_the_teacher(run: ReportData, review: ReviewFinding) -> None:
    page = render_report(replace(run, leak=None, calibration=None, review=review))
    assert '<a href="#teacher">Teacher</a>' in page
    assert 'id="teacher"' in page
    assert "Leakage" not in page


def test_few_many_and_none(review: ReviewFinding) -> None:
    one = replace(review, num_reviewed=1, num_skipped=1, confusions=(), overlaps=(Overlap(1, 1.0, None),))
    told = " ".join(review_words(one))
    assert "by 1 reviewed row." in told
    assert "1 row was skipped." in told
    assert "It said" not in told
    assert "kappa" not in told
    many = replace(review, confusions=tuple(Confusion(f"a{i}", "b", 9 - i) for i in range(7)))
    assert "It said a0 for b (9 rows), a1 for b (8 rows), a2 for b (7 rows), and 4 further pairs of labels." in review_words(many)
    assert "and 1 further pair of labels." in " ".join(review_words(replace(many, confusions=many.confusions[:4])))
