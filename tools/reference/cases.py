"""The golden cases: what tests/fixtures/cases.json says, and the inputs and checkpoints it asks for."""

import hashlib
import itertools
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
CASES_FILE = ROOT / "tests" / "fixtures" / "cases.json"


@dataclass(frozen=True)
class Case:
    """One entry of cases.json. See README.md for the fields."""

    name: str
    size: str
    seed: int
    noise_seed: int
    reference: list[str]
    config: dict = field(default_factory=dict)
    rename_map: dict = field(default_factory=dict)
    stages: str = "all"
    # Euler steps, where not the configuration's: cases of one checkpoint may differ in this alone.
    steps: int | None = None
    # One of the two is given; a sweep becomes observations here.
    observations: list[dict] = field(default_factory=list)
    sweep: dict | None = None

    def __post_init__(self):
        if bool(self.observations) == bool(self.sweep):
            raise SystemExit(f"{self.name}: give either observations or a sweep")
        if self.sweep and self.stages != "actions":
            raise SystemExit(f"{self.name}: a sweep has the stages `actions`")
        if self.sweep:
            object.__setattr__(self, "observations", _sweep(self.sweep, self.config["input_features"]))

    @property
    def tasks(self) -> list[str]:
        return [observation["task"] for observation in self.observations]

    @property
    def noises(self) -> int:
        """How many noises each observation is run with."""
        return self.sweep["noises"] if self.sweep else 1

    @property
    def checkpoint_name(self) -> str:
        """A folder name that changes with everything the checkpoint depends on."""
        key = json.dumps([self.config, self.rename_map], sort_keys=True).encode()
        return f"{self.size}-{self.seed}-{hashlib.sha256(key).hexdigest()[:12]}"


def load_cases(path: Path = CASES_FILE) -> dict[str, Case]:
    """All cases by name, in file order."""
    cases = [Case(**entry) for entry in json.loads(path.read_text())]
    by_name = {case.name: case for case in cases}
    if len(by_name) != len(cases):
        raise SystemExit(f"{path}: case names are not unique")
    return by_name


def _sweep(sweep: dict, features: dict) -> list[dict]:
    """A sweep's observations: each its own images and state, the tasks in turn; consecutive seeds."""
    seeds = itertools.count(sweep["seed"])
    cameras = [key for key, feature in features.items() if feature["type"] == "VISUAL"]
    size = {"height": sweep["height"], "width": sweep["width"]}
    width = features["observation.state"]["shape"][0]
    return [
        {
            "images": {camera: {**size, "seed": next(seeds)} for camera in cameras},
            "state": {"width": width, "seed": next(seeds), "distribution": "range"},
            "task": sweep["tasks"][index % len(sweep["tasks"])],
        }
        for index in range(sweep["observations"])
    ]


def synthesize(case: Case, checkpoints: Path, smolvla: Path) -> Path:
    """The case's checkpoint folder, written by `smolvla synth` unless it is already there."""
    folder = (checkpoints / case.checkpoint_name).absolute()
    if folder.exists():
        return folder
    if not smolvla.exists():
        raise SystemExit(f"{smolvla} does not exist; build it with `cargo build --release` or pass --smolvla")
    unfinished = folder.with_name(folder.name + ".unfinished")
    settings = [f"--set={key}={json.dumps(value)}" for key, value in case.config.items()]
    subprocess.run(
        [smolvla, "synth", "--size", case.size, "--seed", str(case.seed), *settings, "--out", unfinished],
        check=True,
    )
    _set_rename_map(unfinished / "policy_preprocessor.json", case.rename_map)
    unfinished.rename(folder)
    return folder


def _set_rename_map(preprocessor: Path, rename_map: dict):
    """Puts the case's camera names where LeRobot keeps them: in the first preprocessor step."""
    if not rename_map:
        return
    document = json.loads(preprocessor.read_text())
    (step,) = (s for s in document["steps"] if s["registry_name"] == "rename_observations_processor")
    step["config"]["rename_map"] = rename_map
    preprocessor.write_text(json.dumps(document, indent=2))


def raw_observation(description: dict, checkpoint: Path) -> dict[str, np.ndarray]:
    """What a robot would hand over: images u8 [H, W, 3] by camera key, and the state f32 in physical units."""
    observation = {key: _image(image) for key, image in description["images"].items()}
    observation["observation.state"] = _state(description["state"], checkpoint)
    return observation


def _image(description: dict) -> np.ndarray:
    if "file" in description:
        return np.asarray(Image.open(ROOT / description["file"]).convert("RGB"))
    # A smooth pattern, so that resizing matters, with noise, so that no two patches are alike.
    height, width, seed = description["height"], description["width"], description["seed"]
    rng = np.random.default_rng(seed)
    period_x, period_y = rng.uniform(5, 14, (2, 3))
    phase = rng.uniform(0, 2 * np.pi, 3)
    y, x = np.mgrid[0:height, 0:width][..., None]
    pattern = 127 + 95 * np.sin(x / period_x + phase) * np.cos(y / period_y)
    return np.clip(pattern + rng.normal(0, 14, pattern.shape), 0, 255).astype(np.uint8)


def _state(description: dict, checkpoint: Path) -> np.ndarray:
    """A plausible joint state: `mean + std · z` with the checkpoint's own statistics."""
    rng = np.random.default_rng(description["seed"])
    width = description["width"]
    draw = {
        "normal": lambda: rng.normal(0, 1, width),
        "uniform": lambda: rng.uniform(0.05, 0.95, width),
        "range": lambda: rng.uniform(-2, 2, width),
    }
    z = draw[description.get("distribution", "normal")]()
    statistics = load_file(_statistics_file(checkpoint))
    mean, std = (statistics[f"observation.state.{name}"] for name in ("mean", "std"))
    return (mean + std * z).astype(np.float32)


def _statistics_file(checkpoint: Path) -> Path:
    steps = json.loads((checkpoint / "policy_preprocessor.json").read_text())["steps"]
    (step,) = (s for s in steps if s["registry_name"] == "normalizer_processor")
    return checkpoint / step["state_file"]
