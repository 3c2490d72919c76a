#!/usr/bin/env python
"""Exports SmolVLA's stages for the runtimes that peers.py measures, with what PyTorch computes for them.

Shapes are fixed: C cameras and B observations with one instruction of L tokens, so that a prefix has
P = 64·C + L + 1 tokens (base size), none of them padding. Each stage is a small module over LeRobot's own
submodules in fp32; only attention is written anew, with PyTorch's fused function, which runtimes recognise.

`vision`: images [B·C, 3, H, W] → image tokens [B·C, tokens, width].
`prefill`: image tokens [B, C·tokens, width], instruction [B, L], state [B, max_state_dim]
→ keys and values of each layer, [B, P, kv_heads, head_dim].
`context`: keys and values of the cross-attention layers → the expert's projections of them.
`denoise`: actions [B, chunk, max_action_dim], time embedding [expert width], keys and values of each layer
→ velocity [B, chunk, max_action_dim].

`context` holds what LeRobot repeats in each of the ten steps although it never changes.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cases import raw_observation
from latency import CAMERAS, TASK
from lerobot_policy import Processors, Reference

# After lerobot_policy, which sets the environment.
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding  # isort: skip
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy  # isort: skip

STAGES = ("vision", "prefill", "context", "denoise")
FORMATS = ("openvino", "openvino-int8", "onnx", "onnx-int8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--cameras", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="the cache folder")
    of = parser.parse_args()
    export(of.checkpoint.resolve(), of.format, of.cameras, of.batch, of.out)


def folder_of(cache: Path, cameras: int, batch: int) -> Path:
    """Where exports of these shapes lie in the cache: `STAGE.FORMAT.SUFFIX`, `expected.npz` and stamps."""
    return cache / f"c{cameras}-b{batch}"


def is_exported(checkpoint: Path, form: str, cameras: int, batch: int, cache: Path) -> bool:
    """Whether the cache holds this format, made from these weights and by this file."""
    stamp = folder_of(cache, cameras, batch) / f"{form}.json"
    return stamp.exists() and json.loads(stamp.read_text())["fingerprint"] == _fingerprint(checkpoint)


def export(checkpoint: Path, form: str, cameras: int, batch: int, cache: Path):
    """Writes one format of all stages; int8 is made from f32, which is exported first if need be."""
    folder = folder_of(cache, cameras, batch)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / f"{form}.json"
    stamp.unlink(missing_ok=True)
    fingerprint = _fingerprint(checkpoint)
    base = form.removesuffix("-int8")
    if form == base:
        _export_base(checkpoint, form, cameras, batch, folder)
    else:
        if not is_exported(checkpoint, base, cameras, batch, cache):
            export(checkpoint, base, cameras, batch, cache)
        {"openvino": _quantize_openvino, "onnx": _quantize_onnx}[base](folder)
    stamp.write_text(json.dumps({"fingerprint": fingerprint}))


@torch.no_grad()
def _export_base(checkpoint: Path, form: str, cameras: int, batch: int, folder: Path):
    """Writes the stages in f32, and `expected.npz`: inputs of each stage with PyTorch's outputs."""
    policy = Reference(checkpoint, "fp32")
    run = _Run(policy, observations(checkpoint, cameras, batch))
    arrays = {"every": np.array(policy.config.self_attn_every_n_layers), "noise": run.noise.numpy(),
              "times": torch.stack(run.times).numpy(), "actions": run.actions.numpy()}  # fmt: skip
    for stage in STAGES:
        arrays |= {f"{stage}.in.{i}": array.numpy() for i, array in enumerate(run.inputs[stage])}
        arrays |= {f"{stage}.out.{i}": array.numpy() for i, array in enumerate(run.outputs[stage])}
    np.savez(folder / "expected.npz", **arrays)
    write = {"openvino": _write_openvino, "onnx": _write_onnx}[form]
    for stage in STAGES:
        write(run.modules[stage], run.inputs[stage], folder / stage)


