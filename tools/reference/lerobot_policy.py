"""LeRobot's own SmolVLA, loaded from a checkpoint folder the way LeRobot loads it, and nothing else.

The folder's `vlm_model_name` and `tokenizer_name` are relative, so everything runs inside the folder.
"""

import contextlib
import io
import json
import logging
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from safetensors.torch import load_file

REFERENCES = ("fp32", "mixed")


class Processors:
    """A policy's configuration with its processors, without its weights."""

    def __init__(self, checkpoint: Path):
        with contextlib.chdir(checkpoint):
            self.config = _config_without_resizing() or PreTrainedConfig.from_pretrained(".")
            self.preprocessor = PolicyProcessorPipeline.from_pretrained(
                ".", config_filename="policy_preprocessor.json"
            )
            self.postprocessor = PolicyProcessorPipeline.from_pretrained(
                ".",
                config_filename="policy_postprocessor.json",
                to_transition=policy_action_to_transition,
                to_output=transition_to_policy_action,
            )

    def preprocess(self, observations: list[dict[str, np.ndarray]], tasks: list[str]) -> dict:
        """LeRobot's inference preprocessing of several observations as one batch.

        A camera that only part of the batch has is black in the rest, and masked there by LeRobot's
        `KEY_padding_mask`.
        """
        cpu = torch.device("cpu")
        keys = list(dict.fromkeys(key for observation in observations for key in observation))
        examples = {key: next(o[key] for o in observations if key in o) for key in keys}
        singles = [
            prepare_observation_for_inference(
                {key: o[key].copy() if key in o else np.zeros_like(examples[key]) for key in keys}, cpu, task
            )
            for o, task in zip(observations, tasks, strict=True)
        ]
        batch = {key: torch.cat([single[key] for single in singles]) for key in keys}
        batch = self.preprocessor({**batch, "task": tasks, "robot_type": ""})
        for key in keys:
            present = torch.tensor([key in observation for observation in observations])
            if not present.all():
                assert key in self.config.image_features, f"{key}: only a camera of the policy can be absent"
                batch[f"{key}_padding_mask"] = present
        return batch

    def noise(self, batch: int, seed: int) -> torch.Tensor:
        """Standard normal noise, [batch, chunk_size, max_action_dim]."""
        shape = (batch, self.config.chunk_size, self.config.max_action_dim)
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


class Reference(Processors):
    """A policy with its processors."""

    def __init__(self, checkpoint: Path, reference: str):
        """Loads a checkpoint.

        `fp32`: the checkpoint's weights upcast, everything computed in fp32.

        `mixed`: as LeRobot runs the published checkpoint. There, the language model, vision tower and
        connector are built in bf16 (`load_vlm_weights` reads them with `torch_dtype="bfloat16"`), the expert
        in bf16 (the VLM's `text_config` says so), and what LeRobot itself adds in fp32; `from_pretrained`
        then copies values into those types. The result is the file's own types, tensor by tensor. A synthetic
        folder says `load_vlm_weights: false`, which builds the vision tower and the connector in fp32, so
        here each parameter takes the file's type after loading.
        """
        assert reference in REFERENCES, reference
        # LeRobot announces on standard output what it loads.
        quiet = contextlib.redirect_stdout(io.StringIO())
        with contextlib.chdir(checkpoint), quiet, _key_warnings_are_errors():
            self.policy = SmolVLAPolicy.from_pretrained(".", config=_config_without_resizing())
            super().__init__(Path("."))
        self.config = self.policy.config
        self._take_file_types(load_file(checkpoint / "model.safetensors"))
        if reference == "fp32":
            self.policy.float()

    def _take_file_types(self, stored: dict[str, torch.Tensor]):
        parameters = dict(self.policy.named_parameters())
        if parameters.keys() != stored.keys():
            raise SystemExit(f"tensors differ from LeRobot's: {sorted(parameters.keys() ^ stored.keys())}")
        for name, parameter in parameters.items():
            if not torch.equal(parameter.float(), stored[name].float()):
                raise SystemExit(f"{name}: LeRobot rounded it on loading (to {parameter.dtype})")
            parameter.data = parameter.data.to(stored[name].dtype)

    def predict(self, batch: dict, noise: torch.Tensor) -> torch.Tensor:
        """A chunk of normalised actions, [batch, chunk_size, action width]."""
        # LeRobot's Aloha adaptation changes the state in place.
        batch = {key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()}
        return self.policy.predict_action_chunk(batch, noise=noise)


def _config_without_resizing() -> PreTrainedConfig | None:
    """The configuration where `resize_imgs_with_padding` is null, which LeRobot's classes allow but its parser
    does not; `None`, so that LeRobot reads the file itself, in every other case."""
    document = json.loads(Path("config.json").read_text())
    if document.get("resize_imgs_with_padding", ...) is not None:
        return None
    del document["resize_imgs_with_padding"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(document))
        config = PreTrainedConfig.from_pretrained(folder)
    config.resize_imgs_with_padding = None
    return config


@contextlib.contextmanager
def _key_warnings_are_errors():
    """LeRobot only warns about missing and unexpected keys; a synthetic checkpoint must have neither."""
    handler = _Collector()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
    if handler.messages:
        raise SystemExit("LeRobot warned while loading:\n  " + "\n  ".join(handler.messages))


class _Collector(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord):
        self.messages.append(record.getMessage())
