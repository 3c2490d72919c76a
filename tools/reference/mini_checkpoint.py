"""The checkpoint folder that train_mini.py writes: its configuration, processors, tokenizer and statistics.

Its layout is that of `smolvla synth`. The network is small, its topology that of the published one.
"""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import torch

# Before anything of LeRobot: its lerobot_policy keeps LeRobot offline.
from mini_data import ACTION_NAMES, CAMERAS, CELLS, CHUNK, SIDE, STATE_NAMES, Data

from lerobot.configs import PreTrainedConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

# At these widths transformers' default of 0.02 starts so close to zero that hardly anything is learnt.
INITIALIZER_RANGE = 0.08

VLM = {
    "architectures": ["SmolVLMForConditionalGeneration"],
    "image_token_id": 382,
    "initializer_range": INITIALIZER_RANGE,
    "model_type": "smolvlm",
    "pad_token_id": 2,
    "scale_factor": 2,
    "text_config": {
        "architectures": ["VLlama3ForCausalLM"],
        "head_dim": 32,
        "hidden_size": 128,
        "initializer_range": INITIALIZER_RANGE,
        "intermediate_size": 256,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-5,
        "rope_interleaved": False,
        "rope_theta": 100000,
        "torch_dtype": "float32",
        "vocab_size": 384,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": False,
    "vision_config": {
        "hidden_size": 96,
        "image_size": SIDE,
        "initializer_range": INITIALIZER_RANGE,
        "intermediate_size": 192,
        "max_image_size": {"longest_edge": SIDE},
        "model_type": "smolvlm_vision",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "patch_size": SIDE // (2 * CELLS),
        "size": {"longest_edge": SIDE},
        "tie_word_embeddings": False,
        "use_base_siglip": False,
    },
    "vocab_size": 384,
}

SPECIAL_TOKENS = {
    0: "<|endoftext|>",
    1: "<|im_start|>",
    2: "<|im_end|>",
    380: "<global-img>",
    381: "<fake_token_around_image>",
    382: "<image>",
    383: "<end_of_utterance>",
}
FIRST_LEARNT, END_LEARNT = 3, 380


def write_configuration(out: Path, data: Data, learning_rate: float, steps: int):
    """Everything of the checkpoint but the weights, in the layout of `smolvla synth`."""
    config = policy_configuration(learning_rate, steps)
    before = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    after = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    features = config["input_features"] | config["output_features"]
    to_cpu = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}

    def normalizer(name: str, features: dict, state_file: str) -> dict:
        settings = {"eps": 1e-8, "features": features, "norm_map": config["normalization_mapping"]}
        return {"registry_name": name, "config": settings, "state_file": state_file}

    tokenizer = {
        "max_length": config["tokenizer_max_length"],
        "task_key": "task",
        "padding_side": "right",
        "padding": config["pad_language_to"],
        "truncation": True,
        "tokenizer_name": config["vlm_model_name"],
    }
    preprocessor = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {"registry_name": "smolvla_new_line_processor", "config": {}},
        {"registry_name": "tokenizer_processor", "config": tokenizer},
        to_cpu,
        normalizer("normalizer_processor", features, before),
    ]
    postprocessor = [normalizer("unnormalizer_processor", config["output_features"], after), to_cpu]
    documents = {
        "config.json": config,
        "policy_preprocessor.json": {"name": "policy_preprocessor", "steps": preprocessor},
        "policy_postprocessor.json": {"name": "policy_postprocessor", "steps": postprocessor},
        "vlm/config.json": VLM,
        "vlm/tokenizer.json": tokenizer_document(data.instructions),
        "vlm/tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL_TOKENS[1],
            "eos_token": SPECIAL_TOKENS[383],
            "pad_token": SPECIAL_TOKENS[2],
            "unk_token": SPECIAL_TOKENS[0],
            "extra_special_tokens": {
                "fake_image_token": SPECIAL_TOKENS[381],
                "global_image_token": SPECIAL_TOKENS[380],
                "image_token": SPECIAL_TOKENS[382],
                "end_of_utterance_token": SPECIAL_TOKENS[383],
            },
            "truncation_side": "left",
            "model_max_length": 8192,
            "clean_up_tokenization_spaces": False,
            "processor_class": "SmolVLMProcessor",
        },
        "vlm/preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
        },
        "vlm/processor_config.json": {"image_seq_len": CELLS * CELLS, "processor_class": "SmolVLMProcessor"},
    }
    for name, document in documents.items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    statistics = all_statistics(data)
    for name in (before, after):
        write_tensors(out / name, statistics)


