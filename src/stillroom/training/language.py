"""Training a causal language model on a teacher's next-token distributions, on the tokens or on both.

transformers.Trainer does the work underneath; its arguments, callbacks, checkpoints and trackers work. What is ours: the
loss, which never holds the logits of all positions; its global means; rows that are packed or padded in an order that a
resumed run goes on with; and checkpoints that count only when they are whole.

Shapes: B rows, S positions, N asked positions, H the student's width, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stillroom.core.errors import BadInput, Problem, StillroomError, needs_extra
from stillroom.core.fingerprint import fingerprint
from stillroom.losses.rows import activate
from stillroom.models.causal import hidden_states
from stillroom.models.pretrained import answering, parameters_fingerprint
from stillroom.training.arguments import training_arguments
from stillroom.training.language_rows import FilledBatches, PackedRows, TokenRows
from stillroom.training.language_teachers import OnlineTeacher, TokenTeacher, head_for_loss
from stillroom.training.memory import TeacherMemory, kept_activations, refuse_too_large_training, training_memory
from stillroom.training.sharding import ShardedCheckpoints, Sharding, give_up_gathered, read_sharding, sharded_twin
from stillroom.training.trainer import GlobalMeanTrainer, run_training

with needs_extra("torch", "training a language model"):
    import torch
    import transformers
    from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

    from stillroom.core.protocols import Progress
    from stillroom.core.records import CurvePoint
    from stillroom.core.token_records import Sequences
    from stillroom.losses.fused import FusedLoss
    from stillroom.losses.head import Head
    from stillroom.losses.teacher import Teacher

Measure = Callable[[Tensor, "Head"], Tensor]
"""From the hidden states at the asked positions (N, H) and the student's head to what is wanted of them."""

_VALIDATION_ROWS = 256
"""Positions whose logits exist at once while validating."""

_SAME_STATES = 1e-4
"""How far the states of a packed example may be from those of the example alone, as a share of the largest."""


class TokenLoss(Protocol):
    """`stillroom.objectives.tokens.TokenObjective`, or an objective like it; its repr says all that shapes the loss."""

    @property
    def control(self) -> TokenLoss: ...

    @property
    def temperatures(self) -> tuple[float, float]: ...

    def looks_at_teacher(self, share: float | None = None) -> bool: ...

    def loss(
        self, hidden: Tensor, head: Head, teacher: Teacher | None, labels: Tensor, *, share: float, num_tokens: Tensor | int | None = None
    ) -> FusedLoss: ...