def _fingerprint(checkpoint: Path) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    with (checkpoint / "model.safetensors").open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Expected:
    """What `expected.npz` holds."""

    def __init__(self, folder: Path):
        arrays = dict(np.load(folder / "expected.npz"))
        self.every = int(arrays["every"])
        self.noise, self.times, self.actions = (arrays[name] for name in ("noise", "times", "actions"))
        self.inputs = {stage: _numbered(arrays, f"{stage}.in") for stage in STAGES}
        self.outputs = {stage: _numbered(arrays, f"{stage}.out") for stage in STAGES}

    def chunk(self, call: Callable) -> np.ndarray:
        """Runs the recorded observation through `call(stage, *inputs)`."""
        (images,), (_, tokens, state) = self.inputs["vision"], self.inputs["prefill"]
        return chunk(call, images, tokens, state, self.noise, self.times, self.every)


def _numbered(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    count = sum(name.startswith(prefix + ".") for name in arrays)
    return [arrays[f"{prefix}.{i}"] for i in range(count)]


def observations(checkpoint: Path, cameras: int, batch: int) -> list[dict[str, np.ndarray]]:
    """The observations that every engine predicts from."""
    description = {
        "images": {key: {"file": file} for key, file in CAMERAS[:cameras]},
        "state": {"width": 6, "seed": 1},
    }
    return [raw_observation(description, checkpoint)] * batch


class Vision(nn.Module):
    """Vision tower and connector. LeRobot runs one camera after the other, this all of them as one batch."""

    def __init__(self, vlm: nn.Module, images: Tensor):
        super().__init__()
        self.tower = vlm.vision_model
        self.connector = vlm.connector
        # The ids depend on the image's shape alone, which is fixed; taken from the module itself.
        seen = []
        table = self.tower.embeddings.position_embedding
        hook = table.register_forward_pre_hook(lambda _module, args: seen.append(args[0][:1]))
        self.tower(pixel_values=images[:1])
        hook.remove()
        self.register_buffer("positions", table(seen[0]))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.tower.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
        x = patches + self.positions
        for layer in self.tower.encoder.layers:
            x = x + self._attention(layer.self_attn, layer.layer_norm1(x))
            x = x + layer.mlp(layer.layer_norm2(x))
        return self.connector(self.tower.post_layernorm(x))

    @staticmethod
    def _attention(attention: nn.Module, x: Tensor) -> Tensor:
        heads = (*x.shape[:-1], attention.num_heads, attention.head_dim)
        query, key, value = (
            projection(x).view(heads) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return attention.out_proj(_attention(query, key, value))


class Prefill(nn.Module):
    """Prefix embedding and language model, up to the last layer's keys and values."""

    def __init__(self, model: nn.Module, image_tokens: int, instruction_tokens: int):
        super().__init__()
        text = model.vlm_with_expert.get_vlm_model().text_model
        self.embedding = text.get_input_embeddings()
        self.layers = text.layers
        self.state_proj = model.state_proj
        length = image_tokens + instruction_tokens + 1
        self.rotary = _Rotary(torch.arange(length), self.layers[0].self_attn.head_dim)
        # Image and language tokens do not see the state, the last token; it sees everything.
        mask = torch.ones(length, length, dtype=torch.bool)
        mask[:-1, -1] = False
        self.register_buffer("mask", mask)

    def forward(self, images: Tensor, tokens: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        scale = math.sqrt(images.shape[-1])
        parts = [images * scale, self.embedding(tokens) * scale, self.state_proj(state)[:, None]]
        x = torch.cat(parts, dim=1)
        cache = []
        for i, layer in enumerate(self.layers):
            normed = layer.input_layernorm(x)
            heads = (*x.shape[:-1], -1, layer.self_attn.head_dim)
            key = self.rotary(layer.self_attn.k_proj(normed).view(heads))
            value = layer.self_attn.v_proj(normed).view(heads)
            cache += [key, value]
            if i + 1 < len(self.layers):
                query = self.rotary(layer.self_attn.q_proj(normed).view(heads))
                x = x + layer.self_attn.o_proj(_attention(query, key, value, self.mask))
                x = x + layer.mlp(layer.post_attention_layernorm(x))
        return tuple(cache)


class Context(nn.Module):
    """The expert's projections of the prefix in its cross-attention layers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        every = model.config.self_attn_every_n_layers
        self.layers = nn.ModuleList(
            layer.self_attn for i, layer in enumerate(model.vlm_with_expert.lm_expert.layers) if i % every
        )

    def forward(self, *cache: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for i, attention in enumerate(self.layers):
            key, value = cache[2 * i : 2 * i + 2]
            for projection, x in ((attention.k_proj, key), (attention.v_proj, value)):
                outputs.append(projection(x.flatten(2)).view(*x.shape[:2], -1, attention.head_dim))
        return tuple(outputs)


class Denoise(nn.Module):
    """One step of the expert: the velocity at `x`."""

    def __init__(self, model: nn.Module, prefix: int):
        super().__init__()
        self.every = model.config.self_attn_every_n_layers
        self.layers = model.vlm_with_expert.lm_expert.layers
        self.norm = model.vlm_with_expert.lm_expert.norm
        for name in ("action_in_proj", "action_time_mlp_in", "action_time_mlp_out", "action_out_proj"):
            setattr(self, name, getattr(model, name))
        chunk = model.config.chunk_size
        head_dim = self.layers[0].self_attn.head_dim
        # Self-attention counts on from the prefix, cross-attention from 0.
        self.rotary = _Rotary(prefix + torch.arange(chunk), head_dim)
        self.cross_rotary = _Rotary(torch.arange(chunk), head_dim)
        seen = torch.ones(chunk, prefix, dtype=torch.bool)
        causal = torch.ones(chunk, chunk, dtype=torch.bool).tril()
        self.register_buffer("mask", torch.cat([seen, causal], dim=1))

    def forward(self, x: Tensor, time: Tensor, *cache: Tensor) -> Tensor:
        x = self.action_in_proj(x)
        x = torch.cat([x, time.expand_as(x)], dim=2)
        x = self.action_time_mlp_out(nn.functional.silu(self.action_time_mlp_in(x)))
        for i, layer in enumerate(self.layers):
            normed = layer.input_layernorm(x)
            heads = (*x.shape[:-1], -1, layer.self_attn.head_dim)
            query = layer.self_attn.q_proj(normed).view(heads)
            key, value = cache[2 * i : 2 * i + 2]
            if i % self.every == 0:
                key = torch.cat([key, self.rotary(layer.self_attn.k_proj(normed).view(heads))], dim=1)
                value = torch.cat([value, layer.self_attn.v_proj(normed).view(heads)], dim=1)
                attended = _attention(self.rotary(query), key, value, self.mask)
            else:
                attended = _attention(self.cross_rotary(query), key, value)
            x = x + layer.self_attn.o_proj(attended)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.action_out_proj(self.norm(x))


class _Rotary(nn.Module):
    """LeRobot's `apply_rope` at fixed positions."""

    def __init__(self, positions: Tensor, head_dim: int):
        super().__init__()
        half = head_dim // 2
        timescale = 10_000 ** (2.0 / head_dim * torch.arange(half, dtype=torch.float32))
        radians = positions[:, None].float() / timescale
        self.register_buffer("cos", radians.cos()[:, None])
        self.register_buffer("sin", radians.sin()[:, None])

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * self.cos - second * self.sin, second * self.cos + first * self.sin], dim=-1)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of [B, tokens, heads, head_dim], keys and values repeated for the query heads they serve."""
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (x[:, :, :, None].expand(-1, -1, -1, groups, -1).flatten(2, 3) for x in (key, value))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)


class _Run:
    """One chunk through the stage modules, with each stage's first inputs; checked against LeRobot's own."""

    def __init__(self, policy: Reference, observed: list[dict]):
        model = policy.policy.model
        batch = policy.preprocess(observed, [TASK] * len(observed))
        images, tokens, state = stage_inputs(policy, batch)
        self.noise = policy.noise(len(observed), 0)
        self.times = _time_embeddings(policy)
        vision = Vision(model.vlm_with_expert.get_vlm_model(), images)
        image_tokens = vision(images[:1]).shape[1] * images.shape[0] // len(observed)
        prefill = Prefill(model, image_tokens, tokens.shape[1])
        modules = (vision, prefill, Context(model), Denoise(model, prefill.mask.shape[0]))
        self.modules = {stage: module.eval() for stage, module in zip(STAGES, modules, strict=True)}
        self.inputs: dict[str, tuple[Tensor, ...]] = {}
        self.outputs: dict[str, tuple[Tensor, ...]] = {}
        every = model.config.self_attn_every_n_layers
        self.actions = chunk(self._call, images, tokens, state, self.noise, self.times, every)
        self._compare_with_lerobot(policy, batch)

    def _call(self, stage: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.modules[stage](*inputs)
        output = output if isinstance(output, tuple) else (output,)
        self.inputs.setdefault(stage, inputs)
        self.outputs.setdefault(stage, output)
        return output

    def _compare_with_lerobot(self, policy: Reference, batch: dict):
        theirs = policy.predict(batch, self.noise)
        error = (self.actions[..., : theirs.shape[-1]] - theirs).abs().max().item()
        if not error < 1e-4:
            raise SystemExit(f"exported.py: actions differ from LeRobot's fp32 by {error}, normalised")


def chunk(call: Callable, images, tokens, state, noise, times, every: int):
    """One chunk of padded actions. `call(stage, *inputs)` runs a stage; arrays may be torch's or NumPy's."""
    (image_tokens,) = call("vision", images)
    image_tokens = image_tokens.reshape(len(state), -1, image_tokens.shape[-1])
    cache = list(call("prefill", image_tokens, tokens, state))
    cross = [j for j in range(len(cache)) if (j // 2) % every]
    for j, projected in zip(cross, call("context", *(cache[j] for j in cross)), strict=True):
        cache[j] = projected
    x = noise
    for time in times:
        (velocity,) = call("denoise", x, time, *cache)
        x = x - velocity / len(times)
    return x


def stage_inputs(processors: Processors, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
    """What enters the stages: all cameras' images, the instruction without padding, the padded state."""
    # LeRobot's own methods; of the policy they need only the configuration.
    images, _masks = SmolVLAPolicy.prepare_images(processors, batch)
    state = SmolVLAPolicy.prepare_state(processors, batch)
    mask = batch["observation.language.attention_mask"]
    length = int(mask[0].sum())
    assert bool(mask[:, :length].all()) and not bool(mask[:, length:].any()), "instructions differ in length"
    tokens = batch["observation.language.tokens"][:, :length]
    return torch.stack(images, dim=1).flatten(0, 1).contiguous(), tokens.contiguous(), state


def _time_embeddings(policy: Reference) -> list[Tensor]:
    """The sinusoidal time embedding of each Euler step: an input, since LeRobot computes it in f64."""
    config, width = policy.config, policy.policy.model.vlm_with_expert.expert_hidden_size
    times = [torch.tensor([1.0 - step / config.num_steps]) for step in range(config.num_steps)]
    cpu = torch.device("cpu")
    return [
        create_sinusoidal_pos_embedding(time, width, config.min_period, config.max_period, cpu)[0].float()
        for time in times
    ]


def _write_openvino(module: nn.Module, inputs: tuple[Tensor, ...], path: Path):
    import openvino

    model = openvino.convert_model(module, example_input=inputs, input=[tuple(x.shape) for x in inputs])
    openvino.save_model(model, f"{path}.openvino.xml", compress_to_fp16=False)


def _quantize_openvino(folder: Path):
    """Full int8, weights and activations; calibrated on one chunk, so on ten steps of `denoise`."""
    import nncf
    import openvino

    core = openvino.Core()
    models = {stage: core.read_model(folder / f"{stage}.openvino.xml") for stage in STAGES}
    compiled = {
        stage: core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for stage, model in models.items()
    }
    samples: dict[str, list[list[np.ndarray]]] = {stage: [] for stage in STAGES}

    def call(stage: str, *inputs: np.ndarray) -> list[np.ndarray]:
        samples[stage].append([np.array(x) for x in inputs])
        return [np.array(output) for output in compiled[stage](list(inputs)).values()]

    Expected(folder).chunk(call)
    compiled.clear()
    for stage, model in models.items():
        data = nncf.Dataset(samples[stage])
        size = len(samples[stage])
        quantized = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=size)
        openvino.save_model(quantized, folder / f"{stage}.openvino-int8.xml", compress_to_fp16=False)


def _write_onnx(module: nn.Module, inputs: tuple[Tensor, ...], path: Path):
    torch.onnx.export(module, inputs, f"{path}.onnx.onnx", dynamo=True, external_data=True)


def _quantize_onnx(folder: Path):
    """ONNX Runtime's dynamic quantisation: int8 weights per channel, activations quantised as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for stage in STAGES:
        model = onnx.load(folder / f"{stage}.onnx.onnx")
        # The exporter's shapes of weights that it transposed fail the quantiser's check, which infers them anew.
        del model.graph.value_info[:]
        quantize_dynamic(
            model, folder / f"{stage}.onnx-int8.onnx", per_channel=True,
            weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
