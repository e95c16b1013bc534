"""Freezes parts of a model, so that the rest is trained alone."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import ConfigError
from raylm.model.name_patterns import check_patterns, fits
from raylm.model.value_beside import VALUE_HEAD


def frozen_names(names: list[str], freeze: list[str], unfrozen: list[str]) -> set[str]:
    """Of the parameters called `names` those that are not trained.

    Raises:
        ConfigError: a pattern means none of them, or nothing is left to train.
    """
    check_patterns(freeze, names, "freeze")
    check_patterns(unfrozen, names, "unfrozen_parameters")
    found = {
        name
        for name in names
        if any(fits(one, name) for one in freeze) or (unfrozen and not any(fits(one, name) for one in unfrozen))
    }
    if found and len(found) == len(names):
        raise ConfigError("nothing is left to train", where="freeze", next="freeze less")
    return found


def freeze_parts(model: Any, freeze: list[str], unfrozen: list[str]) -> None:
    """Freeze what `freeze` names, and with `unfrozen` all that it does not name. A value head beside the vocabulary is new, and
    learns in any case.

    Raises:
        ConfigError: a pattern means nothing, nothing is left to train, or one of two tied weights would be frozen alone.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not name.startswith(f"{VALUE_HEAD}."):
            owners.setdefault(id(parameter), []).append(name)
    names = [name for tied in owners.values() for name in tied]
    frozen = frozen_names(names, freeze, unfrozen)
    for tied in owners.values():
        if 0 < len(frozen.intersection(tied)) < len(tied):
            raise ConfigError(
                f"{' and '.join(tied)} are one weight: it is frozen under both names or under none",
                where="freeze" if freeze else "unfrozen_parameters",
                next="name both, or neither",
            )
    for parameter in model.parameters():
        if owners.get(id(parameter), [""])[0] in frozen:
            parameter.requires_grad_(False)
