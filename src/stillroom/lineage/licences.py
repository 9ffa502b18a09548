"""Well-known licences and terms, and what they say about training a model on a teacher's answers.

Not legal advice: a dated reading of public texts. `checked_on` is the day on which the text was read; an entry that
nobody has read again says so. A name that is missing here is an error, never a permission.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OutputTraining = Literal["allowed", "conditional", "forbidden"]

NOT_RECHECKED = "not re-checked"
"""For `checked_on`: the entry is common knowledge about a text that was not at hand when the table was made."""

_READ = "2026-11-22"


@dataclass(frozen=True)
class Licence:
    """One licence or set of terms.

    Attributes:
        name: what a job file writes; compared without regard to case.
        output_training: may a model's answers under it train another model?
        conditions: what has to be kept in mind, one sentence each.
        source: the public page of the text.
        checked_on: ISO date on which the text was read, or `NOT_RECHECKED`.
        aliases: other names in use, such as the Hugging Face identifier.
    """

    name: str
    title: str
    output_training: OutputTraining
    conditions: tuple[str, ...]
    source: str
    checked_on: str = NOT_RECHECKED
    aliases: tuple[str, ...] = ()


_KEEP_NOTICE = "A student that copies the teacher's weights keeps its copyright notice and licence text."
_COMPETING = "Whether a narrow student competes is for a person to judge and to sign; until then the run is refused."

_OPEN = (
    Licence("MIT", "MIT License", "allowed", (_KEEP_NOTICE,), "https://spdx.org/licenses/MIT.html"),
    Licence("Apache-2.0", "Apache License 2.0", "allowed", (_KEEP_NOTICE,), "https://www.apache.org/licenses/LICENSE-2.0"),
    Licence("BSD-3-Clause", "BSD 3-Clause License", "allowed", (_KEEP_NOTICE,), "https://spdx.org/licenses/BSD-3-Clause.html"),
    Licence("CC0-1.0", "Creative Commons Zero 1.0", "allowed", (), "https://creativecommons.org/publicdomain/zero/1.0/legalcode"),
    Licence(
        "PDDL-1.0",
        "Open Data Commons Public Domain Dedication and License 1.0",
        "allowed",
        (),
        "https://opendatacommons.org/licenses/pddl/1-0/",
        aliases=("odc-pddl", "pddl"),
    ),
    Licence(
        "CC-BY-4.0",
        "Creative Commons Attribution 4.0",
        "conditional",
        ("Name the author and link to the licence wherever the student is shared.",),
        "https://creativecommons.org/licenses/by/4.0/legalcode",
    ),
    Licence(
        "CC-BY-SA-4.0",
        "Creative Commons Attribution-ShareAlike 4.0",
        "conditional",
        ("Name the author and link to the licence.", "What is adapted from the work is shared under the same licence."),
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    ),
    Licence(
        "CC-BY-NC-4.0",
        "Creative Commons Attribution-NonCommercial 4.0",
        "conditional",
        ("Non-commercial use only, the student included.", "Name the author and link to the licence."),
        "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    ),
    Licence(
        "GPL-3.0",
        "GNU General Public License 3.0",
        "conditional",
        (
            "Output is covered only where its content is itself a covered work (section 2).",
            "A student that copies weights is a derivative work.",
        ),
        "https://www.gnu.org/licenses/gpl-3.0.html",
        _READ,
        ("gpl-3.0-only", "gpl-3.0-or-later"),
    ),
    Licence(
        "AGPL-3.0",
        "GNU Affero General Public License 3.0",
        "conditional",
        ("As GPL-3.0; a student that copies weights and is served over a network comes with its source.",),
        "https://www.gnu.org/licenses/agpl-3.0.html",
        aliases=("agpl-3.0-only", "agpl-3.0-or-later"),
    ),
)

_LLAMA_NAME = "A model trained on its outputs and made available has a name that begins with 'Llama' (section 1.b.i)."
_LLAMA_SHOWN = "A product that contains the materials shows 'Built with Llama' and carries the agreement."
_LLAMA_SIZE = "More than 700 million monthly users at the release date need a licence from Meta."

_WEIGHTS = (
    Licence(
        "llama2",
        "Llama 2 Community License",
        "forbidden",
        ("Outputs may not be used to improve any large language model but Llama 2 and its derivatives (section 1.b.v).",),
        "https://ai.meta.com/llama/license/",
        _READ,
        ("llama-2",),
    ),
    Licence(
        "llama3",
        "Meta Llama 3 Community License (April 2024)",
        "forbidden",
        ("Outputs may not be used to improve any large language model but Llama 3 and its derivatives (section 1.b.v).",),
        "https://github.com/meta-llama/llama3/blob/main/LICENSE",
        _READ,
        ("llama-3",),
    ),
    Licence(
        "llama3.1",
        "Llama 3.1 Community License",
        "conditional",
        (_LLAMA_NAME, _LLAMA_SHOWN, _LLAMA_SIZE),
        "https://github.com/meta-llama/llama-models/blob/main/models/llama3_1/LICENSE",
        _READ,
        ("llama-3.1",),
    ),
    Licence(
        "llama3.2",
        "Llama 3.2 Community License",
        "conditional",
        (_LLAMA_NAME, _LLAMA_SHOWN, _LLAMA_SIZE),
        "https://github.com/meta-llama/llama-models/blob/main/models/llama3_2/LICENSE",
        aliases=("llama-3.2",),
    ),
    Licence(
        "llama3.3",
        "Llama 3.3 Community License",
        "conditional",
        (_LLAMA_NAME, _LLAMA_SHOWN, _LLAMA_SIZE),
        "https://github.com/meta-llama/llama-models/blob/main/models/llama3_3/LICENSE",
        aliases=("llama-3.3",),
    ),
    Licence(
        "llama4",
        "Llama 4 Community License",
        "conditional",
        (_LLAMA_NAME, _LLAMA_SHOWN, _LLAMA_SIZE),
        "https://github.com/meta-llama/llama-models/blob/main/models/llama4/LICENSE",
        _READ,
        ("llama-4",),
    ),
    Licence(
        "gemma",
        "Gemma Terms of Use (Gemma 1 to 3; Gemma 4 is Apache-2.0)",
        "conditional",
        (
            "A model trained on its outputs to behave like it is a 'Model Derivative': terms and prohibited uses go with the student.",
            "Google may restrict use that breaks the prohibited use policy.",
        ),
        "https://ai.google.dev/gemma/terms",
        _READ,
    ),
    Licence(
        "qwen",
        "Qwen License Agreement (larger Qwen2.5 models; most others are Apache-2.0)",
        "conditional",
        (
            "A model trained on its outputs and made available shows 'Built with Qwen' or 'Improved using Qwen' in its documentation.",
            "More than 100 million monthly users need a licence from Alibaba Cloud.",
        ),
        "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE",
        _READ,
    ),
    Licence(
        "qwen-research",
        "Qwen Research License Agreement",
        "conditional",
        ("Non-commercial use only, the student included.", "Shows 'Built with Qwen' or 'Improved using Qwen'."),
        "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
    ),
    Licence(
        "mistral-research",
        "Mistral AI Research License 0.1",
        "conditional",
        (
            "Outputs and derivatives serve research only; any other purpose needs a licence from Mistral AI.",
            "The student carries the same limit.",
        ),
        "https://mistral.ai/licenses/MRL-0.1.md",
        _READ,
        ("mrl", "mrl-0.1"),
    ),
    Licence(
        "mistral-non-production",
        "Mistral AI Non-Production License",
        "conditional",
        ("No production use: research and testing only, the student included.",),
        "https://mistral.ai/licenses/MNPL-0.1.md",
        aliases=("mnpl", "mnpl-0.1"),
    ),
    Licence(
        "deepseek",
        "DeepSeek License Agreement (models before R1; R1 and later are MIT)",
        "conditional",
        ("Distillation makes a derivative: the use restrictions of the agreement travel with the student.",),
        "https://deepseeklicense.github.io",
        _READ,
    ),
    Licence(
        "openrail-m",
        "Open RAIL-M (BigScience, BigCode, CreativeML)",
        "conditional",
        ("Distillation makes a derivative: the use restrictions of the licence travel with the student.",),
        "https://huggingface.co/spaces/bigscience/license",
        _READ,
        ("openrail", "bigscience-openrail-m", "bigcode-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0"),
    ),
    Licence(
        "tabpfn",
        "Prior Labs License 1.2 (TabPFN code and TabPFN-2 weights)",
        "conditional",
        (
            "A model distilled from its outputs and made available has a name that begins with 'TabPFN' (section 10).",
            "Internal benchmarking without external communication needs no attribution (section 10).",
        ),
        "https://github.com/PriorLabs/TabPFN/blob/main/LICENSE",
        _READ,
        ("tabpfn-2", "prior-labs", "prior-labs-1.2"),
    ),
    Licence(
        "tabpfn-2.5",
        "TabPFN-2.5 License",
        "conditional",
        ("The model, its derivatives and its outputs serve no commercial or production purpose, the student included.",),
        "https://huggingface.co/Prior-Labs/tabpfn_2_5",
        aliases=("tabpfn-2.5-license-v1.0",),
    ),
    Licence(
        "tabpfn-2.6",
        "TabPFN-2.6 License 1.0",
        "conditional",
        ("The model, its derivatives and its outputs serve no commercial or production purpose, the student included.",),
        "https://huggingface.co/Prior-Labs/tabpfn_2_6",
        _READ,
        ("tabpfn-2.6-license-v1.0",),
    ),
)

_TERMS = (
    Licence(
        "openai-terms",
        "OpenAI terms of use and services agreement",
        "forbidden",
        ("Output may not be used to develop models that compete with OpenAI.", _COMPETING),
        "https://openai.com/policies/",
        _READ,
        ("openai",),
    ),
    Licence(
        "anthropic-terms",
        "Anthropic commercial terms of service",
        "forbidden",
        ("The services may not be used to build a competing product or to train competing AI models without approval.", _COMPETING),
        "https://www.anthropic.com/legal/commercial-terms",
        _READ,
        ("anthropic",),
    ),
    Licence(
        "google-gemini-terms",
        "Gemini API additional terms of service",
        "forbidden",
        ("The services may not be used to develop models that compete with them.", _COMPETING),
        "https://ai.google.dev/gemini-api/terms",
        _READ,
        ("gemini", "google-gemini"),
    ),
    Licence(
        "mistral-terms",
        "Mistral AI terms of service",
        "forbidden",
        (
            "The terms restrict the use of outputs against Mistral AI's products and have changed over time; read those in force.",
            _COMPETING,
        ),
        "https://legal.mistral.ai/terms",
        aliases=("mistral",),
    ),
    Licence(
        "microsoft-ai-terms",
        "Microsoft Product Terms, generative AI services (Azure OpenAI)",
        "forbidden",
        ("The services may not be used to create, train or improve a similar or competing product or service.", _COMPETING),
        "https://www.microsoft.com/licensing/terms/",
        aliases=("azure-openai",),
    ),
    Licence(
        "xai-terms",
        "xAI terms of service",
        "forbidden",
        ("Output may not be used to develop models or services that compete with xAI, nor for distilling.", _COMPETING),
        "https://x.ai/legal/terms-of-service",
        aliases=("xai",),
    ),
)

LICENCES: tuple[Licence, ...] = _OPEN + _WEIGHTS + _TERMS

_BY_NAME = {name.lower(): licence for licence in LICENCES for name in (licence.name, *licence.aliases)}


def find_licence(name: str) -> Licence | None:
    """The entry called `name` (or one of its aliases), without regard to case; None if the table has none."""
    return _BY_NAME.get(name.strip().lower())


def licence_names() -> list[str]:
    """Every name that `find_licence` knows, as a job file writes it."""
    return sorted({name for licence in LICENCES for name in (licence.name, *licence.aliases)}, key=str.lower)
