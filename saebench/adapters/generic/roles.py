"""Roles of tensors in a file of no known format: by name where one fits, by the user, or asked for."""

from __future__ import annotations

from collections.abc import Mapping

from saebench.adapters.generic.config import TIED, Knowledge, a_flag
from saebench.adapters.generic.gate import Gate
from saebench.adapters.generic.names import (
    MATRICES,
    find_roles,
    is_harmless,
    is_logarithm,
    matrices,
    role_of,
    words_of,
)
from saebench.adapters.generic.shapes import Layout
from saebench.adapters.generic.sheet import MAX_NAME, Sheet, contradiction, option, shown
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.thresholds import AS_STORED, HOW_STORED, said_threshold
from saebench.sae import Fact
from saebench.settings import ROLES
from saebench.weights import TensorInfo

BY_USER_ONLY = ("mean", "scale", "std")  # names cannot tell whether these were folded in
GATED = ("gate", "b_gate", "r_mag", "b_mag")
THRESHOLDED = ("jumprelu", "batchtopk")
NORMALIZING = (("encoder", ("encoder", "0", "weight")), ("decoder", ("dictionary", "weights")))
SAELENS = frozenset({"W_enc", "W_dec", "b_dec"})


def settle_roles(
    sheet: Sheet, tensors: Mapping[str, TensorInfo], known: Knowledge, choices: Choices
) -> dict[str, str]:
    """The tensor in each role; raises :class:`CheckpointError` for a name that is in no file."""
    roles = _mapped(sheet, tensors, choices)
    ignored = _ignored(sheet, tensors, choices)
    free = {n: t for n, t in tensors.items() if n not in roles.values() and n not in ignored}
    suggested = find_roles(free)
    for role in (*ROLES, "k", "multiplier"):
        names = suggested.get(role, [])
        if role in roles or role in BY_USER_ONLY or not names:
            continue
        if len(names) == 1:
            roles[role] = names[0]
        else:
            listed = ", ".join(shown(name, tensors[name].shape) for name in names[:6])
            answers = [option("--map", role, name) for name in names[:6]]
            sheet.ask(f"which tensor is the {role}: {listed}", *answers)
    _place_lone_bias(sheet, roles, suggested.get("bias", []), tensors)
    for role, name in roles.items():
        if role not in ("encoder", "decoder", "k"):
            sheet.settle(f"{role}: {shown(name, tensors[name].shape)}")
    _settle_missing(sheet, roles, free, known, choices)
    return roles


def settle_variants(
    sheet: Sheet, roles: Mapping[str, str], known: Knowledge, choices: Choices
) -> dict[str, Fact]:
    """Whether decoder directions are normalised, and whether thresholds are stored as logarithms."""
    found = {}
    given = choices.flag("normalize_decoder")
    suspects = [
        roles[role]
        for role, words in NORMALIZING
        if role in roles and words_of(roles[role])[-len(words) :] == words
    ]
    if given is not None:
        found["normalize_decoder"] = given
    elif suspects:
        sheet.ask(
            "whether decoder directions are scaled to norm 1 before use (libraries with "
            f"{shown(suspects[0])} do so at every decode)",
            "--set normalize_decoder=true",
            "--set normalize_decoder=false",
        )
    if "threshold" in roles:
        name = roles["threshold"]
        by_name = Fact(is_logarithm(name), f"the name {shown(name)}", "assumed")
        said = said_threshold(choices)
        how = said if said is not None and said.value in HOW_STORED else None
        if how is not None and how.value == AS_STORED:
            found["stored_threshold"] = how
            by_name = Fact(False, how.source, "user")
        elif how is not None:
            by_name = Fact(True, how.source, "user")
        found["log_threshold"] = choices.flag("log_threshold") or by_name
    if not {"encoder", "decoder"} <= set(roles):
        tied = choices.flag("tied") or next(iter(known.all(TIED, a_flag)), None)
        found |= {"tied": tied} if tied is not None else {}
    return found


def settle_leftovers(
    sheet: Sheet,
    roles: Mapping[str, str],
    gate: Gate | None,
    tensors: Mapping[str, TensorInfo],
    choices: Choices,
    layout: Layout | None,
) -> None:
    """Ask about every tensor that would change the numbers and has no role."""
    ignored = _ignored(sheet, tensors, choices)
    used = {name for role, name in roles.items() if _is_used(role, gate)}
    if not {"encoder", "decoder"} & set(roles):
        used |= set(matrices(tensors))  # asked for above
    rest = []
    for name, tensor in tensors.items():
        if name in used or name in ignored or is_harmless(name, tensor.dtype):
            continue
        answers = _suggestions(name, tensor.shape, roles, layout)
        if not answers:
            rest.append(name)
            continue
        why = (
            f", which {gate.activation.value} does not use"
            if gate and name in roles.values()
            else ""
        )
        text = f"what {shown(name, tensor.shape)} is for{why}"
        sheet.ask(text, *answers, option("--set", "ignore", ",".join((*ignored, name))))
    if rest:
        listed = ", ".join(shown(name, tensors[name].shape) for name in rest[:8])
        more = f" and {len(rest) - 8} more" if len(rest) > 8 else ""
        together = ",".join((*ignored, *rest))
        sheet.ask(
            f"tensors without a known role: {listed}{more}",
            option("--set", "ignore", together)
            if len(together) <= MAX_NAME
            else "--set ignore=NAME,NAME",
        )


