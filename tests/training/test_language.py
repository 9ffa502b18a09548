from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import CurvePoint
from stillroom.core.token_records import Sequences, TokenExample, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenKnowledge, TokenQuestion, put_answers
from stillroom.losses.divergence import forward_kl
from stillroom.models.causal import hidden_states
from stillroom.models.pretrained import answering, parameters_fingerprint
from stillroom.objectives.tokens import Schedule, TokenObjective
from stillroom.spec.training import TrainingSpec
from stillroom.teachers.token_sampling import entropies, position_seeds, sample_distributions, store_hidden
from stillroom.training.language import measure_inside_forward, train_language_model
from stillroom.training.language_rows import best_fit
from stillroom.training.language_teachers import OfflineTeacher, OnlineTeacher, head_for_loss

VOCABULARY = 30
"""Tokens of the tokenizer; the models' heads have 40 rows."""

CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in {field.name for field in fields(TrainingArguments)}
)
"""transformers 5.2x renames it."""

Make = Callable[..., tuple[Any, Any]]


def texts(number: int, seed: int = 0, longest: int = 20) -> Sequences:
    """Random tokens; about two thirds of the positions are asked, at least one of each example."""
    rng, examples = np.random.default_rng(seed), []
    for _ in range(number):
        ids = rng.integers(4, VOCABULARY, rng.integers(2, longest + 1))
        asked = rng.random(len(ids)) < 0.7
        asked[0], asked[-1] = True, False
        examples.append(TokenExample(ids, asked))
    return Sequences(tuple(examples), np.ones(number, np.int64), np.arange(number))


def logits_at(model: Any, example: TokenExample) -> torch.Tensor:
    """(N, V) of the example alone, by the model's own forward()."""
    logits: torch.Tensor = model(input_ids=torch.tensor(example.token_ids)[None], use_cache=False).logits[0, example.asked, :VOCABULARY]
    return logits


def stored(teacher: Any, sequences: Sequences, scheme: TokenScheme, temperature: float = 1.0) -> OfflineTeacher:
    found: list[Any] = []
    for example in sequences.examples:
        with answering(teacher):
            logits, seeds = logits_at(teacher, example), position_seeds(0, example.fingerprint, int(example.asked.sum()))
            if scheme.kind == "hidden":
                states = hidden_states(teacher, torch.tensor(example.token_ids)[None])[0, example.asked]
                found.append(store_hidden(states, entropies(logits), VOCABULARY, scheme))
            else:
                found.append(sample_distributions(logits, seeds, scheme, temperature=temperature))
    head = head_for_loss(teacher, VOCABULARY) if scheme.kind == "hidden" else None
    print_of = fingerprint(scheme.kind, scheme.number, parameters_fingerprint(teacher))
    return OfflineTeacher(lambda numbers: [found[n] for n in numbers], len(found), scheme, print_of, temperature, head)


