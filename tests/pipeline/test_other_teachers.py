"""Several teachers in one job: the same student from each, one of them added later, and nothing done twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import stillroom
from stillroom.core.errors import BadInput, PolicyRefused
from stillroom.knowledge.store import KnowledgeStore
from stillroom.pipeline.folder import RunFolder

NUM_DOCUMENTS = 24
JOB = """
task: language-model
data:
  source: {kind: file, train: texts.jsonl}
  text: text
  split: {test: 0.25}
  other_domains: {digits: other.jsonl}
teacher: {kind: huggingface, model: ./main, licence: MIT}
student: {kind: huggingface, layers: 2, hidden_size: 16}
training: {num_train_epochs: 1, learning_rate: 1.0e-2, per_device_train_batch_size: 4, max_length: 24}
evaluation: {seeds: 2, resamples: 100, cost: false, prompts: 2, new_tokens: 3}
"""
TWIN = "other_teachers.twin={kind: huggingface, model: ./twin, licence: MIT}"
BIG = "other_teachers.big={kind: huggingface, model: ./big, licence: Apache-2.0}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Callable[..., tuple[Any, Any]]) -> Path:
    """A folder with a job, its texts and its teachers: `twin` has the weights of `main`, `big` is larger, its head padded,
    `short` reads 16 tokens, and `foreign` calls one token otherwise."""
    folder = tmp_path_factory.mktemp("teachers")
    shapes = {
        "main": ("llama", {}),
        "twin": ("llama", {}),
        "big": ("llama", {"seed": 5, "num_hidden_layers": 5, "vocab_size": 48}),
        "short": ("llama", {"max_position_embeddings": 16}),
    }
    for name, (kind, config) in shapes.items():
        model, tokenizer = tiny_causal(kind, **config)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    shutil.copytree(folder / "main", folder / "foreign")
    words = (folder / "main" / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "foreign" / "tokenizer.json").write_text(words.replace('"w3"', '"x3"'), encoding="utf-8")
    rng = np.random.default_rng(0)
    for name, low, high in (("texts.jsonl", 0, 20), ("other.jsonl", 10, 26)):
        lines = [json.dumps({"text": " ".join(f"w{i}" for i in rng.integers(low, high, 20))}) for _ in range(NUM_DOCUMENTS)]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, Any]:
    """The job with its one teacher: what lies in the run afterwards."""
    run = stillroom.run(place / "job.yaml", run_dir=place / "run")
    return {"files": written(run.folder), "evidence": run.evidence}


@pytest.fixture(scope="module")
def run(place: Path, alone: dict[str, Any]) -> stillroom.Run:
    """The same run, two teachers later; its first attempt died after the first of the four students that this adds."""
    from stillroom.pipeline.language import train

    trained: list[str] = []

    def dying(*arguments: Any, **settings: Any) -> Any:
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(settings["folder"].name)
        return train_language_model(*arguments, **settings)

    train_language_model = train.train_language_model
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "train_language_model", dying)
        with pytest.raises(KeyboardInterrupt):
            stillroom.run(place / "job.yaml", run_dir=place / "run", overrides=[TWIN, BIG])
        patched.setattr(train, "train_language_model", lambda *a, **s: trained.append(s["folder"].name) or train_language_model(*a, **s))
        run = stillroom.run(place / "job.yaml", run_dir=place / "run", overrides=[TWIN, BIG])
    assert trained == ["student@twin-0", "student@big-0", "student@twin-1", "student@big-1"], "each once, and none of the main arms"
    return run


def written(folder: RunFolder) -> dict[str, int]:
    """When everything was written that costs: answers, models, and what the labelling recorded."""
    kept = [*folder.path.rglob("*.parquet"), *folder.path.rglob("*.safetensors"), *folder.path.glob("stages/label*.json")]
    return {str(path.relative_to(folder.path)): path.stat().st_mtime_ns for path in kept}


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


def test_a_teacher_that_is_added_later_leaves_the_main_arms_as_they_are(alone: dict[str, Any], run: stillroom.Run) -> None:
    now = written(run.folder)
    assert alone["files"].items() <= now.items()
    assert len(now) > len(alone["files"])
    main = [m for m in run.evidence.measures if "@" not in m.arm]
    assert main == list(alone["evidence"].measures)
    assert run.evidence.verdict == alone["evidence"].verdict


def test_only_the_teacher_differs(run: stillroom.Run) -> None:
    """A twin of the main teacher trains the very same student; another teacher another one, of the same shape."""
    for i in range(2):
        assert same(run.folder.arm("student", i), run.folder.arm("student@twin", i))
        assert not same(run.folder.arm("student", i), run.folder.arm("student@big", i))
    shapes = [{name: tensor.shape for name, tensor in weights(run.folder.arm(arm, 0)).items()} for arm in ("student", "student@big")]
    assert shapes[0] == shapes[1]
    with KnowledgeStore(run.folder.knowledge, read_only=True) as store:
        assert len({facts["teacher"] for facts in store.questions()}) == 2, "the twin's answers were there already"


def test_every_teacher_and_its_students_are_measured_and_compared(run: stillroom.Run) -> None:
    evidence = run.evidence
    assert evidence.arms == ("teacher", "student", "control", "teacher@twin", "student@twin", "teacher@big", "student@big")
    for measure in ("log_loss", "log_loss@digits"):
        twin = [evidence.compared(arm, against, measure) for arm, against in (("student@twin", "student"), ("teacher@twin", "teacher"))]
        assert [c and c.difference for c in twin] == [0.0, 0.0]
        compared = evidence.compared("student@big", "control", measure)
        big, control = evidence.value("student@big", measure), evidence.value("control", measure)
        assert compared is not None
        assert big is not None
        assert control is not None
        assert compared.difference == pytest.approx(control.value - big.value)
        assert compared.confidence == pytest.approx(1 - 0.05 / 2)
    # Fidelity is to the arm's own teacher: the twin's is the student's own figure, the other's is not.
    kl = [evidence.value(arm, "forward_kl") for arm in ("student", "student@twin", "student@big")]
    assert kl[0] is not None
    assert kl[1] is not None
    assert kl[2] is not None
    assert kl[0].value == kl[1].value != kl[2].value


def test_lineage_report_and_card_name_every_teacher(run: stillroom.Run) -> None:
    lineage = json.loads(run.folder.lineage.read_text(encoding="utf-8"))
    found = [(line["role"], Path(line["name"]).name, line["licence"]) for line in lineage["teachers"]]
    assert found == [("teacher", "main", "MIT"), ("other teacher", "twin", "MIT"), ("other teacher", "big", "Apache-2.0")]
    prints = [line["fingerprint"] for line in lineage["teachers"]]
    assert prints[0] == prints[1] != prints[2]
    assert all(prints)


def test_every_arm_can_be_loaded_and_a_wrong_name_is_told_which_there_are(place: Path, run: stillroom.Run) -> None:
    arms = ["student", "control", "teacher", "student@twin", "teacher@twin", "student@big", "teacher@big"]
    loaded = {arm: stillroom.load(run.folder.path, arm=arm) for arm in arms}
    for arm in arms:
        source = {"teacher": place / "main", "teacher@twin": place / "twin", "teacher@big": place / "big"}.get(arm, run.folder.arm(arm, 0))
        expected = AutoModelForCausalLM.from_pretrained(source).state_dict()
        found = loaded[arm]._predictor.model.state_dict()
        assert all(bool((found[name] == expected[name]).all()) for name in expected), arm
    assert loaded["student@big"].generate(["w1 w2"], new_tokens=6) != loaded["teacher@big"].generate(["w1 w2"], new_tokens=6)
    for arm in ("student@bug", "teacher@", "control@big", "big"):
        with pytest.raises(BadInput, match=re.escape(f"arm: = {arm!r} is none of this run's: {', '.join(arms)}.")):
            stillroom.load(run.folder.path, arm=arm)


def test_a_second_run_does_nothing_again(place: Path, run: stillroom.Run) -> None:
    before = written(run.folder)
    stillroom.run(place / "job.yaml", run_dir=run.folder.path, overrides=[TWIN, BIG])
    assert written(run.folder) == before


def test_changing_one_other_teacher_redoes_its_own_arms_alone(place: Path, run: stillroom.Run) -> None:
    before = written(run.folder)
    changed = [TWIN, BIG, "other_teachers.big.model=./twin"]
    stillroom.run(place / "job.yaml", run_dir=run.folder.path, overrides=changed, until="train")
    after = written(run.folder)
    moved = {path for path in before if after.get(path) != before[path]}
    assert moved == {"stages/label@big.json", "arms/student@big-0/model.safetensors", "arms/student@big-1/model.safetensors"}
    assert same(run.folder.arm("student@big", 1), run.folder.arm("student", 1))


def test_online_every_teacher_is_asked_while_its_student_learns(place: Path, tmp_path: Path) -> None:
    live = [TWIN, BIG, "labelling.tokens=online", "evaluation.seeds=1"]
    found = stillroom.run(place / "job.yaml", run_dir=tmp_path, overrides=live, until="train").folder
    assert not found.knowledge.exists()
    assert same(found.arm("student", 0), found.arm("student@twin", 0))
    assert not same(found.arm("student", 0), found.arm("student@big", 0))


@pytest.mark.parametrize("tokens", ["threshold", "online"])
def test_a_teacher_that_cannot_be_compared_is_refused_before_anything_is_asked(tokens: str, place: Path, tmp_path: Path) -> None:
    foreign = "other_teachers.big={kind: huggingface, model: ./foreign, licence: MIT}"
    with pytest.raises(BadInput, match=r"other_teachers\.big\.model: has another tokenizer than the teacher: 1 ids differ: id 7 is 'w3'"):
        stillroom.run(place / "job.yaml", run_dir=tmp_path, overrides=[foreign])
    short = ["other_teachers.big={kind: huggingface, model: ./short, licence: MIT}", f"labelling.tokens={tokens}"]
    with pytest.raises(BadInput, match=r"other_teachers\.big: reads 16 tokens at once, example 0 has 2\d"):
        stillroom.run(place / "job.yaml", run_dir=tmp_path, overrides=short)
    forbidden = "other_teachers.big={kind: huggingface, model: ./big, licence: llama2}"
    with pytest.raises(PolicyRefused, match=r"other_teachers\.big\.licence: teacher"):
        stillroom.run(place / "job.yaml", run_dir=tmp_path, overrides=[forbidden])


def test_a_teacher_that_was_half_replaced_does_not_pass_for_the_old_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the new teacher's folder and its record, and the job changed back."""
    stillroom.run(place / "job.yaml", run_dir=tmp_path, until="label")
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "finish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stillroom.run(place / "job.yaml", run_dir=tmp_path, overrides=["teacher.model=./big"], until="label")
    back = stillroom.run(place / "job.yaml", run_dir=tmp_path, until="label")
    assert json.loads((back.folder.teacher / "predictor.json").read_text(encoding="utf-8"))["model"].endswith("main")
