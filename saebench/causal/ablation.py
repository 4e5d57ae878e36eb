"""Ablate latents one at a time, in one model or two, and measure how the next-token distribution moves.

At a probe the activation loses ``code · direction`` and keeps everything else, the error of the checkpoint
included. Sequences that hold probes are read once more, cut after their last probe, and every model runs
over them once up to the site. All ablations go on from there together, and beside them the tokens as they
were: what the computation itself rounds is alike on both sides, and nothing subtracted gives exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from saebench.causal.compared import compare
from saebench.causal.items import Items
from saebench.causal.probes import Arm, Probes, Shifts
from saebench.causal.texts import Sequences, Texts, read_texts
from saebench.errors import ConfigError, DataError, ModelError
from saebench.models import LanguageModel, Prefix
from saebench.models.copies import Copies, hidden_states, way
from saebench.sites import Site

VECTOR_BYTES = {"cpu": 2**27}  # of the activations of ablated tokens that are held at a time
ACCELERATOR_VECTOR_BYTES = 2**31
# of each arm and model at a time: activations clean, as float32, what is taken, what is left, and the result
ROW_BYTES = 5 * 4
ENCODED = 1024  # probes whose codes are computed again
CODE_TOLERANCE = 0.05  # of the code: batches of other sizes round otherwise, in 16 bits too

NO_ROOM = (
    "it does not fit into memory",
    "Lower context_size, or use a smaller dtype or another device",
)

Encode = Callable[[Mapping[int, Tensor], np.ndarray], Tensor]
"""From activations ``[n, d]`` by model and latents ``[n]`` to these latents' codes there, ``[n]``."""


@torch.inference_mode()
def shifts(
    models: Mapping[int, LanguageModel] | Sequence[LanguageModel],
    batches: Iterable[Sequences],
    sites: Mapping[int, Site | str],
    probes: Probes,
    arms: Sequence[Arm],
    *,
    encode: Encode | None = None,
) -> Shifts:
    """What each arm does at each probe, in every model that it has directions for.

    ``models`` by number; ``batches`` give the sequences of the stream that the probes were taken from
    (``ids[b, t]``, ``attention_mask[b, t]``, ``sequence_ids[b]``), in batches of any size; they are read
    until all that hold probes were there. ``sites[model]`` is where directions are subtracted. With
    ``encode`` codes of the first probes are computed once more, from the models that arms name.

    Raises
    ------
    ConfigError : an arm does not fit the probes or the models, or two have one name.
    SiteError, ModelError : a model lacks its site, or has another width there than the directions.
    DataError : a probe is at no token of the stream, or its latent has another code there.
    ModelError : not even a single ablation fits into memory.
    """
    models = dict(models) if isinstance(models, Mapping) else dict(enumerate(models))
    run = _Run(models, sites, probes, arms)
    if run.models:
        for texts in read_texts(batches, probes, run.device):
            run.add(texts, encode)
            encode = None
    return run.result()


