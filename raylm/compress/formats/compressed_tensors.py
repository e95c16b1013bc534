"""The compressed-tensors format of rounded weights, which vLLM and transformers load as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.blocks import texts
from raylm.compress.coverage import left_in
from raylm.compress.formats.source import Source, Written, weight_bytes
from raylm.core.config import Config
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder

# tokens with which a written checkpoint is compared with what is in memory, and by what part of the largest logit they may
# differ, by the bytes of a number: buffers that a cast leaves alone are made anew in the checkpoint's format
PROBE, SAME = 32, {4: 1e-3, 2: 2e-2}


class CompressedTensors(Config):
    """Rounded weights with their scales (https://github.com/vllm-project/compressed-tensors)."""

    takes: ClassVar[tuple[str, ...]] = ("rounded",)
    variant: ClassVar[str] = "quantized"

    kind: Literal["compressed_tensors"] = "compressed_tensors"

    def write(self, source: Source, out: Folder) -> Written:
        """Write the rounded model; the files are loaded again before they come to `out`.

        Raises:
            ConfigError: nothing is rounded.
            ArtifactError: what was written loads as another model than the one in memory.
        """
        from raylm.model.checkpoint import write_checkpoint

        changed = source.changed
        if changed is None or changed.compressor is None:
            raise ConfigError("compressed_tensors holds rounded weights", next="round them by a compress stage with a `method`")
        model, compressor, count, before = changed.model, changed.compressor, changed.num_parameters, changed.bytes_before
        left: Counter[str] = Counter()

        def finish(at: Path) -> None:
            compressor.update_config(str(at))
            left.update(left_in(at))
            if left.total() >= count and compressor.quantization_config.kv_cache_scheme is None:
                raise ConfigError("the method rounded nothing of this model", where=source.path, next="serve it as it is")
            check_reload(model, str(at))

        write_checkpoint(out, model.config, model.state_dict(), source.path, finish, start=source.path, keep_dtypes=False)
        stored, dtype = (str(each).removeprefix("torch.") for each in (changed.dtype_before, model.dtype))
        share = round(1 - left.total() / count, 4)
        # how many times smaller than the same parameters in `dtype`: what a change of dtype alone saves is not counted
        after, plain_bytes = weight_bytes(out), before * model.dtype.itemsize / changed.dtype_before.itemsize
        sizes = {
            "bytes_before": before,
            "bytes_after": after,
            "size_ratio": round(plain_bytes / after, 3),
            "rounded_share": share,
        }
        facts: dict[str, Any] = {"quantized": True, "rounded_share": share, "dtype": dtype, "dtype_before": stored}
        facts["left"] = {name: round(size / count, 4) for name, size in left.most_common() if size > count / 1000}
        return Written(self.variant, {**facts, **changed.facts}, {**sizes, **changed.metrics})


def check_reload(model: Any, folder: str) -> None:
    """Raises ArtifactError when the checkpoint in `folder` loads as another model than the rounded one in memory."""
    import torch

    from raylm.model.limits import positions
    from raylm.model.load import load_model

    again: Any = load_model(folder).eval()
    length = min(PROBE, positions(model.config.to_dict()) or PROBE)
    ids = torch.arange(length)[None] * 7919 % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        ours, theirs = (each(**texts(model, ids)).logits.float() for each in (model, again))
    apart, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    if not apart <= SAME[model.dtype.itemsize] * largest:
        raise ArtifactError(
            f"transformers loads what was written as another model: logits differ by {apart:.3g} of {largest:.3g}",
            where=folder,
            next="serve the model as it is; this family cannot be compressed",
        )
