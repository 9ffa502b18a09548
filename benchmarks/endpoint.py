"""The endpoint's client beside a bare aiohttp loop, distilabel and bespokelabs-curator, on one scripted server on loopback.

    python benchmarks/endpoint.py                    everything, endpoint.md rewritten (about five minutes; with peers, fifteen)
    python benchmarks/endpoint.py --quick            fewer rows, printed, under a minute
    python benchmarks/endpoint.py --json FILE        the raw figures; the cases that FILE holds are not measured again
    --distilabel PYTHON, --curator PYTHON            interpreters of environments of their own that hold a peer:
        python -m venv distilabel && distilabel/bin/pip install "distilabel[openai]==1.5.3"
        python -m venv curator && curator/bin/pip install bespokelabs-curator

The server is a process of its own; every system is a fresh process, timed from its first row to its last, start-up left out.
Every answer of ours is durable in a knowledge store, which is read back and counted. Run it on quiet cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "tests" / "servers" / "scripted_server.py"
TEXT = "the quick brown fox jumps over the lazy dog and runs into the deep green forest where nobody has ever been before today so that"


@dataclass(frozen=True)
class Case:
    """One server, one load."""

    name: str
    rows: int
    at_once: int
    latency: float
    sigma: float = 0.0
    rate: float = 0.0
    share_400: float = 0.0
    rounds: int = 3
    peer_rounds: int = 1

    @property
    def ideal(self) -> float:
        return self.rate or self.at_once / self.latency


CASES = (
    Case("100 ms, 256 at once", 5000, 256, 0.1, rounds=5, peer_rounds=3),
    Case("200 ms, 50 at once", 5000, 50, 0.2),
    Case("log-normal, median 120 ms, sigma 1, 50 at once", 2000, 50, 0.12, sigma=1.0),
    Case("200 ms, 50 at once, 1 % answered 400", 2000, 50, 0.2, share_400=0.01),
    Case("a hidden limit of 20 requests/s, 200 ms", 1000, 50, 0.2, rate=20.0, rounds=1),
)


def prompts(num: int) -> list[str]:
    """Sixty words each, all different."""
    words = TEXT.split()
    return [" ".join([f"row {i}:", *(words[(i * 7 + k) % len(words)] for k in range(58))]) for i in range(num)]


# --- the systems: each is run as `endpoint.py --worker SYSTEM`, and prints one JSON line


def ours(url: str, case: Case) -> dict[str, Any]:
    import resource

    import aiohttp  # noqa: F401 - start-up is not measured: neither imports nor the first write, which imports what it needs

    from stillroom.core.chat import ChatParameters, ChatRequest, Reply
    from stillroom.core.fingerprint import fingerprint
    from stillroom.knowledge.store import KnowledgeStore
    from stillroom.teachers.endpoint.address import Endpoint
    from stillroom.teachers.endpoint.durable import ask_all, stored_outcomes

    parameters, endpoint = ChatParameters("m", max_tokens=16), Endpoint(url, max_concurrency=case.at_once)
    texts = prompts(case.rows)
    facts = {"question": "warm"}
    with tempfile.TemporaryDirectory() as folder, KnowledgeStore(folder) as store:
        store.put_blocks([fingerprint("answer", facts)], [b""], [facts])
    with tempfile.TemporaryDirectory() as folder, KnowledgeStore(folder) as store:
        cpu = time.process_time()
        start = time.perf_counter()
        ended = ask_all(store, endpoint, (ChatRequest(({"role": "user", "content": text},), parameters) for text in texts))
        seconds = time.perf_counter() - start
        cpu = time.process_time() - cpu
        again = (ChatRequest(({"role": "user", "content": text},), parameters) for text in texts)
        durable = sum(isinstance(each, Reply) for each in stored_outcomes(store, endpoint, again))
    assert durable == ended.answered
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"answered": durable, "seconds": seconds, "cpu": cpu, "memory_mib": memory}


def bare(url: str, case: Case) -> dict[str, Any]:
    """The least that aiohttp users write: as many workers as may be at once, json in, json out, nothing stored."""
    import aiohttp

    texts = iter(prompts(case.rows))
    answers: list[str] = []

    async def work() -> tuple[float, float]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=case.at_once)) as session:

            async def worker() -> None:
                for text in texts:
                    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
                    async with session.post(f"{url}/chat/completions", json=body) as response:
                        reply = await response.json()
                        if response.status == 200:
                            answers.append(reply["choices"][0]["message"]["content"])

            cpu, start = time.process_time(), time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(case.at_once)))
            return time.perf_counter() - start, time.process_time() - cpu

    seconds, cpu = asyncio.run(work())
    return {"answered": len(answers), "seconds": seconds, "cpu": cpu}


def distilabel(url: str, case: Case) -> dict[str, Any]:
    from datasets import Dataset
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps.tasks import TextGeneration

    with Pipeline("benchmark") as pipeline:
        model = OpenAILLM(model="m", base_url=url, api_key="none", generation_kwargs={"max_new_tokens": 16})
        TextGeneration(llm=model, input_batch_size=case.at_once)
    data = Dataset.from_dict({"instruction": prompts(case.rows)})
    start = time.perf_counter()
    found = pipeline.run(dataset=data, dataset_batch_size=case.at_once, use_cache=False)
    seconds = time.perf_counter() - start
    return {"answered": sum(row["generation"] is not None for row in found["default"]["train"]), "seconds": seconds}


def curator(url: str, case: Case) -> dict[str, Any]:
    import litellm
    from bespokelabs import curator as package
    from datasets import Dataset

    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"))
    limits = {"max_requests_per_minute": 10**6, "max_tokens_per_minute": 10**9, "max_concurrent_requests": case.at_once}
    settings = {"base_url": url, "api_key": "none", **limits}

    class Ask(package.LLM):  # type: ignore[misc]
        def prompt(self, row: dict[str, Any]) -> str:
            return str(row["text"])

        def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
            return {"answer": response}

    model = Ask(model_name="m", backend="openai", generation_params={"max_tokens": 16}, backend_params=settings)
    start = time.perf_counter()
    found = model(Dataset.from_dict({"text": prompts(case.rows)}))
    seconds = time.perf_counter() - start
    rows = getattr(found, "dataset", found)
    return {"answered": len(rows), "seconds": seconds}


SYSTEMS = {"stillroom": ours, "bare aiohttp": bare, "distilabel": distilabel, "curator": curator}


# --- running them


@contextmanager
def server(case: Case) -> Iterator[str]:
    options = {"latency": case.latency, "sigma": case.sigma, "rate": case.rate, "share-400": case.share_400}
    command = [sys.executable, str(SERVER), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def measure(system: str, python: str, case: Case, limit_seconds: float) -> dict[str, Any]:
    """One system on one case: its own figures, and what the server saw."""
    with server(case) as url, tempfile.TemporaryDirectory() as home:
        command = [python, __file__, "--worker", system, "--url", url, "--case", json.dumps(asdict(case))]
        quiet = {"HF_HUB_OFFLINE": "1", "CURATOR_DISABLE_RICH_DISPLAY": "1", "TELEMETRY_ENABLED": "0", "CURATOR_CACHE_DIR": home}
        source = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])} if python == sys.executable else {}
        environment = {**os.environ, **quiet, **source}
        try:
            done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {limit_seconds:.0f} s"}
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"answered"')]
        if not lines:
            return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}
        with urllib.request.urlopen(url.replace("/v1", "/stats")) as answer:
            seen = json.load(answer)
    figures = json.loads(lines[-1])
    figures |= {"rate": figures["answered"] / figures["seconds"], "net_rate": figures["answered"] / max(seen["seconds"], 1e-9)}
    figures |= {"refused": seen["statuses"].get("429", 0) / case.rows, "requests": seen["requests"], "most_at_once": seen["most_in_flight"]}
    return figures


def run(options: argparse.Namespace) -> dict[str, Any]:
    pythons = {"stillroom": sys.executable, "bare aiohttp": sys.executable}
    pythons |= {name: str(python) for name in ("distilabel", "curator") if (python := getattr(options, name))}
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for case in (CASES[0], CASES[4]) if options.quick else CASES:
        if case.name in results:
            continue
        if options.quick:
            case = replace(case, rows=300 if case.rate else 1500)
        tries: dict[str, list[dict[str, Any]]] = {}
        for turn in range(1 if options.quick else case.rounds):  # by turns: a machine that becomes slower does so for all
            for system, python in pythons.items():
                own = python == sys.executable
                if (case.rate and system == "bare aiohttp") or (turn >= case.peer_rounds and not own):
                    continue  # the bare loop retries nothing
                asked = case if own else replace(case, rows=min(case.rows, options.peer_rows))
                tries.setdefault(system, []).append(measure(system, python, asked, options.limit))
                print(case.name, "|", system, "|", tries[system][-1], flush=True)
        results[case.name] = {"case": asdict(case), "systems": {system: middle(found) for system, found in tries.items()}}
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    return results


def middle(tries: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of median rate, and the rates of all."""
    good = sorted((each for each in tries if "rate" in each), key=lambda each: each["rate"])
    return {**good[len(good) // 2], "rates": [each["rate"] for each in good]} if good else tries[0]


# --- the page


INTRODUCTION = """One scripted server on loopback, a process of its own that shares the cores; each system in a fresh process, from
its first row to its last, start-up left out. The systems take turns; of a system's runs the one of median rate stands here, with the
rates of all from least to most. Every answer of stillroom was durable in a knowledge store, and was read back and counted. Net: by the
server's clock, first request to last. Processor: ms a row, of the client's process. Refused: answers 429 in percent of the rows."""


def page(results: dict[str, Any], machine: dict[str, str], command: str) -> str:
    lines = ["# Asking an endpoint", "", f"Output of `{command}`. {INTRODUCTION}", ""]
    for name, part in results.items():
        case, systems = Case(**part["case"]), part["systems"]
        lines += [f"## {name}: {case.rows} rows, ideal {case.ideal:.0f}/s", ""]
        lines += ["| system | rows/s | of all | net | processor | answered | refused | most at once | against bare |", f"|{' --- |' * 9}"]
        base = systems.get("bare aiohttp", {}).get("rate")
        for system, each in systems.items():
            if "error" in each:
                lines.append(f"| {system} | failed: {each['error']} | | | | | | | |")
                continue
            share = f"{100 * each['rate'] / base:.0f} %" if base else ""
            refused = f"{100 * each['refused']:.1f} %"
            every = f"{each['rates'][0]:.0f} to {each['rates'][-1]:.0f}" if len(each["rates"]) > 1 else ""
            processor = f"{1000 * each['cpu'] / case.rows:.2f}" if "cpu" in each else ""
            cells = [f"{each['rate']:.1f}", every, f"{each['net_rate']:.1f}", processor]
            cells += [str(each["answered"]), refused, str(each["most_at_once"]), share]
            lines.append(f"| {system} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Targets", "", *verdicts(results), "", "## Where", ""]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in machine.items()), ""])


