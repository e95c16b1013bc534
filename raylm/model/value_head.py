"""A language model with one number in place of a vocabulary: the value of each token, for reward models and critics; or with a
number for each class, for classifiers.

It is transformers' own `*ForSequenceClassification`, names and files included; here it gives the value of every token, where
transformers picks that of the last one (`raylm.model.scores.last_token` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from raylm.core.errors import ConfigError
from raylm.model.transformers_private import model_classes


def with_value_head(model: Any, seed: int, classes: Sequence[str] = ()) -> Any:
    """`model` with a value head: its own where it has one, else a new one in place of its output layer. What was before
    is no more: the two share weights and config.

    Args:
        seed: of the new head's weights.
        classes: names of classes, at least two: a label head with a logit for each, in this order. They stand in its config.

    Raises:
        ConfigError: transformers has no such class for this family, or the model's own head is of other classes.
    """
    import torch
    from transformers import AutoModelForSequenceClassification as Auto

    if hasattr(model, "score"):
        _check_classes(model, classes)
        return _per_token(model)
    config = model.config
    if type(config) not in model_classes(Auto) or config.get_text_config() is not config:
        raise ConfigError(f"there is no value head for models of type {config.model_type!r}", next="take another model")
    config.num_labels = max(len(classes), 1)
    if classes:
        config.id2label, config.label2id = dict(enumerate(classes)), {name: at for at, name in enumerate(classes)}
        config.problem_type = "single_label_classification"
    with torch.device("meta"):
        made: Any = Auto.from_config(config)
    if not isinstance(getattr(made, "score", None), torch.nn.Linear) or made.base_model_prefix != model.base_model_prefix:
        raise ConfigError(f"there is no value head for models of type {config.model_type!r}", next="take another model")
    setattr(made, made.base_model_prefix, getattr(model, model.base_model_prefix))
    # its layers read the config that they were made with
    made.config, config.architectures = config, [type(made).__name__]
    table = model.get_input_embeddings().weight
    made.score = torch.nn.Linear(made.score.in_features, config.num_labels, bias=False, device=table.device, dtype=table.dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = torch.empty(made.score.weight.shape).normal_(0.0, getattr(config, "initializer_range", 0.02), generator=draw)
        made.score.weight.copy_(weight)
    return _per_token(made.train(model.training))


def _check_classes(model: Any, classes: Sequence[str]) -> None:
    size, named = model.score.out_features, [model.config.id2label.get(at) for at in range(model.score.out_features)]
    if size != max(len(classes), 1) or (classes and named != list(classes)):
        have = f"the classes {named}" if size > 1 else "one value"
        raise ConfigError(
            f"the model's head gives {have}, the rows have {f'the classes {list(classes)}' if classes else 'none'}",
            next="tokenize with the model's own classes in their order, or start from a language model",
        )


def _per_token(model: Any) -> Any:
    if not hasattr(model, "is_per_token"):
        model.__class__ = _class_of(type(model))
        # how many numbers it gives: what tells a head of labels from one over a small vocabulary
        model.score.labels = model.score.out_features
    return model


@cache
def _class_of(kind: type) -> type:
    """`kind` with a forward pass of one value per token. Its models travel to other processes."""

    def reduce(self: Any) -> Any:
        return _empty, (kind,), self.__dict__

    members = {"forward": _forward, "get_output_embeddings": _head, "is_per_token": True, "__reduce__": reduce}
    return type(kind.__name__, (kind,), members)


def _empty(kind: type) -> Any:
    made: Any = _class_of(kind)
    return made.__new__(made)


def _forward(self: Any, use_cache: bool = False, **feed: Any) -> Any:
    """`logits` [B, T, C]: a value, or a logit for each class."""
    from transformers.modeling_outputs import CausalLMOutput

    hidden_BTD = getattr(self, self.base_model_prefix)(use_cache=False, **feed).last_hidden_state
    # wrappers look for tensors in outputs of transformers' own classes
    return CausalLMOutput(logits=self.score(hidden_BTD))


def _head(self: Any) -> Any:
    return self.score