def train(student: Any, tokenizer: Any, sequences: Sequences, folder: Path, **changes: Any) -> list[CurvePoint]:
    """Two epochs at batch size 4 of packed rows of 24 tokens, on the tokens alone, unless changed."""
    call: dict[str, Any] = {"teacher": None, "objective": TokenObjective(), "seed": 0, "vocabulary_size": VOCABULARY}
    own = {"num_train_epochs": 2.0, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_length": 24, "packing": True}
    settings = {**TrainingSpec().model_dump(), **own}
    for name, value in changes.items():
        (settings if name in settings else call)[name] = value
    return train_language_model(student, tokenizer, sequences, settings=settings, folder=folder, **call)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# What a step is


PLAIN_STEP = {"num_train_epochs": 1.0, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup_ratio": 0.0}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SGD = {"optim": "sgd", "max_grad_norm": 0, "lr_scheduler_type": "constant"}


@pytest.mark.parametrize(
    ("kind", "packing", "accumulation", "source", "config"),
    [
        ("llama", True, 1, "online", {"tie_word_embeddings": True}),
        ("llama", True, 3, "threshold", {}),
        ("gpt2", True, 2, "top-k", NO_DROPOUT),
        ("gpt2", False, 3, "online", NO_DROPOUT),
        ("gemma2", True, 2, "online", {}),
        ("qwen2", False, 1, "hidden", {}),
        ("cohere", True, 2, "hidden", {"attn_implementation": "eager"}),
        ("granite", False, 2, "threshold", {}),
    ],
)
def test_a_step_is_that_of_the_formula_on_each_example_alone(
    kind: str, packing: bool, accumulation: int, source: str, config: dict[str, Any], tiny_causal: Make, tmp_path: Path
) -> None:
    """Packed or padded, in micro-batches or not, online or stored: one step of SGD over 20 examples against a plain loop."""
    (student, tokenizer), (reference, _) = tiny_causal(kind, **config), tiny_causal(kind, **config)
    teacher, _ = tiny_causal("llama", seed=1, num_hidden_layers=2, hidden_size=24)
    student.double(), reference.double()
    sequences, t, w = texts(20), (1.0 if source in ("threshold", "top-k") else 2.0), 0.3
    scheme = TokenScheme(source, {"threshold": 8, "top-k": 6, "hidden": 16}[source]) if source != "online" else None  # type: ignore[arg-type]
    answers = OnlineTeacher(teacher) if scheme is None else stored(teacher, sequences, scheme, t)

    total = torch.zeros((), dtype=torch.float64)
    for number, example in enumerate(sequences.examples):
        logits, labels = logits_at(reference, example), torch.tensor(example.token_ids[1:][example.asked[:-1]])
        if source in ("online", "hidden"):
            soft = forward_kl(logits, logits_at(teacher, example).double(), temperature=t)
        else:
            soft = sparse_kl(logits, answers.answers([number])[0].sparse())  # type: ignore[union-attr]
        total = total + ((1 - w) * t**2 * soft + w * torch.nn.functional.cross_entropy(logits, labels, reduction="none")).sum()
    (total / sequences.num_asked).backward()

    start = {name: p.detach().clone() for name, p in student.named_parameters()}
    rows = len(best_fit(sorted(map(len, sequences.examples), reverse=True), 24)) if packing else 20
    settings = {**PLAIN_STEP, "per_device_train_batch_size": -(-rows // accumulation), "packing": packing}
    arguments = {**SGD, "gradient_accumulation_steps": accumulation}
    objective = TokenObjective(temperature=Schedule(t), hard_label_weight=Schedule(w))
    (point,) = train(student, tokenizer, sequences, tmp_path, teacher=answers, objective=objective, arguments=arguments, **settings)
    # A teacher's states stored as bfloat16 are off by 1 in 500.
    tolerance = 2e-2 if source == "hidden" else 1e-5
    assert point.value == pytest.approx(total.item() / sequences.num_asked, rel=tolerance)
    for (name, p), q in zip(student.named_parameters(), reference.parameters(), strict=True):
        assert q.grad is not None
        step = (start[name] - p.detach()) / 1e-3
        assert (step - q.grad).norm() <= tolerance * q.grad.norm() + 1e-9, name


def sparse_kl(logits: torch.Tensor, rows: Any) -> torch.Tensor:
    """-entropy - sum p log q of sampled rows; with a tail, the KL over the listed tokens and all others together."""
    values = []
    log_q = torch.log_softmax(logits, dim=-1)
    for i in range(len(logits)):
        part = slice(rows.offsets[i], rows.offsets[i + 1])
        ids, p = torch.tensor(rows.ids[part]), torch.tensor(rows.probs[part]).double()
        cross = -(p * log_q[i, ids]).sum()
        if rows.tail.any():
            tail = float(rows.tail[i])
            others = 1 - log_q[i, ids].exp().sum()
            values.append(cross + (p * p.log()).sum() + (tail * (np.log(tail) - others.log()) if tail else 0.0))
        else:
            values.append(cross - float(rows.entropy[i]))
    return torch.stack(values)


def test_logits_of_all_positions_never_exist(tiny_causal: Make, tmp_path: Path) -> None:
    """The student's own forward(), which makes them, is never run; and it is back when the training is over."""
    student, tokenizer = tiny_causal("llama")
    student.lm_head.register_forward_hook(lambda *_: pytest.fail("the output head was run on all positions"))
    train(student, tokenizer, texts(8), tmp_path, validation=texts(3))
    student.lm_head._forward_hooks.clear()
    assert "forward" not in vars(student)
    assert student(input_ids=torch.tensor([[4, 5]])).logits.shape == (1, 2, 40)
    assert not student.training


def test_gradient_checkpointing_changes_nothing(tiny_causal: Make, tmp_path: Path) -> None:
    states = []
    for name, arguments in (("plain", {}), ("checkpointed", {CHECKPOINTING: True})):
        student, tokenizer = tiny_causal("llama")
        train(student, tokenizer, texts(12), tmp_path / name, arguments=arguments)
        states.append(weights(student))
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-6)


def test_bf16_is_near_and_does_not_stay_in_the_student(tiny_causal: Make, tmp_path: Path) -> None:
    sequences, curves, (teacher, _) = texts(12), [], tiny_causal("llama", seed=1)
    for bf16 in (False, True):
        student, tokenizer = tiny_causal("llama")
        curves.append(train(student, tokenizer, sequences, tmp_path / str(bf16), teacher=OnlineTeacher(teacher), arguments={"bf16": bf16}))
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert "forward" not in vars(student)
    assert curves[1] != curves[0]
    np.testing.assert_allclose([p.value for p in curves[1]], [p.value for p in curves[0]], rtol=0.05)


# Teachers


def test_the_student_comes_to_answer_like_its_teacher_and_the_curve_says_so(tiny_causal: Make, tmp_path: Path) -> None:
    (teacher, _), (student, tokenizer) = tiny_causal("llama", seed=1), tiny_causal("llama", num_hidden_layers=2)
    sequences, validation = texts(60), texts(9, seed=4)
    before = parameters_fingerprint(teacher), [p.requires_grad for p in teacher.parameters()]
    told: list[tuple[int, int]] = []
    curve = train(
        student,
        tokenizer,
        sequences,
        tmp_path,
        teacher=OnlineTeacher(teacher.train()),
        validation=validation,
        num_train_epochs=10.0,
        progress=lambda done, total: told.append((done, total)),
        arguments={"per_device_eval_batch_size": 2},
    )
    assert (parameters_fingerprint(teacher), [p.requires_grad for p in teacher.parameters()]) == before
    assert all(p.grad is None for p in teacher.parameters())
    points = {name: [p for p in curve if p.measure == name] for name in ("train_loss", "validation_loss", "validation_accuracy")}
    assert points["train_loss"][-1].value < 0.4 * points["train_loss"][0].value
    with torch.no_grad():
        logits = torch.cat([logits_at(student, example) for example in validation.examples])
    labels = torch.cat([torch.tensor(example.token_ids[1:][example.asked[:-1]]) for example in validation.examples])
    assert points["validation_loss"][-1].value == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert points["validation_accuracy"][-1].value == (logits.argmax(dim=-1) == labels).double().mean().item()
    assert told == [(step, told[-1][1]) for step in range(1, told[-1][1] + 1)]


def test_weight_one_is_the_control_bit_for_bit_and_never_asks_the_teacher(tiny_causal: Make, tmp_path: Path) -> None:
    def unasked(numbers: Sequence[int]) -> list[Any]:
        raise AssertionError("the teacher was asked")

    sequences, states = texts(12), []
    dumb = OfflineTeacher(unasked, 12, TokenScheme(), "none")
    for name, call in (
        ("without", {"objective": TokenObjective(hard_label_weight=Schedule(0.3))}),
        ("weight one", {"teacher": dumb, "objective": TokenObjective("reverse_kl", Schedule(3.0), Schedule(1.0))}),
    ):
        student, tokenizer = tiny_causal("llama")
        train(student, tokenizer, sequences, tmp_path / name, **call)
        states.append(weights(student))
    assert torch.equal(*states)


class Spy:
    """An objective that notes at which shares of the training it is asked."""

    def __init__(self, objective: TokenObjective) -> None:
        self.control, self.temperatures, self.looks_at_teacher = objective.control, objective.temperatures, objective.looks_at_teacher
        self.objective, self.shares = objective, list[float]()

    def loss(self, *tensors: Any, share: float, **counts: Any) -> Any:
        self.shares.append(share)
        return self.objective.loss(*tensors, share=share, **counts)


def test_schedules_run_from_the_first_step_to_the_last(tiny_causal: Make, tmp_path: Path) -> None:
    (teacher, tokenizer), (student, _) = tiny_causal("llama", seed=1), tiny_causal("llama")
    spy = Spy(TokenObjective(hard_label_weight=Schedule(0.0, 0.5)))
    call = {"teacher": OnlineTeacher(teacher), "objective": spy, "num_train_epochs": 1.0, "per_device_train_batch_size": 1}
    train(student, tokenizer, texts(16), tmp_path, arguments={"gradient_accumulation_steps": 2, "max_steps": 5}, **call)
    rehearsal, training = spy.shares[:2], spy.shares[2:]
    assert rehearsal == [0.0, 1.0]
    assert sorted(set(training)) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert training == sorted(training)


def test_a_store_of_answers_teaches(tiny_causal: Make, tmp_path: Path) -> None:
    """From the real store, whose answers are found by the tokens: the same weights as from answers at hand, in any order of the store."""
    (teacher, tokenizer), sequences, scheme, states = tiny_causal("llama", seed=1), texts(12), TokenScheme("threshold", 8), []
    at_hand = stored(teacher, sequences, scheme)
    question = TokenQuestion(parameters_fingerprint(teacher), fingerprint("tokenizer"), scheme)
    order = np.random.default_rng(0).permutation(12).tolist()
    with KnowledgeStore(tmp_path / "knowledge") as store:
        put_answers(store, question, [sequences.examples[n] for n in order], at_hand.answers(order))
        knowledge = TokenKnowledge(store, question, sequences.examples)
        from_store = OfflineTeacher(knowledge.answers, len(knowledge), scheme, question.key("all"))
        for name, source in (("hand", at_hand), ("store", from_store)):
            student, _ = tiny_causal("llama")
            train(student, tokenizer, sequences, tmp_path / name, teacher=source)
            states.append(weights(student))
    assert torch.equal(*states)


# Adapters


@pytest.fixture
def lora() -> Callable[..., Any]:
    """make(model, **config) -> the model with LoRA adapters."""
    peft = pytest.importorskip("peft")
    defaults = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    return lambda model, **config: peft.get_peft_model(model, peft.LoraConfig(**{**defaults, **config}))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for the old name
def test_only_adapters_are_trained_and_resumed(lora: Callable[..., Any], tiny_causal: Make, tmp_path: Path) -> None:
    (teacher, tokenizer), sequences, ends = tiny_causal("llama", seed=1), texts(20), []
    call = {"teacher": OnlineTeacher(teacher), "arguments": {"save_steps": 1, CHECKPOINTING: True}, "learning_rate": 0.1}
    for name in ("whole", "stopped"):
        base, _ = tiny_causal("llama")
        before = weights(base)
        torch.manual_seed(0)
        student = lora(base)
        if name == "stopped":
            with pytest.raises(Kill):
                train(student, tokenizer, sequences, tmp_path / name, callbacks=[stop_at(3)], **call)
            torch.manual_seed(0)
            student = lora(tiny_causal("llama")[0])
        curve = train(student, tokenizer, sequences, tmp_path / name, **call)
        assert curve[-1].value < curve[0].value
        assert torch.equal(weights(student.unload()), before), "the model under the adapters is as it was"
        ends.append([p.detach().clone() for p in student.parameters()])
    for whole, stopped in zip(*ends, strict=True):
        assert torch.equal(whole, stopped)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_adapters_that_the_loss_would_not_see_are_refused(lora: Callable[..., Any], tiny_causal: Make, tmp_path: Path) -> None:
    model, tokenizer = tiny_causal("llama")
    with pytest.raises(BadInput, match=r"student: has an adapter around its output head .* Leave the head out of target_modules"):
        train(lora(model, target_modules=["q_proj", "lm_head"]), tokenizer, texts(4), tmp_path)


# Checkpoints


class Kill(Exception):
    """Stands for the end of the process, in the process."""


def stop_at(step: int) -> TrainerCallback:
    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise Kill

    return Stop()


SCHEDULED = TokenObjective("forward_kl", Schedule(1.0), Schedule(0.0, 0.9, "cosine"))
RESUME = {"objective": SCHEDULED, "num_train_epochs": 3.0, "arguments": {"save_steps": 2, "logging_steps": 5}}


@pytest.mark.parametrize(("step", "packing"), [(1, True), (4, True), (7, True), (5, False)])
def test_a_stopped_training_ends_with_the_same_bits_and_curve(step: int, packing: bool, tiny_causal: Make, tmp_path: Path) -> None:
    sequences, (teacher, tokenizer) = texts(24), tiny_causal("llama", seed=1)
    call = {
        "teacher": stored(teacher, sequences, TokenScheme("threshold", 8)),
        "validation": texts(4, seed=3),
        "packing": packing,
        **RESUME,
    }
    dropout = {"attention_dropout": 0.1}
    whole, _ = tiny_causal("llama", **dropout)
    curve = train(whole, tokenizer, sequences, tmp_path / "whole", **call)
    stopped, resumed = tiny_causal("llama", **dropout)[0], tiny_causal("llama", **dropout)[0]
    with pytest.raises(Kill):
        train(stopped, tokenizer, sequences, tmp_path / "stopped", callbacks=[stop_at(step)], **call)
    assert "forward" not in vars(stopped)
    done: list[int] = []
    assert train(resumed, tokenizer, sequences, tmp_path / "stopped", progress=lambda n, _: done.append(n), **call) == curve
    assert torch.equal(weights(resumed), weights(whole))
    assert done[0] == step // 2 * 2 + 1, "from the newest checkpoint, not from the start"


def test_each_fact_of_a_training_is_in_its_checkpoints(tiny_causal: Make, tmp_path: Path) -> None:
    sequences, (teacher, tokenizer) = texts(12), tiny_causal("llama", seed=1)
    call = {"teacher": stored(teacher, sequences, TokenScheme("threshold", 8)), "num_train_epochs": 1.0, "arguments": {"save_steps": 1}}

    def steps(sequences: Sequences = sequences, **changes: Any) -> int:
        done: list[int] = []
        student, _ = tiny_causal("llama")
        train(student, tokenizer, sequences, tmp_path / "one", progress=lambda n, _: done.append(n), **{**call, **changes})
        return len(done)

    full = steps()
    assert steps() == 0, "this one has nothing left to do"
    examples = sequences.examples
    asks_less = TokenExample(examples[0].token_ids, examples[0].asked & (np.arange(len(examples[0])) > 0))
    less = Sequences((asks_less, *examples[1:]), sequences.num_bytes, sequences.rows)
    changes: dict[str, dict[str, Any]] = {
        "the objective": {"objective": TokenObjective(hard_label_weight=Schedule(0.1))},
        "its schedule": {"objective": TokenObjective(hard_label_weight=Schedule(0.1, 0.2))},
        "the teacher": {"teacher": stored(teacher, sequences, TokenScheme("threshold", 9))},
        "no teacher": {"teacher": None},
        "an online teacher": {"teacher": OnlineTeacher(teacher)},
        "what is asked": {"sequences": less, "teacher": OnlineTeacher(teacher)},
        "the vocabulary": {"teacher": OnlineTeacher(teacher), "vocabulary_size": 35},
        "packing": {"packing": False},
        "seed": {"seed": 1},
    }
    for name, change in changes.items():
        assert steps(**change) >= min(full, 3), name


# Bad input


def test_batches_in_which_nothing_is_asked_leave_no_trace(tiny_causal: Make, tmp_path: Path) -> None:
    """Every batch of this training is empty: a loss of 0, and moments in Adam that are numbers."""
    silent = tuple(TokenExample(e.token_ids, np.zeros_like(e.asked)) for e in texts(12).examples)
    sequences = Sequences(silent, np.ones(12, np.int64), np.arange(12))
    (teacher, tokenizer), moments = tiny_causal("llama", seed=1), []

    class Look(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            moments.extend(s[name] for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))

    for i, source in enumerate([None, OnlineTeacher(teacher), stored(teacher, texts(12), TokenScheme()), "hidden"]):
        if source == "hidden":
            source = stored(teacher, sequences, TokenScheme("hidden", 8))
        elif isinstance(source, OfflineTeacher):
            source = stored(teacher, sequences, TokenScheme())
        student, _ = tiny_causal("llama")
        before = weights(student)
        curve = train(student, tokenizer, sequences, tmp_path / str(i), teacher=source, weight_decay=0.0, callbacks=[Look()])
        assert {point.value for point in curve} == {0.0}
        assert torch.equal(weights(student), before)
    assert moments
    assert all(moment.abs().max() == 0 for moment in moments)


def test_a_loss_that_is_no_number_ends_the_training(tiny_causal: Make, tmp_path: Path) -> None:
    student, tokenizer = tiny_causal("llama")
    with pytest.raises(StageFailed, match=r"loss is (nan|inf) at step \d+; lower training\.learning_rate"):
        train(student, tokenizer, texts(24), tmp_path, learning_rate=1e30, arguments={"max_grad_norm": 0, "logging_steps": 1})
    assert "forward" not in vars(student)


def test_examples_that_cannot_be_learnt_are_told_at_once(tiny_causal: Make, tmp_path: Path) -> None:
    student, tokenizer = tiny_causal("llama")
    bad = [
        TokenExample(np.full(65, 5), np.eye(1, 65, dtype=np.bool_)[0]),
        TokenExample(np.array([4, VOCABULARY, 4]), np.array([True, False, False])),
        TokenExample(np.array([4, 5]), np.array([True, True])),
    ]
    with pytest.raises(BadInput) as caught:
        train(student, tokenizer, Sequences(tuple(bad), np.ones(3, np.int64), np.arange(3)), tmp_path, max_length=80)
    assert [str(problem) for problem in caught.value.problems] == [
        "data: 1 of 3 examples are too long: example 0 has 65 tokens, the student's context is 64. Tokenise with that length.",
        "data: example 1 has a token outside the vocabulary of 30; use the student's own tokenizer.",
        "data: example 2 asks what follows its last token, which nobody knows; do not ask there.",
    ]
    with pytest.raises(BadInput, match=r"validation: .* example 0 has 65 tokens, training\.max_length is 24"):
        train(student, tokenizer, texts(4), tmp_path, validation=Sequences((bad[0],), np.ones(1, np.int64), np.arange(1)))
    with pytest.raises(BadInput, match="data: holds no examples"):
        train(student, tokenizer, texts(0), tmp_path)


def test_knowledge_that_does_not_fit_is_refused_before_the_training(tiny_causal: Make, tmp_path: Path) -> None:
    sequences, (teacher, tokenizer), (student, _) = texts(8), tiny_causal("llama", seed=1), tiny_causal("llama")
    sampled, hidden = (stored(teacher, sequences, TokenScheme(*scheme)) for scheme in (("threshold", 8), ("hidden", 16)))  # type: ignore[arg-type]
    fewer = stored(teacher, texts(7), TokenScheme("threshold", 8))
    bare = OfflineTeacher(hidden.answers, 8, hidden.scheme, "bare")
    moved = OfflineTeacher(lambda numbers: sampled.answers([(n + 1) % 8 for n in numbers]), 8, sampled.scheme, "moved")
    small, _ = tiny_causal("llama", vocab_size=29)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"teacher": fewer}, "knowledge: holds answers to 7 examples, the data has 8"),
        ({"teacher": moved}, r"knowledge: example 0 has \d+ asked positions and \d+ answers"),
        ({"teacher": sampled, "vocabulary_size": 35}, "knowledge: is about 30 tokens, the student predicts 35"),
        ({"teacher": hidden, "vocabulary_size": 35}, "the head has 30 rows; missing rows are never made up"),
        ({"teacher": OnlineTeacher(small)}, "the head has 29 rows; missing rows are never made up"),
        ({"teacher": bare}, "knowledge: holds hidden states, which say nothing without the teacher's head"),
        ({"teacher": sampled, "objective": TokenObjective("reverse_kl")}, "objective: .*unbiased estimate of forward_kl only"),
        (
            {"teacher": sampled, "objective": TokenObjective(temperature=Schedule(2.0))},
            r"objective\.temperature: goes from 2\.0 to 2\.0, the stored answers were given at 1\.0",
        ),
    ]
    for changes, message in cases:
        with pytest.raises((BadInput, StageFailed), match=message):
            train(student, tokenizer, sequences, tmp_path, **changes)
    with pytest.raises(BadInput, match=r"training\.arguments\.packing: has a place of its own"):
        train(student, tokenizer, sequences, tmp_path, arguments={"packing": True})
    with pytest.raises(BadInput, match=r"train_sampling_strategy: = 'random' has no meaning with packing"):
        train(student, tokenizer, sequences, tmp_path, packing=True, arguments={"train_sampling_strategy": "random"})


def test_a_model_that_does_not_keep_packed_examples_apart_is_refused(
    tiny_causal: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, tokenizer = tiny_causal("llama")
    mamba, _ = tiny_causal("mamba", num_hidden_layers=2)
    with pytest.raises(BadInput, match=r"training\.packing: = true: the student \(MambaForCausalLM.*set training\.packing to false"):
        train(mamba, tokenizer, texts(4), tmp_path)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(
        BadInput, match=r"training\.packing: = true: the student \(LlamaForCausalLM, attention 'sdpa'\) lets an example see"
    ):
        train(student, tokenizer, texts(4), tmp_path)
    train(student, tokenizer, texts(4), tmp_path, packing=False)


def test_forward_measures_at_the_places_that_are_asked(tiny_causal: Make) -> None:
    student, _ = tiny_causal("gpt2")
    example = texts(1).examples[0]
    want = logits_at(student, example)
    measure_inside_forward(student, VOCABULARY)
    places = torch.tensor(np.flatnonzero(example.asked))
    logits = student(input_ids=torch.tensor(example.token_ids)[None], places=places, measure=lambda hidden, head: hidden @ head.weight.T)
    torch.testing.assert_close(logits, want)
