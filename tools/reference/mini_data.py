"""The demonstrations that train_mini.py learns from: reading and checking them, and making batches of them.

`cargo xtask mini data` writes the folder: `dataset.json`, and safetensors files with a row for each sample.
"""

import bisect
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lerobot_policy import Processors

# What the demonstrations must be.
FORMAT = 1
CHUNK = 16
SIDE = 64
STATE_NAMES = ["x", "y", "vx", "vy", "pressing"]
ACTION_NAMES = ["vx", "vy", "press"]
COLOURS = 4
KINDS = 3
CAMERAS = ("top", "wrist")
TABLE_CM = 40.0
WRIST_CM = 16.0

# A camera's picture becomes this many tokens in a row, and as many rows.
CELLS = 4

HELD_OUT = 0.05  # share of the episodes that only checks see
CHECKED = 512  # samples that a check looks at


class Data:
    """The recorded samples. Pictures stay in the mapped files; the rest is in memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "dataset.json"
        if not path.is_file():
            refuse(f"{path} is missing; record the demonstrations with `cargo xtask mini data`")
        try:
            self.about = json.loads(path.read_text())
        except ValueError as error:
            refuse(f"{path} is no JSON: {error}")
        expected = {"format": FORMAT, "chunk": CHUNK, "side": SIDE, "state_names": STATE_NAMES,
                    "action_names": ACTION_NAMES}  # fmt: skip
        for key, value in expected.items():
            if self.about.get(key) != value:
                self._refuse("dataset.json", f"{key} is {self.about.get(key)!r}; expected {value!r}")
        if len(self.about.get("colours", [])) != COLOURS:
            self._refuse("dataset.json", f"colours is {self.about.get('colours')!r}; expected {COLOURS} names")
        self.instructions: list[str] = self.about.get("instructions", [])
        if not self.about.get("files") or not self.instructions:
            self._refuse("dataset.json", "files or instructions is missing or empty")
        self.files = [self._read(name) for name in self.about["files"]]
        self.starts = np.cumsum([0] + [len(file["state"]) for file in self.files]).tolist()
        if self.starts[-1] != self.about.get("samples"):
            self._refuse("dataset.json", f"samples is {self.about.get('samples')}; the files hold {self.starts[-1]}")
        whole = lambda name: torch.cat([file[name] for file in self.files])  # noqa: E731
        self.state, self.actions, self.blocks = whole("state"), whole("actions"), whole("blocks")
        self.instruction, self.goal = whole("instruction").long(), whole("goal").long()
        self.episode = whole("episode")
        self._check_values()
        self.target = self.blocks[torch.arange(len(self.goal)), self.goal[:, 1]]
        if not self.target.isfinite().all():
            self._refuse("samples", "an instruction names a block that its sample does not have")
        self._split()

    def _read(self, name: str) -> dict[str, torch.Tensor]:
        path = self.folder / name
        if not path.is_file():
            refuse(f"{path} is missing, though dataset.json lists it; record the demonstrations again "
                   "with `cargo xtask mini data`")  # fmt: skip
        try:
            tensors = load_file(path)
        except Exception as error:
            self._refuse(name, f"cannot be read: {error}")
        picture, u8, f32, i32 = (SIDE, SIDE, 3), torch.uint8, torch.float32, torch.int32
        expected = {"top": (picture, u8), "wrist": (picture, u8), "state": ((len(STATE_NAMES),), f32),
                    "actions": ((CHUNK, len(ACTION_NAMES)), f32), "instruction": ((), i32), "goal": ((2,), i32),
                    "blocks": ((COLOURS, 2), f32), "episode": ((), i32)}  # fmt: skip
        for key, (shape, dtype) in expected.items():
            if key not in tensors:
                self._refuse(name, f"has no tensor {key}")
            tensor, count = tensors[key], len(tensors["state"])
            if tensor.dtype != dtype or tuple(tensor.shape) != (count, *shape):
                is_ = f"{tensor.dtype} {list(tensor.shape)}"
                self._refuse(name, f"{key} is {is_}; expected {dtype} {[count, *shape]}")
        return tensors

    def _check_values(self):
        if not self.state.isfinite().all() or not self.actions.isfinite().all():
            self._refuse("samples", "a state or an action is not finite")
        limits = {"instruction": (self.instruction, len(self.instructions)), "goal's kind": (self.goal[:, 0], KINDS),
                  "goal's colour": (self.goal[:, 1], COLOURS)}  # fmt: skip
        for name, (value, end) in limits.items():
            if not ((value >= 0) & (value < end)).all():
                self._refuse("samples", f"{name} is not between 0 and {end - 1}")

    def _split(self):
        """Holds out the last episodes, whole ones, so that no scene is in both parts."""
        episodes = self.episode.unique()
        if len(episodes) < 2:
            self._refuse("dataset.json", "there is one episode only; training and checking need at least two")
        first = episodes[-max(1, round(HELD_OUT * len(episodes)))]
        self.training = (self.episode < first).nonzero().flatten().numpy()
        held_out = (self.episode >= first).nonzero().flatten().numpy()
        self.held_out = held_out[np.linspace(0, len(held_out) - 1, min(CHECKED, len(held_out))).astype(int)]

    def _refuse(self, name: str, reason: str):
        refuse(f"{self.folder / name}: {reason}; record the demonstrations again with `cargo xtask mini data`")

    def pictures(self, indices: np.ndarray, camera: str) -> torch.Tensor:
        """u8, [n, SIDE, SIDE, 3]."""
        rows = []
        for index in indices.tolist():
            file = bisect.bisect_right(self.starts, index) - 1
            rows.append(self.files[file][camera][index - self.starts[file]])
        return torch.stack(rows)


@dataclass
class Batch:
    """Samples as the policy takes them, and what the first stages must find in them."""

    inputs: dict[str, torch.Tensor]
    here: torch.Tensor  # [n, cameras, tokens, colours], 1 where the block's centre is in the token's cell
    offset: torch.Tensor  # [n, cameras, 1, colours, 2], right and down from the cell's centre, in cells
    target: torch.Tensor  # [n, 2], the block meant, from the gripper, cm
    kind: torch.Tensor  # [n]
    colour: torch.Tensor  # [n], of the block meant


class Batches:
    """Samples, prepared as LeRobot's processors prepare them; `Training.check_saved` in train_mini.py compares."""

    def __init__(self, data: Data, checkpoint: Path):
        self.data = data
        processors = Processors(checkpoint)
        blank = {f"observation.images.{camera}": np.zeros((SIDE, SIDE, 3), np.uint8) for camera in CAMERAS}
        blank["observation.state"] = np.zeros(len(STATE_NAMES), np.float32)
        texts = processors.preprocess([blank] * len(data.instructions), data.instructions)
        tokens, mask = texts["observation.language.tokens"], texts["observation.language.attention_mask"]
        if mask[:, -1].any():
            longest = data.instructions[int(mask.sum(1).argmax())]
            refuse(f"'{longest}' fills all {mask.shape[1]} tokens of an instruction; raise tokenizer_max_length")
        # Padding beyond the longest instruction is masked and only costs time.
        length = int(mask.sum(1).max())
        self.tokens, self.mask = tokens[:, :length].contiguous(), mask[:, :length].bool().contiguous()
        mean, std = (data.state[data.training].double().mean(0), data.state[data.training].double().std(0, False))
        self.state = ((data.state - mean.float()) / (std.float() + 1e-8)).contiguous()
        actions = data.actions[data.training].flatten(0, 1).double()
        mean, std = actions.mean(0).float(), actions.std(0, False).float()
        self.actions = ((data.actions - mean) / (std + 1e-8)).contiguous()
        self.action_mean, self.action_std = mean, std

    def physical(self, actions: torch.Tensor) -> torch.Tensor:
        """Normalised actions in cm/s."""
        return actions * self.action_std + self.action_mean

    def take(self, indices: np.ndarray) -> Batch:
        data, at = self.data, torch.from_numpy(indices)
        inputs = {}
        for camera in CAMERAS:
            pictures = data.pictures(indices, camera).permute(0, 3, 1, 2).contiguous()
            inputs[f"observation.images.{camera}"] = pictures.float() / 255
        text = data.instruction[at]
        inputs["observation.language.tokens"] = self.tokens[text]
        inputs["observation.language.attention_mask"] = self.mask[text]
        inputs["observation.state"] = self.state[at]
        inputs["action"] = self.actions[at]
        gripper = data.state[at, :2]
        here, offset = places(data.blocks[at], gripper)
        return Batch(inputs, here, offset, data.target[at] - gripper, data.goal[at, 0], data.goal[at, 1])


def places(blocks: torch.Tensor, gripper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In which tokens' cells blocks [n, colours, 2] lie, for both cameras, and where in them: see `Batch`."""
    top = blocks / TABLE_CM
    wrist = (blocks - gripper[:, None]) / WRIST_CM + 0.5
    at = torch.stack([top, wrist], dim=1)  # [n, cameras, colours, 2], 0 to 1, up and right
    at = CELLS * torch.stack([at[..., 0], 1 - at[..., 1]], dim=-1)
    seen = ((at >= 0) & (at < CELLS)).all(-1)  # Not where it is NaN.
    at = torch.where(seen[..., None], at, 0.0)
    cell = at.floor()
    index = (cell[..., 1] * CELLS + cell[..., 0]).long()
    here = F.one_hot(index, CELLS * CELLS) * seen[..., None]
    return here.transpose(-1, -2).float(), (at - cell - 0.5)[:, :, None]


def refuse(message: str):
    raise SystemExit(f"train_mini.py: {message}")