def advise(sheet: Sheet, tensors: Mapping[str, TensorInfo], claim: Claim) -> None:
    """Point to the config that is missing where names are those of a format that has one."""
    if claim.configs or not set(tensors) >= SAELENS:
        return
    widths = [tuple(tensors[name].shape) for name in ("W_enc", "W_dec", "b_dec")]
    if widths[0] == widths[1][::-1] and widths[1][-1:] == widths[2]:
        listed = ", ".join(shown(name, tensors[name].shape) for name in list(tensors)[:6])
        sheet.advice.append(
            f"cfg.json is missing beside {claim.weight} ({listed}). Copy the cfg.json that belongs to "
            "these weights into the folder, if they are of SAELens: it settles all this."
        )


def _mapped(sheet: Sheet, tensors: Mapping[str, TensorInfo], choices: Choices) -> dict[str, str]:
    roles: dict[str, str] = {}
    for role in ROLES:
        name = choices.tensor(role)
        if name is None:
            continue
        if name not in tensors:
            listed = ", ".join(shown(n, t.shape) for n, t in list(tensors.items())[:12])
            raise contradiction(f"--map {role}={name:.80}", f"{sheet.file} has {listed}")
        if role in MATRICES and len(tensors[name].shape) != 2:
            raise contradiction(
                f"--map {role}={name:.80} with two dimensions", f"shape {list(tensors[name].shape)}"
            )
        roles[role] = name
    return roles


def _ignored(sheet: Sheet, tensors: Mapping[str, TensorInfo], choices: Choices) -> tuple[str, ...]:
    fact = choices.names("ignore")
    names: tuple[str, ...] = () if fact is None else fact.value
    absent = [name for name in names if name not in tensors]
    if absent:
        listed = ", ".join(shown(n, t.shape) for n, t in list(tensors.items())[:12])
        raise contradiction(f"--set ignore={absent[0]:.80}", f"{sheet.file} has {listed}")
    return names


def _place_lone_bias(
    sheet: Sheet, roles: dict[str, str], names: list[str], tensors: Mapping[str, TensorInfo]
) -> None:
    """``bias`` belongs to the decoder where the encoder has its own; ``pre_bias`` alone does too."""
    before = roles.get("b_in")
    if before is not None and "b_dec" not in roles and "pre" in words_of(before):
        roles["b_dec"] = roles.pop("b_in")
    if len(names) != 1 or "b_dec" in roles:
        return
    if "b_enc" in roles:
        roles["b_dec"] = names[0]
        return
    sheet.ask(
        f"which side {shown(names[0], tensors[names[0]].shape)} belongs to",
        option("--map", "b_dec", names[0]),
        option("--map", "b_enc", names[0]),
    )


def _settle_missing(
    sheet: Sheet,
    roles: Mapping[str, str],
    free: Mapping[str, TensorInfo],
    known: Knowledge,
    choices: Choices,
) -> None:
    """Ask for the encoder or decoder that no name suggests, unless the two are one."""
    missing = [role for role in ("encoder", "decoder") if role not in roles]
    if not missing or any(
        f"the {role}:" in text for role in missing for text, _ in sheet.questions
    ):
        return
    names = [name for name in matrices(free) if name not in roles.values()][:6]
    if len(missing) == 1:
        tied = choices.flag("tied") or next(iter(known.all(TIED, a_flag)), None)
        if tied is not None and tied.value:
            sheet.settle(f"{missing[0]}: the other matrix transposed ({tied.source})")
            return
        other = next(role for role in ("decoder", "encoder") if role in roles)
        answers = [option("--map", missing[0], name) for name in names]
        sheet.settle(f"{other}: {shown(roles[other], free[roles[other]].shape)}"
                     if roles[other] in free else f"{other}: {shown(roles[other])}")  # fmt: skip
        sheet.ask(f"no tensor is the {missing[0]} by name", *answers, "--set tied=true")
        return
    listed = ", ".join(shown(name, free[name].shape) for name in names) or "no matrix"
    for role, name in zip(missing, (*names, "NAME", "NAME"), strict=False):
        sheet.ask(f"no tensor is the {role} by name: {listed}", option("--map", role, name))


def _is_used(role: str, gate: Gate | None) -> bool:
    if gate is None:
        return True  # the question about the activation names them
    if role == "threshold":
        return gate.activation.value in THRESHOLDED  # a number of the user overrules it
    return role not in GATED or gate.activation.value == "gated"


def _suggestions(
    name: str, shape: tuple[int, ...], roles: Mapping[str, str], layout: Layout | None
) -> list[str]:
    """Roles that a tensor may have, by its name or its length."""
    role = role_of(name, shape)
    found = []
    if role == "threshold":
        found.append("--set activation=jumprelu")
    elif role in GATED:
        found.append("--set activation=gated")
    elif role in BY_USER_ONLY and role not in roles:
        found.append(option("--map", str(role), name))
        found += [option("--map", "std", name)] if role == "scale" and "std" not in roles else []
        found += [option("--map", "b_in", name)] if role == "mean" and "b_in" not in roles else []
    elif layout is not None and len(shape) == 1 and shape[0] > 1:
        lengths = {"mean": layout.d_in, "b_in": layout.d_in, "b_dec": layout.d_out}
        lengths |= {"b_enc": layout.d_sae, "threshold": layout.d_sae}
        fitting = [r for r, size in lengths.items() if size.value == shape[0] and r not in roles]
        found = [option("--map", fits, name) for fits in fitting]
    return found
