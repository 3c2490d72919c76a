"""Records every stage of one prediction, under the names the Rust tests use.

Shapes: B batch, C camera slots in prefix order, P prefix tokens, S Euler steps. Activations are token-major,
`[B, tokens, width]`; keys and values `[B, tokens, kv_heads·head_dim]`.
"""

import contextlib

import numpy as np
import torch

from lerobot_policy import Reference


def record(reference: Reference, batch: dict, noise: torch.Tensor) -> dict[str, np.ndarray]:
    """Runs one prediction and returns every stage by name."""
    recorder = _Recorder(reference)
    recorder.put("noise", noise)
    recorder.put("processed.state", batch["observation.state"])
    recorder.put("processed.tokens", batch["observation.language.tokens"])
    recorder.put("processed.token_mask", batch["observation.language.attention_mask"])
    with recorder.attached():
        actions = reference.predict(batch, noise)
    recorder.put("actions.normalized", actions)
    recorder.put("actions", reference.postprocessor(actions))
    return recorder.stages


def record_actions(reference: Reference, batch: dict, noises: torch.Tensor) -> dict[str, np.ndarray]:
    """Runs one prediction for each noise, [N, B, chunk, max_action_dim], and returns noises and actions alone."""
    actions = torch.stack([reference.predict(batch, noise) for noise in noises])
    physical = torch.stack([reference.postprocessor(chunk.clone()) for chunk in actions])
    tensors = {"noise": noises, "actions.normalized": actions, "actions": physical}
    return {name: tensor.float().contiguous().numpy() for name, tensor in tensors.items()}


class _Recorder:
    """Hooks on LeRobot's modules and wrappers around its methods; they only look."""

    def __init__(self, reference: Reference):
        self.policy = reference.policy
        self.steps = reference.config.num_steps
        self.stages: dict[str, np.ndarray] = {}
        self.camera = 0
        self.step = 0

    def put(self, name: str, value: torch.Tensor):
        assert name not in self.stages, f"{name} recorded twice"
        value = value.detach()
        if value.dtype == torch.bool:
            value = value.to(torch.uint8)
        elif value.is_floating_point():
            value = value.float()
        self.stages[name] = value.clone().contiguous().numpy()

    @contextlib.contextmanager
    def attached(self):
        with contextlib.ExitStack() as stack:
            self._attach_vision(stack)
            self._attach_prefix(stack)
            self._attach_denoising(stack)
            yield

    def _attach_vision(self, stack: contextlib.ExitStack):
        vlm = self.policy.model.vlm_with_expert.get_vlm_model()
        vision = vlm.vision_model
        names = {
            "embeddings": vision.embeddings,
            **{f"layers.{i}": layer for i, layer in enumerate(vision.encoder.layers)},
            "output": vision.post_layernorm,
        }
        for name, module in names.items():
            self._after(stack, module, lambda out, name=name: self.put(f"vision.{self.camera}.{name}", out))

        def connector(out: torch.Tensor):
            self.put(f"connector.{self.camera}", out)
            self.camera += 1

        self._after(stack, vlm.connector, connector)

    def _attach_prefix(self, stack: contextlib.ExitStack):
        model = self.policy.model
        layers = model.vlm_with_expert.get_vlm_model().text_model.layers

        def embed_prefix(original, images, *args, **kwargs):
            for camera, image in enumerate(images):
                self.put(f"processed.image.{camera}", image)
            embeddings, pad_mask, attention_mask = original(images, *args, **kwargs)
            self.put("prefix.embeddings", embeddings)
            self.put("prefix.pad_mask", pad_mask)
            return embeddings, pad_mask, attention_mask

        def forward(original, **kwargs):
            outputs, cache = original(**kwargs)
            if kwargs["inputs_embeds"][0] is not None:
                self.put("prefix.position_ids", kwargs["position_ids"])
                for i, layer in enumerate(cache.layers):
                    self.put(f"text.layers.{i}.key", layer.keys.transpose(1, 2).flatten(2))
                    self.put(f"text.layers.{i}.value", layer.values.transpose(1, 2).flatten(2))
            return outputs, cache

        _wrap(stack, model, "embed_prefix", embed_prefix)
        _wrap(stack, model.vlm_with_expert, "forward", forward)
        # What leaves layer i enters layer i + 1; nothing that leaves the last layer is used.
        for i, layer in enumerate(layers[1:]):
            self._before(stack, layer.input_layernorm, lambda x, i=i: self.put(f"text.layers.{i}", x))

    def _attach_denoising(self, stack: contextlib.ExitStack):
        model = self.policy.model
        expert = model.vlm_with_expert.lm_expert

        def embed_suffix(original, *args):
            result = original(*args)
            if self._is_outer_step():
                self.put(f"steps.{self.step}.suffix", result[0])
            return result

        def denoise_step(original, **kwargs):
            self.put(f"steps.{self.step}.x", kwargs["x_t"])
            velocity = original(**kwargs)
            self.put(f"steps.{self.step}.velocity", velocity)
            self.step += 1
            return velocity

        def sample_actions(original, *args, **kwargs):
            actions = original(*args, **kwargs)
            self.put("actions.padded", actions)
            return actions

        _wrap(stack, model, "embed_suffix", embed_suffix)
        _wrap(stack, model, "denoise_step", denoise_step)
        _wrap(stack, model, "sample_actions", sample_actions)

        def layer_output(i: int, x: torch.Tensor):
            if self._is_outer_step():
                self.put(f"steps.{self.step}.layers.{i}", x)

        # What leaves expert layer j enters the next one, or the final norm. Names count language-model layers,
        # of which only every `stride`-th has an expert layer beside it.
        stride = model.vlm_with_expert.num_vlm_layers // len(expert.layers)
        followers = [layer.input_layernorm for layer in expert.layers[1:]] + [expert.norm]
        for j, follower in enumerate(followers):
            self._before(stack, follower, lambda x, i=j * stride: layer_output(i, x))

    def _is_outer_step(self) -> bool:
        """Only the first and the last step are recorded in full."""
        return self.step in (0, self.steps - 1)

    @staticmethod
    def _after(stack: contextlib.ExitStack, module: torch.nn.Module, see):
        hook = module.register_forward_hook(lambda _m, _a, out: see(out[0] if isinstance(out, tuple) else out))
        stack.callback(hook.remove)

    @staticmethod
    def _before(stack: contextlib.ExitStack, module: torch.nn.Module, see):
        hook = module.register_forward_pre_hook(lambda _m, args: see(args[0]))
        stack.callback(hook.remove)


def _wrap(stack: contextlib.ExitStack, owner: object, name: str, wrapper):
    """Puts `wrapper(original, …)` in place of a method until the stack unwinds."""
    original = getattr(owner, name)
    object.__setattr__(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))
    stack.callback(object.__delattr__, owner, name)
