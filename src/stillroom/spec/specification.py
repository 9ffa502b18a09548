"""`specification`: the job that a teacher behind an endpoint is asked to do, said once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, JsonValue, StringConstraints

from stillroom.core.errors import Problem, nearest
from stillroom.core.specification import Specification, WorkedExample
from stillroom.spec.base import Params, Spec, described

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ExampleSpec(Spec):
    """A worked example."""

    input: Words
    output: JsonValue = described(
        "The answer that is wanted: a label, a text, or data that output_schema allows; for sequence-labelling {entities: [{text, label}]}."
    )


class SpecificationSpec(Spec):
    """What the job is, what its answers may be, and examples."""

    task: Words = described("What is to be done, as a person would explain it to a new colleague.")
    labels: dict[Words, str] | Annotated[tuple[Words, ...], Field(strict=False)] = described(
        "text-classification, sequence-labelling: the labels with their definitions, or their names alone; absent: those of the data.",
        default=(),
    )
    output_schema: Params | None = described("JSON Schema of a structured answer; absent: answers are labels or free text.", default=None)
    examples: Annotated[tuple[ExampleSpec, ...], Field(strict=False)] = described("Shown to the teacher before each question.", default=())

    def record(self, classes: Sequence[str] = ()) -> Specification:
        """Without pydantic. `classes`: those of the data, for a specification that names none."""
        names = self.labels if isinstance(self.labels, dict) else dict.fromkeys(self.labels, "")
        examples = tuple(WorkedExample(each.input, each.output) for each in self.examples)
        return Specification(self.task, names or dict.fromkeys(classes, ""), self.output_schema, examples)

    def problems(self, *, has_mentions: bool = False) -> Iterator[Problem]:
        """What the section gets wrong by itself.

        Args:
            has_mentions: answers are mentions in the text, each with a label, instead of labels.
        """
        if self.labels and self.output_schema is not None:
            yield Problem("specification.output_schema", "and specification.labels both say what an answer is; keep one.")
        if not isinstance(self.labels, dict) and len(set(self.labels)) < len(self.labels):
            yield Problem("specification.labels", "name a label twice; name each once.")
        for i, example in enumerate(() if has_mentions else self.examples):
            if self.labels and example.output not in list(self.labels):
                shown: Any = example.output
                yield Problem(f"specification.examples[{i}].output", f"= {shown!r} is no label; {nearest(str(shown), list(self.labels))}")
