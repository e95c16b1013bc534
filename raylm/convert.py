"""`raylm convert`: a checkpoint in another format, or one of another program as ours; the formats are those of `compress`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from raylm.compress.formats import AnyFormat
from raylm.compress.formats.source import Source
from raylm.core.artifact import WORK
from raylm.core.config import CustomCard
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder

# cards whose weights are plain: a method, and rows to measure on, are things of a stage
CARDS: dict[str, Any] = {
    card.model_fields["kind"].default: card
    for card in get_args(get_args(AnyFormat)[0])
    if card is not CustomCard and card.takes != ("rounded",)
}


class Install(argparse.Action):
    """Installs, and ends: there is nothing to convert."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from raylm.compress.consumers.npm import install

        install()
        parser.exit()


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each key of each format."""
    parser.add_argument(
        "--install-consumers", action=Install, nargs=0, help="install the programs of npm that exports are proved with"
    )
    parser.add_argument("folder", metavar="FOLDER", help="a checkpoint's folder, or with --from what another program saved")
    parser.add_argument("out", metavar="OUT", help="a new folder")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--to", choices=list(CARDS), help="what is written")
    readable = [kind for kind, card in CARDS.items() if hasattr(card, "read")]
    which.add_argument("--from", dest="source", choices=readable, help="what is read")
    parser.add_argument("--like", metavar="FOLDER", help="with --from: config and tokenizer, else those beside it")
    keys: dict[str, list[str]] = {}
    for kind, card in CARDS.items():
        for key, field in card.model_fields.items():
            if key != "kind":
                keys.setdefault(key, []).append(f"{kind}: {field.description} Default: {field.default}.")
    for key, told in keys.items():
        parser.add_argument(f"--{key.replace('_', '-')}", dest=f"key_{key}", metavar="VALUE", help=" ".join(told))


def run(arguments: argparse.Namespace) -> int:
    """Convert, and name what can be done with it."""
    kind = arguments.to or arguments.source
    if arguments.like and not arguments.source:
        raise ConfigError("--like is for --from: what is written has its own config and tokenizer", next="drop --like")
    given = {name.removeprefix("key_"): value for name, value in vars(arguments).items() if name.startswith("key_") and value}
    try:
        card = CARDS[kind](**given)
    except ValidationError as wrong:
        error = wrong.errors()[0]
        key = error.get("ctx", {}).get("key", error["loc"][-1] if error["loc"] else "")
        raise ConfigError(f"{kind}: {error['msg']}", where=f"--{str(key).replace('_', '-')}") from None
    out = Folder(arguments.out)
    if out.files():
        raise ArtifactError("this folder is not empty", where=out.uri, next="name a new one")
    if arguments.source:
        card.read(arguments.folder, out, arguments.like)
        card = CARDS["hugging_face"]()
    else:
        card.write(Source(arguments.folder), out)
    if out.is_local:
        shutil.rmtree(Path(out.uri) / WORK, ignore_errors=True)
    print(f"next: {card.next_step(arguments.out)}")
    return 0
