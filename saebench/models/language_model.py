"""Language models: run up to a site and stop, go on from it with another activation, unembed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import ModelError, SiteError
from saebench.models.blocks import Block, find_blocks, not_finite, trace_blocks
from saebench.models.continuation import Prefix, Rows, capture, port_key, replaced, resumed
from saebench.models.failures import naming
from saebench.models.pretrained import Located, digest_files, digest_tensors, locate
from saebench.models.regimes import Regime
from saebench.sites import Site, parse_site

__all__ = ["LanguageModel", "Prefix"]

_TRIAL_TOKENS = 4
IGNORED = 0.02  # of the effect of a shift in another direction: rounding, in 16 bits too
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}  # relative to the largest logit
_TOLERANCE_16_BIT = 3e-2


class LanguageModel:
    """A decoder-only transformers model whose forward pass can be stopped and resumed at any site.

    Parameters
    ----------
    model : a causal language model; it is put into evaluation mode.
    tokenizer : its tokenizer, or None where token ids come from elsewhere.
    id, revision : the name and commit under which records mention it.
    files : what it was read from, for the digest; without them the tensors are digested.
    regime : the precision it was read in; by default that of its floating-point weights.

    ``calls`` counts prefixes, suffixes (resumptions) and unembedded tokens.

    Raises
    ------
    ModelError : not a causal language model, or an architecture whose blocks, causality or logits
        a trial forward of a few tokens does not find as expected.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        id: str = "",
        revision: str | None = None,
        files: Sequence[Path] = (),
        regime: Regime | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.id = id
        self.revision = revision
        self.calls: Counter[str] = Counter()
        self._files = tuple(files)
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        if head is None or not hasattr(model, "get_decoder"):
            raise ModelError(
                f"language model {id or type(model).__name__}",
                f"{type(model).__name__} has no unembedding, so it predicts no tokens",
                "Load the causal language model, not its body alone",
            )
        self._head = head
        decoder = model.get_decoder()
        self._decoder = getattr(model, "model", decoder) if decoder is model else decoder
        self.dtype: torch.dtype = model.dtype
        self.regime = regime or Regime.of(model.dtype)
        self.device = torch.device(model.device)
        self.n_layers = int(config.num_hidden_layers)
        self.context_size: int | None = getattr(config, "max_position_embeddings", None)
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._scale = _logit_scale(config)
        self.blocks: list[Block] = self._try_out()
        self.d_model = self.blocks[0].ports["resid_pre"].width

    @classmethod
    def load(
        cls,
        ref: str | Path,
        *,
        revision: str | None = None,
        precision: str = "float32",
        device: str | None = None,
    ) -> LanguageModel:
        """Load a model and its tokenizer from a local directory or from the hub.

        ``precision`` is a regime as :mod:`saebench.precision` has them (``bfloat16``, ``nf4+double``);
        ``device`` defaults to the GPU where there is one. No code that comes with a model is ever run.

        Raises
        ------
        ConfigError : no such precision.
        ModelError : not found, not reachable, no causal language model, not supported.
        """
        return cls.open(locate(ref, revision=revision), precision=precision, device=device)

    @classmethod
    def open(
        cls, located: Located, *, precision: str = "float32", device: str | None = None
    ) -> LanguageModel:
        """Read the weights and the tokenizer of a model that :func:`locate` has found."""
        tokenizer = located.tokenizer()
        model, regime = located.read(precision=precision, device=device)
        at, files = located.revision, located.files
        with naming(located.id):
            return cls(model, tokenizer, id=located.id, revision=at, files=files, regime=regime)

    def site(self, site: Site | str) -> Site:
        """The canonical form of a site of this model: equal for names of the same activation.

        Raises
        ------
        SiteError : the name means nothing, or this model has no such activation.
        """
        if isinstance(site, str):
            site = parse_site(site, n_layers=self.n_layers)
        return port_key(self.blocks, site)

    def width_at(self, site: Site | str) -> int:
        """How many values per token the activation at a site has."""
        site = self.site(site)
        return self.blocks[site.layer].ports[site.kind].width

    def check_width(self, site: Site | str, d_in: int, name: str) -> None:
        """Check that ``name``, a checkpoint of width ``d_in``, fits the site.

        Raises
        ------
        ModelError : it does not.
        """
        width = self.width_at(site)
        if width == d_in:
            return
        layer = self.site(site).layer
        ports = self.blocks[layer].ports.items()
        fits = [Site(layer, kind).hook_name for kind, port in ports if port.width == d_in]
        raise ModelError(
            f"{name} with d_in {d_in} at {site}",
            f"model {self.id or type(self.model).__name__} has width {width} there",
            f"At this layer {d_in} fits {', '.join(fits)}"
            if fits
            else f"No site of this layer has width {d_in}: check which model it was trained on",
        )

    @torch.no_grad()
    def prefix(
        self, ids: Tensor, attention_mask: Tensor | None, sites: Iterable[Site | str]
    ) -> Prefix:
        """Run the model on ``ids[b, t]`` up to the last of the sites; nothing after it is computed.

        ``attention_mask[b, t]`` is true at tokens and false at padding.

        Raises
        ------
        SiteError : a site is malformed or absent, or none was asked for.
        ModelError : a token id or the length is beyond what the model has.
        """
        wanted = tuple(sorted({self.site(site) for site in sites}))
        if not wanted:
            raise SiteError("prefix of a forward pass", "no site was named", "Name at least one")
        self._check_input(ids)
        ids = ids.to(self.device)
        mask = None if attention_mask is None else attention_mask.to(self.device, torch.int64)
        self.calls["prefix"] += 1
        found, shared = capture(self.blocks, wanted, lambda: self._decode(ids, mask))
        return Prefix(ids, mask, wanted, found, self.site, shared)

    @torch.no_grad()
    def resume(
        self, prefix: Prefix, site: Site | str, replacement: Tensor, *, rows: Rows | None = None
    ) -> Tensor:
        """Go on from a site of a prefix with ``replacement[b, t, width]`` in its activation's place.

        Returns ``hidden[b, t, d]`` after the final norm, as :meth:`unembed` takes it. Nothing before
        the site is computed again. ``rows`` selects sequences of the prefix; the replacement then
        has these only.

        Raises
        ------
        SiteError : the prefix does not hold the site, or the replacement has another shape.
        """
        key = self.site(site)
        if rows is not None:
            prefix = prefix.rows(rows)
        clean = prefix.at(key)
        if replacement.shape != clean.shape:
            raise SiteError(
                f"replacement of shape {list(replacement.shape)} at {site}",
                f"the activation there has shape {list(clean.shape)}",
                "Pass one vector for every token of the sequences that are resumed",
            )
        replacement = replacement.to(clean.device, clean.dtype)
        self.calls["suffix"] += 1
        with replaced(resumed(self.blocks, prefix, key, replacement)):
            return self._decode(prefix.ids, prefix.attention_mask)

    @torch.no_grad()
    def unembed(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits ``[n, vocab]`` of ``hidden[n, d]``, soft-capped and scaled as the model does.

        ``out[n, vocab]``, of the model's dtype to avoid a copy, is written to and returned.
        """
        self.calls["unembed_tokens"] += hidden.shape[:-1].numel()
        return self._logits(hidden.to(self.device, self.dtype), out)

    @cached_property
    def token_dependent_suffix(self) -> bool:
        """Whether more than its input reaches a late block: the token ids, or what early blocks saw.

        So it is in Gemma 4, with per-layer embeddings and with keys and values shared between
        blocks. Found by giving the last block one input in the context of two token sequences.
        """
        before = self.calls.copy()
        site = Site(self.n_layers - 1, "resid_pre")
        prefix = self.prefix(self._trial_ids(), None, [site])
        other = replace(prefix, ids=(prefix.ids + 1) % self.vocab_size)
        clean = prefix.at(site)
        same = torch.equal(self.resume(prefix, site, clean), self.resume(other, site, clean))
        self.calls = before
        return bool(prefix.shared) or not same

    @cached_property
    def ignores_mean(self) -> bool:
        """Whether the model goes on alike when all dimensions of its residual stream are shifted.

        So it is where every norm is a LayerNorm (GPT-2, Pythia), and not where they are RMSNorms.
        Found by shifting the stream after the first block, against a shift of the same length along
        other directions.
        """
        before = self.calls.copy()
        site = Site(0, "resid_post")
        prefix = self.prefix(self._trial_ids(), None, [site])
        clean = prefix.at(site).float()
        size = clean.std()
        along = size * torch.ones_like(clean)
        across = along * (torch.arange(clean.shape[-1], device=clean.device) % 2 * 2 - 1)
        end = self.resume(prefix, site, clean).float()
        moved, turned = (
            float((self.resume(prefix, site, clean + shift).float() - end).norm())
            for shift in (along, across)
        )
        self.calls = before
        return moved < IGNORED * turned

    @cached_property
    def digest(self) -> str:
        """SHA-256 of config and weights: of the files read, else of what is in memory."""
        if self._files:
            return digest_files(self._files)
        return digest_tensors(self.model.config.to_dict(), self.model.state_dict())

    def identity(self) -> dict[str, Any]:
        """What the model is, as plain values for a record."""
        return {
            "id": self.id,
            "revision": self.revision,
            "class": type(self.model).__name__,
            "dtype": str(self.dtype).removeprefix("torch."),
            "precision": self.regime.to_json(),
            "device": str(self.device),
            "digest": self.digest,
            "digest_of": "files" if self._files else "tensors",
        }

    def _decode(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        return self._decoder(input_ids=ids, attention_mask=mask, use_cache=False)[0]

    def _logits(self, hidden: Tensor, out: Tensor | None) -> Tensor:
        head = self._head
        # A product into the buffer needs a plain layer (not quantised, not offloaded). In float16
        # on a CPU it is also many times slower than the layer itself.
        plain = type(head) is nn.Linear and not hasattr(head, "_hf_hook")
        if out is not None and plain and out.dtype == hidden.dtype != torch.float16:
            weight, bias = head.weight, head.bias
            logits = torch.mm(hidden, weight.t(), out=out)
            if bias is not None:
                logits += bias
        else:
            logits = head(hidden)
            if out is not None:
                logits = out.copy_(logits)
        if self._scale != 1.0:
            logits *= self._scale
        if self._softcap is not None:
            logits.div_(self._softcap).tanh_().mul_(self._softcap)
        return logits

    def _trial_ids(self) -> Tensor:
        length = min(_TRIAL_TOKENS, self.context_size or _TRIAL_TOKENS)
        vocab = int(self.model.config.get_text_config().vocab_size)
        ids = (torch.arange(length, device=self.device) + 4).expand(2, -1).clone()
        ids[1, -1] += 1  # two sequences that differ in their last token only
        return ids % vocab

    @property
    def _tolerance(self) -> float:
        """How far two ways to the same logits may lie apart, relative to the largest.

        Where layers round their input, a difference in its last bit may become one step of 8 bits. What
        tokens share (the outlier columns of LLM.int8) is the same for all sequences of the trial.
        """
        if self.regime.rounds_activations or self.regime.emulated:
            return _TOLERANCE_16_BIT
        return _TOLERANCE.get(self.dtype, _TOLERANCE_16_BIT)

    @torch.no_grad()
    def _try_out(self) -> list[Block]:
        """One small forward: find the blocks and their parts, check causality and the logits."""
        prefix = "".join(
            f"{name}." for name, module in self.model.named_modules() if module is self._decoder
        )
        blocks = find_blocks(self._decoder, self.n_layers)
        ids = self._trial_ids()
        hidden: list[Tensor] = []
        logits: list[Tensor] = []
        handle = self._decoder.register_forward_hook(
            lambda module, args, output: hidden.append(output[0])
        )
        try:
            traced = trace_blocks(
                {prefix + path: block for path, block in blocks.items()},
                lambda: logits.append(self.model(input_ids=ids, use_cache=False).logits),
                self.regime.precision,
            )
        finally:
            handle.remove()
        self.vocab_size = logits[0].shape[-1]
        self._check_trial(hidden[0], logits[0])
        return traced

    def _check_trial(self, hidden: Tensor, logits: Tensor) -> None:
        if not bool(logits.isfinite().all()):
            raise not_finite("logits", self.regime.precision, "one of them")
        tolerance = self._tolerance * float(logits.abs().max())
        asked = f"language model {self.id or type(self.model).__name__}"
        leak = (logits[0, :-1] - logits[1, :-1]).abs()
        if leak.numel() and not float(leak.max()) <= tolerance:
            raise ModelError(
                asked,
                "its predictions depend on later tokens, so it is not a causal language model",
                "Use a decoder-only model with a causal mask",
            )
        ours = self._logits(hidden.reshape(-1, hidden.shape[-1]), None).view_as(logits)
        gap = float((ours - logits).abs().max())
        if not gap <= tolerance:
            raise ModelError(
                asked,
                f"final norm and unembedding give logits {gap:.3g} away from the model's own",
                "The model does something to its logits that saebench does not know; it is not "
                "supported",
            )

    def _check_input(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.numel() == 0:
            raise ModelError(
                f"token ids of shape {list(ids.shape)}",
                "a batch has the shape [sequences, tokens], neither of them 0",
                "Pass at least one sequence of at least one token",
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise ModelError(
                f"token ids {low} to {high} for {self.id or 'the model'}",
                f"the model's vocabulary is 0 to {self.vocab_size - 1}",
                "Tokenize the data with this model's own tokenizer; several models need the same tokens",
            )
        if self.context_size is not None and ids.shape[1] > self.context_size:
            raise ModelError(
                f"sequences of {ids.shape[1]} tokens",
                f"the model was made for at most {self.context_size}",
                "Use a smaller context size",
            )


def _logit_scale(config: Any) -> float:
    """What logits are multiplied by: Cohere's ``logit_scale``, or 1 / Granite's ``logits_scaling``."""
    scale = getattr(config, "logit_scale", None)
    if isinstance(scale, int | float):
        return float(scale)
    return 1.0 / float(getattr(config, "logits_scaling", None) or 1.0)