def policy_configuration(learning_rate: float, steps: int) -> dict:
    camera = {"type": "VISUAL", "shape": [3, SIDE, SIDE]}
    return {
        "type": "smolvla",
        "n_obs_steps": 1,
        "input_features": {
            "observation.state": {"type": "STATE", "shape": [len(STATE_NAMES)]},
            **{f"observation.images.{name}": camera for name in CAMERAS},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [len(ACTION_NAMES)]}},
        "device": "cpu",
        "use_amp": False,
        "use_peft": False,
        "push_to_hub": False,
        "repo_id": None,
        "private": None,
        "tags": None,
        "license": None,
        "pretrained_path": None,
        "pretrained_revision": None,
        "chunk_size": CHUNK,
        "n_action_steps": CHUNK // 2,
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        "max_state_dim": 8,
        "max_action_dim": 4,
        "resize_imgs_with_padding": [SIDE, SIDE],
        "empty_cameras": 0,
        "adapt_to_pi_aloha": False,
        "use_delta_joint_actions_aloha": False,
        "tokenizer_max_length": 20,
        "num_steps": 10,
        "use_cache": True,
        "freeze_vision_encoder": False,
        "train_expert_only": False,
        "train_state_proj": True,
        "optimizer_lr": learning_rate,
        "optimizer_betas": [0.9, 0.95],
        "optimizer_eps": 1e-8,
        "optimizer_weight_decay": 1e-4,
        "optimizer_grad_clip_norm": 1.0,
        "scheduler_warmup_steps": 100,
        "scheduler_decay_steps": steps,
        "scheduler_decay_lr": learning_rate / 50,
        "vlm_model_name": "vlm",
        "load_vlm_weights": False,
        "add_image_special_tokens": False,
        "attention_mode": "cross_attn",
        "prefix_length": 0,
        "pad_language_to": "max_length",
        "num_expert_layers": 0,
        "num_vlm_layers": 4,
        "self_attn_every_n_layers": 2,
        "expert_width_multiplier": 0.75,
        "min_period": 0.004,
        "max_period": 4.0,
        "rtc_config": None,
        "compile_model": False,
        "compile_mode": "max-autotune",
    }


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]):
    """Readers see the old file or the new one, never a part of it."""
    beside = path.with_name(f".{path.name}")
    save_file(tensors, beside, metadata={"format": "pt"})
    beside.chmod(0o644)  # safetensors lets only the owner read.
    os.replace(beside, path)


def tokenizer_document(instructions: list[str]) -> dict:
    """A byte-level BPE tokenizer that has learnt the instructions' words: `tokenizer.json`."""
    words = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ])  # fmt: skip
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = words
    trainer = BpeTrainer(
        vocab_size=END_LEARNT - FIRST_LEARNT,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    learner.train_from_iterator([f"{text}\n" for text in instructions], trainer)
    learnt = json.loads(learner.to_str())["model"]
    # Ids without a token make `tokenizers` complain, so they get one that no text contains.
    names = {id_: f"<|unused_{id_}|>" for id_ in range(VLM["vocab_size"])}
    names |= {FIRST_LEARNT + id_: token for token, id_ in learnt["vocab"].items()}
    names |= SPECIAL_TOKENS
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id_, "content": content, **added} for id_, content in SPECIAL_TOKENS.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "add_prefix_space": False},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id_ for id_, token in sorted(names.items())},
            "merges": learnt["merges"],
        },
    }


def all_statistics(data: Data) -> dict[str, torch.Tensor]:
    """`<feature>.<statistic>` of state, actions and cameras, over the training part."""
    some = data.training[:: max(1, len(data.training) // 500)]
    values = {
        "observation.state": data.state[data.training],
        "action": data.actions[data.training].flatten(0, 1),
        **{f"observation.images.{name}": data.pictures(some, name).flatten(0, 2).float() / 255 for name in CAMERAS},
    }
    tensors = {}
    for feature, value in values.items():
        value = value.double()
        # torch.quantile takes no more than 16 million numbers.
        quantiles = np.quantile(value.numpy(), [0.01, 0.1, 0.9, 0.99], axis=0)
        statistics = {"mean": value.mean(0), "std": value.std(0, False), "min": value.amin(0), "max": value.amax(0)}
        statistics |= dict(zip(("q01", "q10", "q90", "q99"), map(torch.from_numpy, quantiles), strict=True))
        for name, statistic in statistics.items():
            shape = (3, 1, 1) if feature.startswith("observation.images.") else (-1,)
            tensors[f"{feature}.{name}"] = statistic.float().reshape(shape).contiguous()
    return tensors


def build_policy(checkpoint: Path) -> SmolVLAPolicy:
    """LeRobot's policy with fresh weights, all of which may be trained."""
    with contextlib.chdir(checkpoint), contextlib.redirect_stdout(io.StringIO()):
        policy = SmolVLAPolicy(PreTrainedConfig.from_pretrained("."))
    # LeRobot freezes the last layer of the language model. The expert reads that layer's keys and values.
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    return policy