def verdicts(results: dict[str, Any]) -> list[str]:
    """Each target, and whether it was met."""

    def rate(case: Case, system: str) -> float | None:
        found = results.get(case.name, {}).get("systems", {}).get(system, {}).get("rate")
        return float(found) if found else None

    checks: list[tuple[str, float | None, float]] = []
    mine = rate(CASES[0], "stillroom")
    for system, factor in (("bare aiohttp", 0.8), ("distilabel", 10.0)):
        peer = rate(CASES[0], system)
        checks.append((f"{CASES[0].name}: at least {factor:g} times {system}", mine / peer if mine and peer else None, factor))
    checks.append((f"{CASES[1].name}: at least 235 rows/s", rate(CASES[1], "stillroom"), 235.0))
    checks.append((f"{CASES[4].name}: at least 19 rows/s", rate(CASES[4], "stillroom"), 19.0))
    lines = []
    for words, value, least in checks:
        said = "not measured" if value is None else f"{value:.2f}, {'met' if value >= least else 'MISSED'}"
        if "distilabel" in words and (plain := rate(CASES[0], "bare aiohttp")) and (peer := rate(CASES[0], "distilabel")):
            said += f" (the bare loop, which stores nothing, is {plain / peer:.2f} times distilabel)"
        lines.append(f"- {words}: {said}")
    limited = results.get(CASES[4].name, {}).get("systems", {}).get("stillroom", {})
    if "refused" in limited:
        lines.append(f"- the same: under 2 % refused: {100 * limited['refused']:.1f} %, {'met' if limited['refused'] < 0.02 else 'MISSED'}")
    return lines


def versions(pythons: dict[str, Path | None]) -> dict[str, str]:
    import aiohttp

    from stillroom.pipeline.report import environment

    found = {**environment(), "aiohttp": aiohttp.__version__}
    for package, python in pythons.items():
        if python is not None:
            code = f"from importlib.metadata import version as v; print(v({package!r}))"
            found[package] = subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.strip()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--distilabel", type=Path)
    parser.add_argument("--curator", type=Path)
    parser.add_argument("--peer-rows", type=int, default=10**9, help="at most so many rows for a peer: on a busy machine they take long")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds that one system may take for one case")
    for hidden in ("--worker", "--url", "--case"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(SYSTEMS[options.worker](options.url, Case(**json.loads(options.case)))), flush=True)
        return
    results = run(options)
    machine = versions({"distilabel": options.distilabel, "bespokelabs-curator": options.curator})
    flags = [f"--{name} PYTHON" for name in ("distilabel", "curator") if getattr(options, name)]
    flags += [f"--peer-rows {options.peer_rows}"] if options.peer_rows < 10**9 else []
    text = page(results, machine, " ".join(["python benchmarks/endpoint.py", *["--quick"] * options.quick, *flags]))
    if options.quick:
        print(text)
    else:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
