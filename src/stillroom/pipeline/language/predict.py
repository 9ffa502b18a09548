"""The student of a language model's run at work: the texts that it writes, and how well it foresees those of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stillroom.core.errors import BadInput, Problem
from stillroom.core.protocols import Progress
from stillroom.data.conversations import chat_prompt, end_of_turn
from stillroom.data.corpus import read_documents
from stillroom.data.exchanges import read_answered
from stillroom.data.sequences import tokenise
from stillroom.models.language import LanguagePredictor
from stillroom.models.language_scores import score
from stillroom.models.token_batches import context_length

if TYPE_CHECKING:
    from stillroom.spec.job import Job


def write_texts(
    model: LanguagePredictor,
    prompts: Sequence[Any],
    *,
    is_chat: bool,
    new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    progress: Progress | None = None,
) -> list[str]:
    """What the model writes after each prompt; see `stillroom.pipeline.predict.StudentPredictor.generate`."""
    if problems := list(_problems(prompts, new_tokens, temperature, top_p, seed)):
        raise BadInput(problems)
    places = [f"prompt {number}" for number in range(1, len(prompts) + 1)]
    if is_chat:
        texts = [chat_prompt(prompt, model.tokenizer, place=place) for prompt, place in zip(prompts, places, strict=True)]
    else:
        texts = [_text(prompt, place) for prompt, place in zip(prompts, places, strict=True)]
    end = end_of_turn(model.tokenizer) if is_chat else None
    _check_lengths(model, texts, is_chat, new_tokens)
    return model.continuations(
        texts, max_new_tokens=new_tokens, seed=seed if temperature > 0 else None, sampling_temperature=temperature or 1.0, top_p=top_p,
        is_rendered=is_chat, end_ids=() if end is None else (end,), progress=progress,
    )  # fmt: skip


def _text(prompt: Any, place: str) -> str:
    if isinstance(prompt, str):
        return prompt
    raise BadInput.at(place, f"holds a {type(prompt).__name__}, not a text; messages are for models that have learnt from data.messages.")


def _problems(prompts: Sequence[Any], new_tokens: int, temperature: float, top_p: float, seed: int) -> Iterator[Problem]:
    if isinstance(prompts, str):
        yield Problem("prompts", "is one text; give a list of them.")
    elif not len(prompts):
        yield Problem("prompts", "are missing; give at least one.")
    if new_tokens < 1:
        yield Problem("new_tokens", f"= {new_tokens} must be at least 1.")
    if not 0 <= temperature <= 100:
        yield Problem("temperature", f"= {temperature} is outside [0, 100]; 0 takes the likeliest token each time, 1 samples as learnt.")
    if not 0 < top_p <= 1:
        yield Problem("top_p", f"= {top_p} is outside (0, 1]; 1 samples from all tokens.")
    elif top_p < 1 and temperature == 0:
        yield Problem("top_p", f"= {top_p} has no use at temperature 0, which samples nothing; give a temperature above 0.")
    if seed < 0:
        yield Problem("seed", f"= {seed} must be at least 0.")


def _check_lengths(model: LanguagePredictor, texts: Sequence[str], is_chat: bool, new_tokens: int) -> None:
    context, problems = context_length(model.model), []
    for number, text in enumerate(texts, start=1):
        length = len(model.prompt_ids(text, is_rendered=is_chat))
        if not length:
            problems.append(Problem(f"prompt {number}", "is empty, and the tokenizer knows no token to begin a text with; give a word."))
        elif context is not None and length + new_tokens > context:
            remedy = f"ask for at most {context - length}" if length < context else "shorten it"
            problems.append(
                Problem(f"prompt {number}", f"has {length} tokens: with {new_tokens} new ones over the context, {context}; {remedy}.")
            )
    if problems:
        raise BadInput(problems)


def surprise(model: LanguagePredictor, job: Job, file: Path) -> pd.DataFrame:
    """A row a document of the file: nats_per_token, the mean of -log q(next token) over what of it the job would learn, as the
    evaluation measures it; and tokens, how many those are. A document without any is blank.

    Raises:
        BadInput: the file, as `stillroom.data.corpus.read_documents`.
    """
    if job.learns_responses:
        documents = [each.learnt(each.gold, model.tokenizer) for each in read_answered(file, job.data, place="FILE")]
    else:
        documents = read_documents(file, job.data, model.tokenizer, place="FILE")
    sequences, _ = tokenise(documents, model.tokenizer, max_length=job.training.max_length)
    found = score(model.model, sequences, vocabulary_size=model.vocabulary_size, batch_tokens=job.labelling.batch_tokens, place="student")
    nll, tokens = (np.bincount(found.rows, sums, minlength=len(documents)) for sums in (found.nll, found.num_tokens))
    means = np.divide(nll, tokens, out=np.full(len(documents), np.nan), where=tokens > 0)
    return pd.DataFrame({"nats_per_token": means, "tokens": tokens.astype(np.int64)})
