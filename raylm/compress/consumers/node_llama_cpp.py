"""node-llama-cpp: llama.cpp for Node.js, which many desktop programs embed; templates are rendered by @huggingface/jinja."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar, Literal

from raylm.compress.consumers import npm
from raylm.compress.consumers.consumer import Consumer, Logprobs, Prompt, Ran, threads_for
from raylm.compress.consumers.xllamacpp import NUM_LOGPROBS, context_length, gguf_in
from raylm.core.errors import ArtifactError

SCRIPT = Path(__file__).with_suffix(".mjs")


class NodeLlamaCpp(Consumer):
    """The npm package (https://github.com/withcatai/node-llama-cpp) with its own build of llama.cpp, on the CPU."""

    reads: ClassVar[tuple[str, ...]] = ("gguf",)

    kind: Literal["node_llama_cpp"] = "node_llama_cpp"

    def installed(self) -> str:
        return npm.missing("node-llama-cpp", "@node-llama-cpp/linux-x64")

    def version(self) -> str:
        return npm.version_of("node-llama-cpp")

    def run(self, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
        import numpy as np

        asked = {
            "file": str(gguf_in(folder).resolve()),
            "context": context_length(prompts, max_tokens),
            "logprobs": NUM_LOGPROBS,
            "threads": threads_for(gguf_in(folder)),
            "max_tokens": max_tokens,
            "prompts": prompts,
        }
        with tempfile.TemporaryDirectory(prefix="raylm-node-") as name:
            (Path(name) / "asked.json").write_text(json.dumps(asked))
            command = ["node", str(SCRIPT), str(npm.folder()), name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.deadline_s, check=False)
            said = Path(name) / "said.json"
            if done.returncode or not said.is_file():
                raise ArtifactError(f"node-llama-cpp: {(done.stderr or done.stdout).strip()[-400:]}")
            answers = json.loads(said.read_text())
        return [
            Ran(
                each["ids"],
                len(each["ids"]),
                each["tokens"],
                each["text"],
                Logprobs(
                    np.array([ids for ids, _ in each["steps"]], np.int32),
                    # a probability of zero has no logarithm in JSON
                    np.array([[-np.inf if v is None else v for v in values] for _, values in each["steps"]], np.float32),
                ),
            )
            for each in answers
        ]