def train_language_model(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequences,
    *,
    teacher: TokenTeacher | None,
    objective: TokenLoss,
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    vocabulary_size: int,
    validation: Sequences | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Train `student` in place, and leave it in eval mode.

    In several processes (torchrun, accelerate launch) all call it alike, and all end up with the same student, whole.

    Called again with the same arguments after it was killed, it goes on from the newest whole checkpoint in `folder`; on a
    CPU the weights are then, bit for bit, those of a training that was never stopped.

    Args:
        student: of transformers, or one with LoRA adapters of peft around it.
        tokenizer: the student's; saved with its checkpoints.
        sequences: what is learnt.
        teacher: an `OfflineTeacher` with answers to the same examples, or an `OnlineTeacher`. None: the tokens alone are learnt,
            whatever the objective's weight.
        settings: the fields of `stillroom.spec.training.TrainingSpec`, and "packing": whether several examples share a row of at
            most max_length tokens. Among the "arguments" `fsdp` shards the student, see `stillroom.training.sharding`.
        folder: for the checkpoints; may be deleted once the model is saved.
        vocabulary_size: rows of the models' heads that stand for a token, counted from 0; the others are cut off.
        validation: for the learning curve; never trained on.
        callbacks: further callbacks of transformers.
        progress: told the optimiser steps done and in all.

    Returns:
        The learning curve: train_loss (the objective, a mean since the point before), and, if there is validation,
        validation_loss (cross-entropy in nats a token) and validation_accuracy (tokens that the student thinks likeliest).

    Raises:
        BadInput: the settings, examples that do not fit, a vocabulary of another size, or knowledge of other examples.
        StageFailed: the loss or the teacher is no longer finite, a checkpoint cannot be written, an answer cannot be read, or there
            is too little memory: said before the first step, with the figures.
    """
    packing = bool(settings["packing"])
    if teacher is None or not objective.looks_at_teacher():
        teacher, objective = None, objective.control
    sharding, other = read_sharding(settings["arguments"])
    arguments = training_arguments({**settings, "arguments": other}, seed=seed, folder=folder, validated=validation is not None)
    if sharding is not None and not torch.distributed.is_initialized():
        raise BadInput.at("training.arguments.fsdp", "is set, but there is one process only; start several with torchrun, or remove it.")
    if arguments.train_sampling_strategy != "group_by_length" and (packing or arguments.world_size > 1):
        reason = "has no meaning with packing or several processes, whose batches Stillroom lays out itself; remove it."
        raise BadInput.at("training.arguments.train_sampling_strategy", f"= {arguments.train_sampling_strategy!r} {reason}")
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for torchrun: copies in threads would not see the student's head
    _check_student(student)
    _check_examples(student, sequences, settings["max_length"], vocabulary_size)
    if validation is not None:
        _check_examples(student, validation, settings["max_length"], vocabulary_size, place="validation")
    if packing:
        _check_packing(_inner(student), "student")
    if isinstance(teacher, OnlineTeacher) and packing:
        _check_packing(teacher.model, "teacher")
    if teacher is not None:
        _check_teacher(teacher, student, sequences, objective, vocabulary_size)

    padding = tokenizer.pad_token_id or 0
    read = None if teacher is None else partial(teacher.read, vocabulary_size=vocabulary_size)
    train_set = TokenRows(sequences.examples, packed=packing, padding=padding, read=read)
    limit, sharded = settings["max_length"], sharding is not None
    _check_memory(student, teacher, train_set, arguments, vocabulary_size, max_length=limit, sharded=sharded)
    validation_set = None if validation is None else TokenRows(validation.examples, padding=padding)
    data = [[example.fingerprint for example in part.examples] for part in (sequences, validation) if part is not None]
    code = [torch.__version__, transformers.__version__]
    taught = [None if teacher is None else teacher.fingerprint, repr(objective), vocabulary_size]
    training = fingerprint("language", parameters_fingerprint(student), data, dict(settings), seed, taught, code)

    with nullcontext(student) if sharding is None else sharded_twin(student) as trained:

        def make_trainer(watching: list[TrainerCallback]) -> TokenTrainer:
            measure_inside_forward(trained, vocabulary_size)
            return TokenTrainer(
                train_set,
                validation_set,
                objective=objective,
                teacher=teacher,
                vocabulary_size=vocabulary_size,
                max_length=settings["max_length"],
                sharding=sharding,
                model=trained,
                args=arguments,
                processing_class=tokenizer,
                callbacks=watching,
            )

        return run_training(
            make_trainer, trained, training=training, settings=settings, seed=seed, folder=folder, callbacks=callbacks, progress=progress
        )


def measure_inside_forward(student: nn.Module, vocabulary_size: int) -> None:
    """Make `student(input_ids=, places=, measure=)` what `measure` makes of its hidden states there, (N, H), and its head.

    Only what happens inside forward() is seen by DDP, which would not add up the gradients of anything else, and by FSDP,
    which gathers the head's weight for as long. `del student.forward` undoes it.
    """
    inner = _inner(student)

    def forward(*, input_ids: Tensor, places: Tensor, measure: Measure, position_ids: Tensor | None = None) -> Tensor:
        # No attention mask: what pads a row stands behind its tokens, and no token sees what comes later.
        hidden = hidden_states(inner, input_ids, position_ids=position_ids)
        return measure(hidden.flatten(0, 1)[places], head_for_loss(inner, vocabulary_size))

    student.forward = forward


class TokenTrainer(ShardedCheckpoints, GlobalMeanTrainer):
    """The trainer of a student whose forward() measures: see `measure_inside_forward`."""

    objective: TokenLoss

    def __init__(
        self,
        rows: TokenRows,
        validation: TokenRows | None,
        *,
        objective: TokenLoss,
        teacher: TokenTeacher | None,
        vocabulary_size: int,
        max_length: int,
        sharding: Sharding | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(lengths=rows.lengths, train_dataset=rows, eval_dataset=validation, data_collator=rows.collate, **arguments)
        if sharding is not None:
            model: Any = self.model
            sharding.shard(model, _inner(model), precision=self.accelerator.mixed_precision)
            model._is_accelerate_prepared = True  # or accelerate would put DDP around it
        self.validation, self.packed, self.max_length = validation, rows.packed, max_length
        self.objective, self.teacher, self.vocabulary_size = objective, teacher, vocabulary_size

    def counts(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """() how many positions are asked."""
        return torch.tensor(len(inputs["labels"]))

    def share_of_loss(self, model: Any, inputs: Mapping[str, Tensor], counts: Tensor) -> tuple[Tensor, Any]:
        share = self.state.global_step / max(self.state.max_steps - 1, 1)
        answers: Teacher | None = None
        if self.teacher is not None and self.objective.looks_at_teacher(share):
            with self.accelerator.autocast():
                answers = self.teacher.answer(inputs, self.vocabulary_size)

        def measure(hidden: Tensor, head: Head) -> Tensor:
            return self.objective.loss(hidden, head, answers, inputs["labels"], share=share, num_tokens=counts).loss

        return _measured(model, inputs, measure), None

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """The mean cross-entropy and accuracy over all asked tokens of the validation examples."""
        assert self.validation is not None
        model: Any = self.model
        sums = torch.zeros(3, dtype=torch.float64)
        batches = self.validation.in_order(self.args.per_device_eval_batch_size, self.args.world_size)
        model.eval()
        with torch.no_grad():
            for batch in batches[self.args.process_index :: self.args.world_size]:
                inputs = self._prepare_inputs(self.validation.collate(batch))
                sums += _measured(model, inputs, partial(_validation_sums, labels=inputs["labels"])).double().cpu()
        give_up_gathered(model)
        loss, correct, num_tokens = self.accelerator.reduce(sums.to(self.args.device), reduction="sum").tolist()
        means = {"loss": loss / max(num_tokens, 1), "accuracy": correct / max(num_tokens, 1)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.packed:
            rows: Any = PackedRows(self.lengths, self.max_length, self.args.seed)
        else:
            rows = super()._get_train_sampler(train_dataset)
        return rows if self.args.world_size == 1 else FilledBatches(rows, self._train_batch_size * self.args.world_size)


def _measured(model: Any, inputs: Mapping[str, Tensor], measure: Measure) -> Tensor:
    seen = {name: inputs[name] for name in ("input_ids", "position_ids", "places") if name in inputs}
    measured: Tensor = model(**seen, measure=measure)
    return measured


def _validation_sums(hidden: Tensor, head: Head, *, labels: Tensor) -> Tensor:
    """(3,) cross-entropy in nats, tokens that were the likeliest, and tokens: summed over N positions."""
    loss, correct = hidden.new_zeros((), dtype=torch.float32), labels.new_zeros(())
    for start in range(0, len(labels), _VALIDATION_ROWS):
        rows = slice(start, start + _VALIDATION_ROWS)
        logits, _ = activate(nn.functional.linear(hidden[rows], head.weight).float(), head)
        loss += nn.functional.cross_entropy(logits, labels[rows], reduction="sum")
        correct += (logits.argmax(dim=-1) == labels[rows]).sum()
    return torch.stack([loss, correct.float(), torch.tensor(float(len(labels)), device=loss.device)])


def _inner(student: nn.Module) -> PreTrainedModel:
    """The model of transformers itself, inside the adapters of peft where there are any."""
    unwrap: Any = getattr(student, "get_base_model", lambda: student)
    inner: PreTrainedModel = unwrap()
    return inner


def _check_student(student: nn.Module) -> None:
    """Refuse adapters that work outside the hidden states and the head as the loss sees them."""
    head = _inner(student).get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        message = f"has an adapter around its output head ({type(head).__name__}), which the loss would not see."
        raise BadInput.at("student", f"{message} Leave the head out of target_modules.")
    if getattr(getattr(student, "active_peft_config", None), "is_prompt_learning", False):
        raise BadInput.at("student", "learns a prompt, which moves all positions; use an adapter that changes weights, such as LoRA.")


def _check_examples(student: nn.Module, sequences: Sequences, max_length: int, vocabulary_size: int, *, place: str = "data") -> None:
    """Refuse examples that the student cannot read or that have nothing to say about an asked position; every kind of problem at once."""
    examples = sequences.examples
    context = getattr(_inner(student).config, "max_position_embeddings", None) or max_length
    limit, name = min((max_length, "training.max_length"), (context, "the student's context"))
    too_long = [number for number, example in enumerate(examples) if len(example) > limit]
    unknown = [n for n, e in enumerate(examples) if len(e) and not (e.token_ids.min() >= 0 and e.token_ids.max() < vocabulary_size)]
    endless = [number for number, example in enumerate(examples) if len(example) == 0 or example.asked[-1]]
    problems = []
    if not examples:
        problems.append(Problem(place, "holds no examples; there is nothing to learn."))
    if too_long:
        lengths = f"example {too_long[0]} has {len(examples[too_long[0]])} tokens, {name} is {limit}"
        problems.append(Problem(place, f"{len(too_long)} of {len(examples)} examples are too long: {lengths}. Tokenise with that length."))
    if unknown:
        message = f"example {unknown[0]} has a token outside the vocabulary of {vocabulary_size}; use the student's own tokenizer."
        problems.append(Problem(place, message))
    if endless:
        problems.append(Problem(place, f"example {endless[0]} asks what follows its last token, which nobody knows; do not ask there."))
    if problems:
        raise BadInput(problems)


def _check_memory(
    student: nn.Module,
    teacher: TokenTeacher | None,
    rows: TokenRows,
    arguments: TrainingArguments,
    vocabulary_size: int,
    *,
    max_length: int,
    sharded: bool,
) -> None:
    """Refuse a training whose largest batch does not fit into memory."""
    inner, row_tokens = _inner(student), max_length if rows.packed else max(rows.lengths)
    needed = partial(
        training_memory, student, inner, row_tokens=row_tokens, kept_of_row=kept_activations(inner, row_tokens, packed=rows.packed),
        vocabulary_size=vocabulary_size, arguments=arguments, teacher=TeacherMemory() if teacher is None else teacher.memory,
        sharded=sharded,
    )  # fmt: skip
    size = min(arguments.per_device_train_batch_size, len(rows))
    refuse_too_large_training(
        lambda num_rows: needed(rows=num_rows), size, inner.device, accumulation=arguments.gradient_accumulation_steps
    )


def _check_packing(model: PreTrainedModel, who: str) -> None:
    """Refuse to pack where an example sees the one before it in its row: this depends on architecture, attention and version."""
    ids = torch.arange(12, device=model.device)[None] % model.config.vocab_size
    positions = torch.tensor([[*range(5), *range(7)]], device=model.device)
    remedy = "set training.packing to false."
    with answering(model):
        alone = hidden_states(model, ids[:, 5:])
        try:
            packed = hidden_states(model, ids, position_ids=positions)[:, 5:]
        except TypeError as error:
            raise BadInput.at("training.packing", f"= true: the {who} ({type(model).__name__}) takes no positions; {remedy}") from error
    difference, allowed = (packed - alone).abs().max(), max(_SAME_STATES, 16 * torch.finfo(alone.dtype).eps) * alone.abs().max()
    if not difference <= allowed:
        attention = getattr(model.config, "_attn_implementation", "unknown")
        message = (
            f"= true: the {who} ({type(model).__name__}, attention {attention!r}) lets an example see those before it in its row; {remedy}"
        )
        raise BadInput.at("training.packing", message)


def _check_teacher(teacher: TokenTeacher, student: nn.Module, sequences: Sequences, objective: TokenLoss, vocabulary_size: int) -> None:
    """Rehearse the loss on the first example: what does not fit is said before the training starts."""
    inner = _inner(student)
    teacher.check(sequences.examples, objective.temperatures)
    rows = TokenRows(sequences.examples, read=partial(teacher.read, vocabulary_size=vocabulary_size))
    inputs = {name: column.to(inner.device) for name, column in rows.collate([(0,)]).items()}
    with torch.no_grad():
        try:
            head, answers = head_for_loss(inner, vocabulary_size), teacher.answer(inputs, vocabulary_size)
            hidden = torch.zeros(len(inputs["places"]), head.width, device=inner.device)
            for share in (0.0, 1.0):
                objective.loss(hidden, head, answers, inputs["labels"], share=share)
        except ValueError as error:
            if isinstance(error, StillroomError):
                raise
            raise BadInput.at("objective", str(error)) from error