class _Run:
    """The arms on their way through the texts, and what was found so far."""

    def __init__(
        self,
        models: Mapping[int, LanguageModel],
        sites: Mapping[int, Site | str],
        probes: Probes,
        arms: Sequence[Arm],
    ) -> None:
        if len({arm.name for arm in arms}) != len(arms):
            raise ConfigError("arms by name", "two of one name", "Name each arm differently")
        numbers = sorted({number for arm in arms for number in arm.directions})
        if missing := [n for n in numbers if n not in models or n not in sites]:
            raise ConfigError(
                f"ablations in model {missing[0]}",
                f"there are models {sorted(models)}, with sites for {sorted(sites)}",
                "Give every model that an arm has directions for, and its site",
            )
        self.models = {number: models[number] for number in numbers}
        self.sites = {number: self.models[number].site(sites[number]) for number in numbers}
        self.probes = probes
        self.arms = [self._placed(arm) for arm in arms]
        self.pairs = [self._pair(arm) for arm in arms]
        self.most = self._at_once()
        self.how: dict[int, str] = {}
        self.kl = [{n: self._unmeasured() for n in arm.directions} for arm in arms]
        self.kl_reverse = [{n: self._unmeasured() for n in arm.directions} for arm in arms]
        self.cosines = [self._unmeasured() if pair else None for pair in self.pairs]

    def _at_once(self) -> int:
        """How many probes are ablated together."""
        if not self.models:
            return 1
        budget = VECTOR_BYTES.get(self.device.type, ACCELERATOR_VECTOR_BYTES)
        width = max(model.width_at(self.sites[n]) for n, model in self.models.items())
        return max(1, budget // (ROW_BYTES * width * len(self.arms) * len(self.models)))

    @property
    def device(self) -> torch.device:
        """Where the first model is."""
        return next(iter(self.models.values())).device

    def add(self, texts: Texts, encode: Encode | None = None) -> None:
        """Run every arm at the probes of some texts; of half as many where memory runs out."""
        prefixes: dict[int, Prefix] | None = {}
        try:
            assert prefixes is not None
            self._begin(prefixes, texts, encode)
        except (torch.OutOfMemoryError, ModelError) as error:
            if not _is_memory(error):
                raise
            if texts.n_rows == 1:
                raise ModelError(
                    f"a forward pass over one sequence of {texts.ids.shape[1]} tokens", *NO_ROOM
                ) from error
            prefixes = None
        if prefixes is None:
            torch.cuda.empty_cache()
            for half in texts.halves():
                self.add(half, encode)
            return
        start = 0
        while start < len(texts.probes):
            some = slice(start, min(len(texts.probes), start + self.most))
            if self._fits(prefixes, texts, some):
                start = some.stop
            else:
                torch.cuda.empty_cache()
                self.most = (some.stop - start) // 2

    def _begin(self, prefixes: dict[int, Prefix], texts: Texts, encode: Encode | None) -> None:
        """Fill in the prefix of every model, check the codes, and find out how each continues."""
        for number, model in self.models.items():
            prefixes[number] = model.prefix(texts.ids, texts.mask, [self.sites[number]])
        if encode is not None:
            self._check_codes(prefixes, texts, encode)
        for number, model in self.models.items():
            self.how[number] = way(model, self.sites[number], texts.ids.shape[1])

    def _fits(self, prefixes: Mapping[int, Prefix], texts: Texts, some: slice) -> bool:
        """Ablate at some of the probes; false where memory runs out and fewer may fit."""
        items = Items.of(self.arms, self.probes, texts.probes[some], texts.rows[some])
        try:
            self._ablate(prefixes, items)
        except (torch.OutOfMemoryError, ModelError) as error:
            if not _is_memory(error):
                raise
            if some.stop - some.start > 1:
                return False
            raise ModelError(
                f"the ablations of one probe in a sequence of {texts.ids.shape[1]} tokens", *NO_ROOM
            ) from error
        return True

    def _ablate(self, prefixes: Mapping[int, Prefix], items: Items) -> None:
        """Continue every model with all items, and compare what it predicts then."""
        hidden, unchanged = {}, {}
        for number, model in self.models.items():
            site = self.sites[number]
            clean = prefixes[number].at(site)
            mine, vectors, unchanged[number] = items.vectors(number, clean)
            row, place = (x[items.token[mine]] for x in (items.row, items.place))
            copies = Copies(row, place, vectors)
            hidden[number] = hidden_states(
                model, prefixes[number], site, copies, how=self.how[number]
            )
        found = compare(self.models, items, hidden, unchanged, self.pairs)
        for index in range(len(self.arms)):
            here = items.arm == index
            at = items.probe[here]
            for number in self.kl[index]:
                self.kl[index][number][at] = found.kl[number][here]
                self.kl_reverse[index][number][at] = found.kl_reverse[number][here]
            cosines = self.cosines[index]
            if cosines is not None:
                cosines[at] = found.cosine[here]

    def _check_codes(self, prefixes: Mapping[int, Prefix], texts: Texts, encode: Encode) -> None:
        chosen = texts.probes[:ENCODED]
        rows, places = texts.rows[:ENCODED], self.probes.position[chosen]
        at = torch.from_numpy(rows), torch.from_numpy(places)
        activations = {
            number: prefix.at(self.sites[number])[tuple(x.to(prefix.ids.device) for x in at)]
            for number, prefix in prefixes.items()
        }
        expected = self.probes.code[chosen]
        found = encode(activations, self.probes.latent[chosen]).double().cpu().numpy()
        # the rounding of a small code is that of the activation, not of the code
        scale = np.maximum(np.abs(expected), np.median(np.abs(expected)))
        off = np.abs(found - expected) > CODE_TOLERANCE * scale
        if off.mean() > CODE_TOLERANCE:
            worst = np.abs(found - expected).argmax()
            raise DataError(
                f"code {expected[worst]:.4g} of latent {self.probes.latent[chosen[worst]]}",
                f"at that token it is {found[worst]:.4g} ({int(off.sum())} of {len(off)} codes differ)",
                "Give the models, sites and text that the probes were taken from",
            )

    def result(self) -> Shifts:
        """What was found, by arm and model."""
        names = [arm.name for arm in self.arms]
        return Shifts(
            dict(zip(names, self.kl, strict=True)),
            dict(zip(names, self.kl_reverse, strict=True)),
            dict(zip(names, self.cosines, strict=True)),
            self.how,
        )

    def _placed(self, arm: Arm) -> Arm:
        """The arm with its directions where the models are, once it is known to fit."""
        arm.check(len(self.probes))
        placed = {}
        for number, rows in arm.directions.items():
            model = self.models[number]
            model.check_width(self.sites[number], rows.shape[1], f"directions of arm {arm.name!r}")
            dtype = torch.promote_types(model.dtype, torch.float32)
            placed[number] = rows.to(model.device, dtype)
        return Arm(arm.name, placed, arm.rows, arm.codes, arm.at)

    def _pair(self, arm: Arm) -> tuple[int, int] | None:
        """The two models whose changes of logits can be set side by side."""
        numbers = sorted(arm.directions)
        sizes = {self.models[number].vocab_size for number in numbers}
        return (numbers[0], numbers[1]) if len(numbers) == 2 and len(sizes) == 1 else None

    def _unmeasured(self) -> np.ndarray:
        return np.full(len(self.probes), np.nan)


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, in its own words or in those of the models."""
    return isinstance(error, torch.OutOfMemoryError) or isinstance(
        error.__cause__, torch.OutOfMemoryError
    )
