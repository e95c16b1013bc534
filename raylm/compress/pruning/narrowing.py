"""A model with narrower layers: units are chosen and set to zero in the parent, block after block, and then cut out.

what follows which width (axes) -> importance on rows -> units that go are zero in the parent -> the rest makes up for them
                                                     -> tensors are cut -> the smaller model must equal the parent with zeros
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.compress.blocks import Block, decoder_blocks, is_linear
from raylm.compress.calibration import Calibration
from raylm.compress.pruning.axes import Axis, Place, explicit, follows, units
from raylm.compress.pruning.importance import Activation, compensated, contributions, hooked
from raylm.compress.pruning.norms import check_norms, loosened, scale
from raylm.compress.pruning.rebuilt import changed_config, check_same, probe, rebuild
from raylm.compress.pruning.sparse import matrix
from raylm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch


class Options(NamedTuple):
    """How units are chosen."""

    importance: str
    """`activation` or `contribution`."""
    compensate: bool
    damping: float


class Narrowing:
    """Cuts `model` along its axes.

    Args:
        inner: widths inside of blocks, heads before neurons: each block has its own units.
        hidden: channels of the hidden states, the same in all blocks; None leaves them.
    """

    def __init__(self, model: Any, inner: list[Axis], hidden: Axis | None, options: Options) -> None:
        self.model, self.inner, self.hidden, self.options = model, inner, hidden, options
        self.places = {axis.what: follows(model.config, axis) for axis in (*inner, *([hidden] if hidden else []))}
        self.tensors: dict[str, Any] = dict(model.state_dict())
        self.kept: dict[str, torch.Tensor] = {}
        """Units that stay, by axis, and by block where it is an inner one."""

    def run(self, calibration: Calibration) -> Any:
        """The smaller model. `model` is changed.

        Raises:
            ConfigError: the family computes with a width in a way that is not known.
        """
        import torch

        with torch.no_grad():
            if self.hidden:
                self._choose_channels(calibration, self.hidden)
            if any(self.places[axis.what] for axis in self.inner):
                for block in calibration.blocks(self.model):
                    for axis in self.inner:
                        self._narrow(block, axis)
            factors = self._mask_channels(calibration, self.hidden) if self.hidden else {}
            made = self._cut()
            self._check(made)
            for name, factor in factors.items():
                scale(made.get_submodule(name), factor)
        return made

    def _narrow(self, block: Block, axis: Axis) -> None:
        """Choose the units of one block, set the others to zero, and let the layer that reads them make up for it."""
        places = [place for place in self.places[axis.what] if place.name.startswith(f"{block.name}.")]
        if not places:
            return
        readers = self._readers(places)
        if not readers:
            raise ConfigError(f"no linear layer of {block.name} reads its {axis.what}", next="take the method depth")
        scores, statistics = self._scores(block, axis, readers)
        if not bool(scores.isfinite().all()):
            raise DataError(
                f"what the {axis.what} of {block.name} give is not finite", next="look at the stage that trained them"
            )
        kept = scores.topk(axis.after).indices.sort().values.cpu()
        self.kept[f"{axis.what} {block.index}"] = kept
        for name, layer in readers.items():
            if not self.options.compensate or name not in statistics:
                continue
            weight_OI = matrix(layer)
            kept_K = units(kept, axis, weight_OI.shape[1]).to(weight_OI.device)
            made_OK = compensated(weight_OI, statistics[name].gram_II, kept_K, self.options.damping)
            weight_OI[:, kept_K] = made_OK.to(weight_OI)
        self._mask(places, axis, kept)

    def _scores(self, block: Block, axis: Axis, readers: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Importance of each unit of a block, and what entered the layers that read them."""
        names = set(readers)
        by_weight = self.options.importance == "contribution"
        statistics = block.statistics(only=names) if by_weight or self.options.compensate else {}
        if by_weight:
            found = [contributions(each.gram_II, matrix(readers[name]), axis.before) for name, each in statistics.items()]
        else:
            activations = {name: Activation(axis.before) for name in names}
            block.inputs(lambda name, x: activations[name].add(x), only=names)
            found = [each.scores() for each in activations.values()]
        return sum(found), statistics

    def _choose_channels(self, calibration: Calibration, axis: Axis) -> None:
        """Channels that stay, by what the norms give, or by what the layers make of them that read them."""
        norms = self._norms(axis)
        check_norms(norms, self.model.config.model_type)
        readers = self._readers(self.places[axis.what])
        head: Any = self.model.get_output_embeddings()
        by_weight = self.options.importance == "contribution"
        watched = {**readers, "output head": head} if by_weight else norms
        squares: dict[str, Any] = {}
        activations = {name: Activation(axis.before) for name in norms}

        def note(name: str, x: torch.Tensor, y: torch.Tensor) -> None:
            if by_weight:
                squares[name] = squares.get(name, 0.0) + x.float().square().flatten(0, -2).sum(0)
            else:
                activations[name].add(y)

        hooked(watched, note, lambda: self._pass(calibration))
        if by_weight:
            energies = [
                squares[name] * matrix(layer).float().square().sum(0) for name, layer in watched.items() if name in squares
            ]
            scores: Any = sum(energies)
        else:
            scores = sum(each.scores() for each in activations.values())
        self.kept[axis.what] = scores.topk(axis.after).indices.sort().values.cpu()

    def _mask_channels(self, calibration: Calibration, axis: Axis) -> dict[str, float]:
        """Set the channels that go to zero; returns by what each norm is to be scaled, so that it divides by what it did, on
        average: the root mean square of the channels that stay is another one than that of all."""
        kept = self.kept[axis.what].to(self.model.device)
        sums: dict[str, list[float]] = {}

        def note(name: str, x: torch.Tensor, _: torch.Tensor) -> None:
            squares = x.float().square()
            ratio = (squares[..., kept].sum(-1) / squares.sum(-1).clamp(min=1e-30)).sqrt()
            total = sums.setdefault(name, [0.0, 0])
            total[0] += float(ratio.sum())
            total[1] += ratio.numel()

        hooked(self._norms(axis), note, lambda: self._pass(calibration))
        self._mask(self.places[axis.what], axis, self.kept[axis.what])
        more = (axis.before / axis.after) ** 0.5
        return {name: more * total / count for name, (total, count) in sums.items()}

    def _mask(self, places: list[Place], axis: Axis, kept: torch.Tensor) -> None:
        import torch

        for place in places:
            tensor = self.tensors[place.name]
            gone = torch.ones(place.size, dtype=torch.bool)
            gone[units(kept, axis, place.size)] = False
            tensor.index_fill_(place.dim, gone.nonzero()[:, 0].to(tensor.device), 0)

    def _cut(self) -> Any:
        """The smaller model with the tensors' kept parts."""
        config = self.model.config
        prefix = decoder_blocks(self.model)[0]
        weights = dict(self.tensors)
        values = {
            name: value for axis in (*self.inner, *([self.hidden] if self.hidden else [])) for name, value in axis.values.items()
        }
        for axis in (*self.inner, *([self.hidden] if self.hidden else [])):
            for place in self.places[axis.what]:
                number = place.name.removeprefix(f"{prefix}.").partition(".")[0] if axis in self.inner else ""
                kept = self.kept[f"{axis.what} {number}".strip()]
                along = units(kept, axis, place.size).to(weights[place.name].device)
                weights[place.name] = weights[place.name].index_select(place.dim, along)
        return rebuild(self.model, changed_config(config, **explicit(config), **values), weights)

    def _check(self, made: Any) -> None:
        """The smaller model computes what the parent does with zeros in the place of what was cut."""
        what = ", ".join(axis.what for axis in (*self.inner, *([self.hidden] if self.hidden else [])))
        if self.hidden is None or self.hidden.before == self.hidden.after:
            check_same(probe(self.model), probe(made), self.model, what)
            return
        share = self.hidden.after / self.hidden.before
        norms = {name: made.get_submodule(name) for name in self._norms(self.hidden)}
        stored = {name: norm.weight.data.clone() for name, norm in norms.items()}
        # a mean over fewer channels is larger where the others are 0
        for norm in norms.values():
            scale(norm, share**-0.5)
        with loosened(norms, 1 / share):
            check_same(probe(self.model), probe(made), self.model, what)
        for name, norm in norms.items():
            norm.weight.data.copy_(stored[name])

    def _readers(self, places: list[Place]) -> dict[str, Any]:
        """Linear layers whose inputs are these places, by name."""
        import torch

        found = {}
        for place in places:
            name, _, own = place.name.rpartition(".")
            module = self.model.get_submodule(name)
            if own == "weight" and is_linear(name, module) and place.dim == (1 if isinstance(module, torch.nn.Linear) else 0):
                found[name] = module
        return found

    def _norms(self, axis: Axis) -> dict[str, Any]:
        """Modules that weigh each channel by a number: norms over the hidden states."""
        import torch

        found = {}
        for place in self.places[axis.what]:
            name, _, own = place.name.rpartition(".")
            module = self.model.get_submodule(name)
            if own == "weight" and module.weight.dim() == 1 and not isinstance(module, torch.nn.Embedding):
                found[name] = module
        return found

    def _pass(self, calibration: Calibration) -> None:
        for ids in calibration.batches(self.model.device):
            self.model(input_ids=ids, use_cache=False)
