#!/usr/bin/env python
"""Times LeRobot's SmolVLA stage by stage on this machine's CPU and notes its peak memory, as JSON.

Each measurement runs in a process of its own, so that peak memory is that of one policy.
"""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cases import ROOT, raw_observation

CAMERAS = [("observation.images.camera1", "assets/top.png"),
           ("observation.images.camera2", "assets/wrist.png"),
           ("observation.images.camera3", "assets/side.png")]  # fmt: skip
TASK = "pick up the red block and put it in the bin"


def main():
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(measure(arguments, arguments.reference[0], arguments.cameras[0])))
        return
    results = [
        spawn(arguments, reference, cameras)
        for reference in arguments.reference
        for cameras in arguments.cameras
    ]
    report = {"processor": processor(), "threads": arguments.threads, "runs": arguments.runs, "results": results}
    text = json.dumps(report, indent=2) + "\n"
    arguments.out.write_text(text) if arguments.out else print(text, end="")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a folder that `smolvla synth` wrote")
    parser.add_argument("--reference", nargs="+", choices=("fp32", "mixed"), default=["fp32", "mixed"])
    parser.add_argument("--cameras", nargs="+", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="timed predictions, after one that is not")
    parser.add_argument("--out", type=Path, help="write the JSON here instead of printing it")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def spawn(arguments: argparse.Namespace, reference: str, cameras: int) -> dict:
    command = [sys.executable, __file__, "--one", "--checkpoint", arguments.checkpoint, "--reference", reference,
               "--cameras", cameras, "--threads", arguments.threads, "--runs", arguments.runs]  # fmt: skip
    output = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(arguments: argparse.Namespace, reference: str, cameras: int) -> dict:
    """Median milliseconds of each stage, and peak memory while loading and while predicting."""
    import torch

    from lerobot_policy import Reference

    torch.set_num_threads(arguments.threads)
    description = {
        "images": {key: {"file": file} for key, file in CAMERAS[:cameras]},
        "state": {"width": 6, "seed": 1},
    }
    observation = raw_observation(description, arguments.checkpoint)
    policy = Reference(arguments.checkpoint, reference)
    noise = policy.noise(1, 0)
    gc.collect()
    peak_load = peak_memory_bytes()
    reset_peak_memory()

    stages = Stages(policy)
    samples = []
    for _ in range(arguments.runs + 1):
        stages.reset()
        start = time.perf_counter()
        batch = policy.preprocess([observation], [TASK])
        stages.seconds["preprocess"] += time.perf_counter() - start
        policy.postprocessor(policy.predict(batch, noise))
        samples.append({**stages.seconds, "total": time.perf_counter() - start})
    timed = samples[1:]
    return {
        "reference": reference,
        "cameras": cameras,
        "latency_ms_median": {
            stage: round(1e3 * statistics.median(sample[stage] for sample in timed), 2) for stage in timed[0]
        },
        "total_ms_runs": [round(1e3 * sample["total"], 2) for sample in timed],
        "peak_memory_load_bytes": peak_load,
        "peak_memory_predict_bytes": peak_memory_bytes(),
    }


class Stages:
    """Adds up the time spent in each stage; a stage within another is taken out of it."""

    def __init__(self, policy):
        self.seconds = {"preprocess": 0.0, "vision_and_connector": 0.0, "prefill": 0.0, "flow": 0.0}
        self._inside = [0.0]
        model = policy.policy.model
        self._time(policy.policy, "prepare_images", lambda _kwargs: "preprocess")
        self._time(model, "embed_prefix", lambda _kwargs: "prefill")
        self._time(model.vlm_with_expert, "embed_image", lambda _kwargs: "vision_and_connector")
        self._time(model, "denoise_step", lambda _kwargs: "flow")
        # The expert's passes belong to `denoise_step`, which times them already.
        prefill = lambda kwargs: "prefill" if kwargs["inputs_embeds"][0] is not None else None  # noqa: E731
        self._time(model.vlm_with_expert, "forward", prefill)

    def reset(self):
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def _time(self, owner: object, name: str, stage_of):
        original = getattr(owner, name)

        def timed(*args, **kwargs):
            stage = stage_of(kwargs)
            if stage is None:
                return original(*args, **kwargs)
            self._inside.append(0.0)
            start = time.perf_counter()
            result = original(*args, **kwargs)
            elapsed = time.perf_counter() - start
            self.seconds[stage] += elapsed - self._inside.pop()
            self._inside[-1] += elapsed
            return result

        object.__setattr__(owner, name, timed)


def peak_memory_bytes() -> int:
    """The process's largest resident set since it started, or since the last reset."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def reset_peak_memory():
    """Gives freed memory back and starts counting the peak anew (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
