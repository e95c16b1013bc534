"""Config of the `generate` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raylm.core.config import DialoguesRef, DocumentsRef, EngineUse, Makes, PromptsRef, Refers, Role, StageConfig, WorkerSpec
from raylm.core.variants import GENERATES
from raylm.inference.completions import BatchSampling
from raylm.inference.config import BatchGenerators


class Generate(StageConfig):
    """What a model writes to each row, as Documents: synthetic data, answers to distil from or to grade."""

    placement = frozenset({"workers", "generator", "max_rejected"})
    figures = ("rows", "completions", "prompt_tokens", "completion_tokens", "tokens_per_s", "rejected")

    stage: Literal["generate"]
    model: Annotated[str, Refers(("Checkpoint",), GENERATES)]
    """Stage that makes the checkpoint, or a folder, URI or hub name of Hugging Face's layout."""
    documents: DocumentsRef | None = None
    """Rows that are asked about; one of `documents`, `prompts` and `dialogues`."""
    prompts: PromptsRef | None = None
    """Rendered prompts, by the tokenizer of the model; they are asked as they are."""
    dialogues: DialoguesRef | None = None
    """Rendered dialogues, by the tokenizer of the model: their last answer is drawn anew."""
    template: str | None = None
    """Jinja over a document's columns, `{{ text }}` say: what is asked about it. Default: a structured row's own prompt, of a
    plain row its text."""
    system: str | None = None
    """System prompt before it."""
    chat: bool = True
    """Ask by the model's chat template; false lets the model go on with the text as it stands."""
    keep: Literal["completion", "continuation", "dialogue"] = "completion"
    """What a document of the result is: what the model wrote; the prompt's text and what it wrote (`chat = false`); or the
    prompt's messages and the answer, as a row for dialogues (not from `dialogues`)."""
    sampling: BatchSampling = BatchSampling()
    """How completions are drawn."""
    max_prompt: int = Field(default=1024, ge=1)
    """Most tokens of a prompt; a row with a longer one is rejected as too_long."""
    cut_off: Literal["keep", "reject"] = "keep"
    """Completions that end at max_tokens; those that must have a structure are rejected in any case."""
    num_rows: int | None = Field(default=None, ge=1)
    """Only so many rows, the first ones."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the engines compute in; auto keeps the checkpoint's format where the machine has kernels for it."""
    rows_per_shard: int = Field(default=1000, ge=1)
    """Rows whose completions are one file of the result."""
    max_rejected: float = Field(default=0.1, ge=0, le=1)
    """The stage stops when a larger share of at least 20 rows is rejected. Raised, the same command goes on from there."""
    generator: BatchGenerators = BatchGenerators()
    """The engines: how many, on what, and what makes them fast."""
    workers: WorkerSpec = WorkerSpec()
    """Not used: `generator` says what the stage reserves."""

    @field_validator("workers")
    @classmethod
    def _no_workers(cls, workers: WorkerSpec) -> WorkerSpec:
        if workers != WorkerSpec():
            raise ValueError("generate works with its engines: say generator = {count = ..., cpus = ..., gpus = ...}")
        return workers

    @model_validator(mode="after")
    def _asks_once(self) -> Generate:
        given = [name for name in ("documents", "prompts", "dialogues") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of documents, prompts and dialogues is asked about, not {' and '.join(given) or 'none'}")
        if given != ["documents"]:
            if extra := [name for name in ("template", "system") if getattr(self, name) is not None]:
                raise ValueError(f"{extra[0]} is for documents: {given[0]} are rendered already")
            if not self.chat:
                raise ValueError(f"chat = false is for documents: {given[0]} are rendered already")
        return self

    @model_validator(mode="after")
    def _keeps_what_is_there(self) -> Generate:
        if self.keep == "continuation" and (self.documents is None or self.chat):
            raise ValueError('keep = "continuation" needs documents and chat = false: else the prompt is no text to go on with')
        if self.keep == "dialogue" and (self.dialogues is not None or not self.chat):
            raise ValueError('keep = "dialogue" needs messages: documents with chat = true, or prompts')
        if self.system is not None and not self.chat:
            raise ValueError("system is a message: it needs chat = true")
        if self.template is not None:
            from raylm.core.errors import DataError
            from raylm.data.row_template import template_of

            try:
                template_of(self.template)
            except DataError as cause:
                raise ValueError(f"template: {cause.what}") from cause
        return self

    @model_validator(mode="after")
    def _seeds_are_kept(self) -> Generate:
        if self.generator.speculation and self.sampling.temperature > 0:
            raise ValueError(
                "generator.speculation with temperature > 0 draws what no seed repeats (vLLM's rejection sampling does not keep "
                "to a request's stream): say temperature = 0, or drop it"
            )
        return self

    @property
    def rows(self) -> str:
        """The reference to the rows that are asked about."""
        return str(self.documents or self.prompts or self.dialogues)

    def makes(self) -> Makes:
        return Makes("Documents")

    def roles(self) -> dict[str, Role]:
        return {"generator": self.generator.role()}

    def engines(self) -> list[EngineUse]:
        return [self.generator.engine(self.model, self.dtype)]
