"""Numbers that show whether a synthetic network behaves like one: scales, attention, sensitivity to its inputs."""

import contextlib
import math
from pathlib import Path

import numpy as np
import torch

from cases import Case, raw_observation
from lerobot_policy import Reference
from stages import record, record_actions


def print_statistics(case: Case, checkpoint: Path):
    """Prints activation scales by stage, attention entropy by layer and what each input changes; of a sweep, what
    each input changes by joint."""
    if case.sweep:
        _print_sweep(case, checkpoint)
        return
    reference = Reference(checkpoint, "fp32")
    observations = [raw_observation(o, checkpoint) for o in case.observations]
    noise = reference.noise(len(observations), case.noise_seed)
    batch = reference.preprocess(observations, case.tasks)

    print(f"== {case.name}: {case.size}, seed {case.seed}")
    with _attention_entropies(reference) as entropies:
        stages = record(reference, batch, noise)
    _print_scales(stages)
    _print_entropies(entropies)
    _print_sensitivity(reference, observations, case, noise, stages["actions.normalized"])


def _print_sweep(case: Case, checkpoint: Path):
    """Per joint, in physical units: how actions spread, and how far another observation's input moves them (RMS)."""
    reference = Reference(checkpoint, "fp32")
    observations = [raw_observation(o, checkpoint) for o in case.observations]
    noise = reference.noise(case.noises * len(observations), case.noise_seed)
    noise = noise.unflatten(0, (case.noises, len(observations)))

    def actions(observations=observations, tasks=case.tasks, noise=noise) -> np.ndarray:
        return record_actions(reference, reference.preprocess(observations, tasks), noise)["actions"]

    def row(name: str, by_joint: np.ndarray):
        print(f"{name:36}" + "".join(f"{value:9.3f}" for value in by_joint))

    def distance(other: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(other - usual).mean((0, 1, 2)))

    def next_ones(key: str) -> list[dict]:
        following = observations[1:] + observations[:1]
        return [{**o, key: other[key]} for o, other in zip(observations, following, strict=True)]

    usual = actions()
    print(f"== {case.name}: {case.size}, seed {case.seed}; {len(observations)} observations, {case.noises} noises")
    row("std over observations", usual.std(1).mean((0, 1)))
    row("std over observations, one noise", actions(noise=noise[:, :1].expand_as(noise)).std(1).mean((0, 1)))
    pairs = [(a, b) for a in range(case.noises) for b in range(a)]
    row("distance between noises", np.mean([np.abs(usual[a] - usual[b]).mean((0, 1)) for a, b in pairs], 0))
    row("change by another instruction", distance(actions(tasks=case.tasks[1:] + case.tasks[:1])))
    for key in observations[0]:
        row(f"change by another {key.rsplit('.', 1)[1]}", distance(actions(next_ones(key))))
    row("change by another noise", distance(actions(noise=noise.roll(1, 0))))


def _print_scales(stages: dict[str, np.ndarray]):
    print(f"{'stage':34} {'std':>9} {'largest':>9}  between tokens")
    for name, value in sorted(stages.items(), key=lambda item: _natural(item[0])):
        if value.dtype != np.float32 or value.ndim < 2:
            continue
        # How much tokens differ from one another, as a part of the whole: 0 means that they collapsed.
        spread = np.std(value - value.mean(-2, keepdims=True)) / (np.sqrt(np.square(value).mean()) + 1e-30)
        print(f"{name:34} {value.std():9.4f} {np.abs(value).max():9.3f}  {spread:.3f}")


def _print_entropies(entropies: dict[str, list[tuple[float, float]]]):
    print(f"{'attention':34} entropy over that of a uniform one (1 uniform, 0 one key): mean, lowest and highest row")
    for name, rows in sorted(entropies.items(), key=lambda item: _natural(item[0])):
        ratio = torch.cat(rows)
        print(f"{name:34} {ratio.mean():.3f} {ratio.min():.3f} {ratio.max():.3f}")


def _print_sensitivity(reference, observations, case, noise, actions):
    """RMS change of the normalised actions, relative to their standard deviation."""

    def changed(observations=observations, tasks=case.tasks, noise=noise) -> float:
        batch = reference.preprocess(observations, tasks)
        other = reference.predict(batch, noise).numpy()
        return float(np.sqrt(np.square(other - actions).mean()) / actions.std())

    def with_value(key, value):
        return [{**o, key: value(o[key])} for o in observations]

    print(f"actions: std {actions.std():.4f}, largest {np.abs(actions).max():.3f}; relative change by another")
    print(f"  instruction  {changed(tasks=['open the drawer'] * len(case.tasks)):.4f}")
    print(f"  state        {changed(with_value('observation.state', lambda s: s + 0.5 * np.abs(s).mean())):.4f}")
    for camera in (key for key in observations[0] if key != "observation.state"):
        print(f"  {camera.rsplit('.', 1)[1]:12} {changed(with_value(camera, lambda image: image[:, ::-1])):.4f}")
    print(f"  noise        {changed(noise=reference.noise(len(observations), case.noise_seed + 1)):.4f}")


@contextlib.contextmanager
def _attention_entropies(reference: Reference):
    """Entropy of every attention row, by layer, divided by the logarithm of the number of keys allowed."""
    entropies: dict[str, list[torch.Tensor]] = {}
    model = reference.policy.model.vlm_with_expert
    calls = {"prefix": 0, "expert": 0}

    def note(name: str, q: torch.Tensor, k: torch.Tensor, allowed: torch.Tensor | None):
        """`q`: [batch, heads, queries, width], `k`: [batch, heads, keys, width]."""
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        keys = torch.full(scores.shape[-2:], float(scores.shape[-1]))
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None], -math.inf)
            keys = allowed.sum(-1)[:, None]
        logarithms = torch.log_softmax(scores, -1)
        entropy = -(logarithms.exp() * logarithms.clamp_min(-1e4)).sum(-1)
        useful = (keys > 1).expand_as(entropy) if allowed is not None else torch.ones_like(entropy, dtype=torch.bool)
        uniform = keys.float().log().expand_as(entropy) if allowed is not None else math.log(scores.shape[-1])
        entropies.setdefault(name, []).append((entropy / uniform)[useful])

    def eager(mask, batch, head_dim, q, k, v):
        group = q.shape[2] // k.shape[2]
        part = "expert" if q.shape[1] == reference.config.chunk_size else "prefix"
        layer = calls[part] % model.num_vlm_layers
        calls[part] += 1
        keys = k.repeat_interleave(group, 2).transpose(1, 2).float()
        note(f"{part} {layer}", q.transpose(1, 2).float(), keys, mask)
        return original(mask, batch, head_dim, q, k, v)

    original = model.eager_attention_forward
    model.eager_attention_forward = eager
    hooks = []
    for i, layer in enumerate(model.get_vlm_model().vision_model.encoder.layers):
        attention, kept = layer.self_attn, {}

        def see_query(_module, _args, out, kept=kept):
            kept["q"] = out

        def see_key(_module, _args, out, kept=kept, name=f"vision {i}", heads=attention.num_heads):
            q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (kept["q"], out))
            note(name, q, k, None)

        hooks += [
            attention.q_proj.register_forward_hook(see_query),
            attention.k_proj.register_forward_hook(see_key),
        ]
    try:
        yield entropies
    finally:
        del model.eager_attention_forward
        for hook in hooks:
            hook.remove()


def _natural(name: str) -> list:
    """A sorting key that counts numbers as numbers."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.replace(" ", ".").split(".")]
