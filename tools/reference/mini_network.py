"""The network that train_mini.py trains, and the loss of each of its stages."""

import torch
import torch.nn.functional as F

# Before anything of LeRobot: its lerobot_policy keeps LeRobot offline.
from mini_data import COLOURS, KINDS, Batch

from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, make_att_2d_masks

# Distances of the words stage are learnt in this unit.
REACH_CM = 20.0


class Network:
    """The policy, with heads that are thrown away after the training.

    One for each thread, as it remembers what it saw last; `twin` has its weights from another one.
    """

    def __init__(self, policy: SmolVLAPolicy, twin: "Network | None" = None):
        self.policy = policy
        self.vlm = policy.model.vlm_with_expert
        width = self.vlm.config.text_config.hidden_size
        # Where each colour is: in the cell or not, and how far right and down of its centre.
        self.places_head = torch.nn.Linear(width, 3 * COLOURS)
        # The target, right and away from the gripper, and the goal's kind.
        self.words_head = torch.nn.Linear(width, 2 + KINDS)
        # Whether the block meant is in a picture's cell: asked of every cell, as one number a sample teaches slowly.
        self.meant_head = torch.nn.Linear(width, 1)
        if twin:
            for ours, theirs in zip(self.modules(), twin.modules(), strict=True):
                ours.load_state_dict(theirs.state_dict(keep_vars=True), assign=True)
        self.seen: list[torch.Tensor] = []
        self.understood: torch.Tensor | None = None
        model = self.vlm.get_vlm_model()
        model.connector.register_forward_hook(lambda _m, _i, output: self.seen.append(output))
        model.text_model.layers[-1].input_layernorm.register_forward_pre_hook(self._keep_understood)

    def _keep_understood(self, _module, inputs):
        self.understood = inputs[0]

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for module in self.modules() for parameter in module.parameters()]

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return self.policy, self.places_head, self.words_head, self.meant_head

    def see(self, batch: Batch):
        """Vision tower and connector alone."""
        self.seen.clear()
        images, _ = self.policy.prepare_images(batch.inputs)
        tokens = self.vlm.embed_image(torch.cat(images))
        self.seen[:] = tokens.chunk(len(images))

    def read(self, batch: Batch):
        """The prefix through the language model: its key/value cache, and which of its tokens count."""
        self.seen.clear()
        inputs = batch.inputs
        images, image_masks = self.policy.prepare_images(inputs)
        embeddings, pad_mask, attention_mask = self.policy.model.embed_prefix(
            images,
            image_masks,
            inputs["observation.language.tokens"],
            inputs["observation.language.attention_mask"],
            state=self.policy.prepare_state(inputs),
        )
        # As LeRobot's sample_actions fills it.
        _, cache = self.vlm.forward(
            attention_mask=make_att_2d_masks(pad_mask, attention_mask),
            position_ids=torch.cumsum(pad_mask, dim=1) - 1,
            past_key_values=None,
            inputs_embeds=[embeddings, None],
            use_cache=True,
        )
        return cache, pad_mask

    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """From what was seen last: logits [n, cameras, tokens, colours], offsets [n, cameras, tokens, colours, 2]."""
        tokens = torch.stack(self.seen, dim=1)
        answer = self.places_head(normalised(tokens)).unflatten(-1, (COLOURS, 3))
        return answer[..., 0], answer[..., 1:]

    def words(self) -> tuple[torch.Tensor, torch.Tensor]:
        """From what was read last, at the state's token: target [n, 2] in cm, logits of the kind [n, KINDS]."""
        answer = self.words_head(normalised(self.understood[:, -1]))
        return answer[:, :2] * REACH_CM, answer[:, 2:]

    def meant(self) -> torch.Tensor:
        """From what was read last, at the pictures' tokens: logits [n, cameras, tokens]."""
        cameras, tokens = len(self.seen), self.seen[0].shape[1]
        return self.meant_head(normalised(self.understood[:, : cameras * tokens])).reshape(-1, cameras, tokens)

    def places_loss(self, batch: Batch) -> torch.Tensor:
        logits, offset = self.places()
        found = F.binary_cross_entropy_with_logits(logits, batch.here, pos_weight=torch.tensor(4.0))
        distance = F.smooth_l1_loss(offset, batch.offset.expand_as(offset), beta=0.05, reduction="none").sum(-1)
        return found + 2 * (distance * batch.here).sum() / batch.here.sum().clamp(min=1)

    def words_loss(self, batch: Batch) -> torch.Tensor:
        target, kind = self.words()
        distance = F.smooth_l1_loss(target / REACH_CM, batch.target / REACH_CM, beta=0.05)
        colour = batch.colour[:, None, None, None].expand(*batch.here.shape[:3], 1)
        here = batch.here.gather(3, colour).squeeze(3)
        meant = F.binary_cross_entropy_with_logits(self.meant(), here, pos_weight=torch.tensor(8.0))
        return 2 * distance + 0.25 * F.cross_entropy(kind, batch.kind) + meant

    def flow_loss(self, batch: Batch, noise: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        """The loss of `SmolVLAPolicy.forward` for draws of noise [draws, n, …] and time [draws, n].

        The prefix does not depend on the draws, and is computed once: LeRobot's `denoise_step` on its cache.
        """
        draws = len(noise)
        cache, pad_mask = self.read(batch)
        if draws > 1:
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys.repeat(draws, 1, 1, 1), layer.values.repeat(draws, 1, 1, 1)
        actions = self.policy.prepare_action(batch.inputs).expand_as(noise)
        at = moment[..., None, None]
        noisy = at * noise + (1 - at) * actions
        velocity = self.policy.model.denoise_step(
            pad_mask.repeat(draws, 1), cache, noisy.flatten(0, 1), moment.flatten()
        )
        width = self.policy.config.action_feature.shape[0]
        return F.mse_loss(velocity[..., :width], (noise - actions).flatten(0, 1)[..., :width])

    def draw(self, count: int, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise and times, from LeRobot's own distributions."""
        config, cpu = self.policy.config, torch.device("cpu")
        shape = (draws, count, config.chunk_size, config.max_action_dim)
        noise = self.policy.model.sample_noise(shape, cpu)
        return noise, self.policy.model.sample_time(draws * count, cpu).unflatten(0, (draws, count))


def normalised(x: torch.Tensor) -> torch.Tensor:
    """As the language model's layers normalise what they read."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-5)
