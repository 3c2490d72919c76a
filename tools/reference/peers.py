#!/usr/bin/env python
"""One engine that others run SmolVLA with, timed on request, for `cargo xtask bench --peers`.

Prints a line of JSON when it is loaded and warm, then answers each line `run` on standard input with the
times of one chunk; `quit`, or the end of input, ends it. README.md has the fields and what they mean.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from latency import TASK, Stages, peak_memory_bytes, reset_peak_memory

WARM_UPS = 2
UNAVAILABLE = 3


def main() -> int:
    arguments = parse_arguments()
    with _standard_output() as answers:
        try:
            engine = ENGINES[arguments.engine](arguments)
            for _ in range(WARM_UPS):
                engine.predict()
        except ModuleNotFoundError as error:
            reason = f"{error}; install it with `tools/reference/setup.sh --peers`"
            return _refuse(answers, arguments.engine, reason)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return _refuse(answers, arguments.engine, f"{type(error).__name__}: {error}")
        gc.collect()
        note = [*engine.notes, f"peak memory while loading {_megabytes(peak_memory_bytes())} MB"]
        reset_peak_memory()
        versions = _versions() | engine.versions
        _answer(answers, {"ready": True, "engine": arguments.engine, "versions": versions,
                          "load_s": round(engine.load_s, 2), "note": "; ".join(note)})  # fmt: skip
        return serve(engine, answers)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a folder that `smolvla synth` wrote")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cameras", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--batch", type=int, default=1, help="observations in one prediction")
    parser.add_argument("--cache", type=Path, help="where exports are kept; default: CHECKPOINT/peers-cache")
    parser.add_argument(
        "--compile-mode", default="default", help="of torch.compile; LeRobot's own default is max-autotune"
    )
    arguments = parser.parse_args()
    arguments.checkpoint = arguments.checkpoint.resolve()
    arguments.cache = (arguments.cache or arguments.checkpoint / "peers-cache").resolve()
    for name in ("threads", "batch"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


def serve(engine: "Engine", answers) -> int:
    """Answers requests until there are no more."""
    for line in sys.stdin:
        match line.strip():
            case "run":
                times = engine.predict()
                peak = {"peak_memory_mb": _megabytes(peak_memory_bytes())}
                _answer(answers, {key: _milliseconds(seconds) for key, seconds in times.items()} | peak)
            case "quit":
                break
            case other:
                print(f"peers.py: unknown request {other!r}; known are run and quit", file=sys.stderr)
                return 2
    return 0


class Engine:
    """An engine that is loaded. `predict` runs one chunk and returns the seconds of each stage and in all."""

    def __init__(self, arguments: argparse.Namespace):
        from exported import observations

        self.notes: list[str] = []
        self.versions: dict[str, str] = {}
        self.load_s = 0.0
        self.observations = observations(arguments.checkpoint, arguments.cameras, arguments.batch)
        self.tasks = [TASK] * arguments.batch

    def predict(self) -> dict[str, float | None]:
        raise NotImplementedError


class LeRobot(Engine):
    """LeRobot itself, in eager mode."""

    sees_stages = True

    def __init__(self, arguments: argparse.Namespace, reference: str):
        super().__init__(arguments)
        import torch

        from lerobot_policy import Reference

        torch.set_num_threads(arguments.threads)
        start = time.perf_counter()
        self.policy = Reference(arguments.checkpoint, reference)
        self.noise = self.policy.noise(arguments.batch, 0)
        self.load_s = time.perf_counter() - start
        self.stages = Stages(self.policy) if self.sees_stages else None

    def predict(self) -> dict[str, float | None]:
        if self.stages:
            self.stages.reset()
        start = time.perf_counter()
        batch = self.policy.preprocess(self.observations, self.tasks)
        preprocess = time.perf_counter() - start
        self.policy.postprocessor(self.policy.predict(batch, self.noise))
        total = time.perf_counter() - start
        if not self.stages:
            return _times(preprocess, None, None, None, total)
        seconds = self.stages.seconds
        preprocess += seconds["preprocess"]
        return _times(preprocess, seconds["vision_and_connector"], seconds["prefill"], seconds["flow"], total)

    def actions(self):
        """Normalised actions of the engine's observations."""
        return self.policy.predict(self.policy.preprocess(self.observations, self.tasks), self.noise)


class LeRobotCompiled(LeRobot):
    """LeRobot with `compile_model`: one compiled function from images to actions, so no stages are seen."""

    sees_stages = False

    def __init__(self, arguments: argparse.Namespace):
        super().__init__(arguments, "mixed")
        import torch

        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(arguments.cache / "inductor"))
        eager = self.actions()
        torch.set_float32_matmul_precision("high")
        model = self.policy.policy.model
        model.sample_actions = torch.compile(model.sample_actions, mode=arguments.compile_mode)
        start = time.perf_counter()
        compiled = self.actions()
        self.load_s += time.perf_counter() - start
        error = (compiled - eager).abs().max().item()
        self.notes.append(f"mode {arguments.compile_mode}, no stages")
        self.notes.append(f"normalised actions within {error:.1e} of eager")


class LeRobotInt8(LeRobot):
    """LeRobot with PyTorch's dynamic quantisation of every linear layer."""

    def __init__(self, arguments: argparse.Namespace):
        super().__init__(arguments, "fp32")
        import torch

        exact = self.actions()
        start = time.perf_counter()
        torch.backends.quantized.engine = "x86"
        model = self.policy.policy.model
        torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, inplace=True)
        layers = _show_weight_type(model)
        self.load_s += time.perf_counter() - start
        error = (self.actions() - exact).abs().max().item()
        self.notes.append(f"{layers} linear layers in int8, the rest in fp32, quantised with the engine x86")
        self.notes.append(f"normalised actions within {error:.1e} of fp32")


def _show_weight_type(model) -> int:
    """Lets LeRobot ask quantised layers for `weight.dtype`, to which it casts their inputs; counts them."""
    import torch

    class Int8Linear(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module):
            super().__init__()
            self.inner = inner
            self.weight = torch.empty(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    kind = torch.ao.nn.quantized.dynamic.Linear
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is kind
    ]
    for parent, name in found:
        setattr(parent, name, Int8Linear(getattr(parent, name)))
    return len(found)


class Exported(Engine):
    """A runtime on the exported stages, between LeRobot's own processors."""

    def __init__(self, arguments: argparse.Namespace, form: str, runtime: str, precision: str):
        super().__init__(arguments)
        if _export_if_missing(arguments, form):
            self.notes.append("exported now")
        import torch

        import runtimes
        from exported import Expected, folder_of
        from lerobot_policy import Processors

        torch.set_num_threads(arguments.threads)
        folder = folder_of(arguments.cache, arguments.cameras, arguments.batch)
        start = time.perf_counter()
        self.processors = Processors(arguments.checkpoint)
        self.runtime = getattr(runtimes, runtime)(folder, precision, arguments.threads)
        self.load_s = time.perf_counter() - start
        self.versions = self.runtime.version
        expected = Expected(folder)
        self.noise, self.times, self.every = expected.noise, expected.times, expected.every
        self.action_width = self.processors.config.action_feature.shape[0]
        self.notes.append(self.runtime.note)
        self.notes.append(self._errors(expected))

    def predict(self) -> dict[str, float | None]:
        import torch

        from exported import STAGES, chunk, stage_inputs

        seconds = dict.fromkeys(STAGES, 0.0)

        def call(stage: str, *inputs):
            begin = time.perf_counter()
            outputs = self.runtime.run(stage, *inputs)
            seconds[stage] += time.perf_counter() - begin
            return outputs

        start = time.perf_counter()
        batch = self.processors.preprocess(self.observations, self.tasks)
        inputs = [x.numpy() for x in stage_inputs(self.processors, batch)]
        preprocess = time.perf_counter() - start
        actions = chunk(call, *inputs, self.noise, self.times, self.every)
        self.processors.postprocessor(torch.from_numpy(actions[..., : self.action_width]))
        total = time.perf_counter() - start
        denoise = seconds["context"] + seconds["denoise"]
        return _times(preprocess, seconds["vision"], seconds["prefill"], denoise, total)

    def _errors(self, expected) -> str:
        """How far each stage, given PyTorch's fp32 input, and the actions lie from PyTorch's fp32."""
        import numpy as np

        parts = []
        for stage, inputs in expected.inputs.items():
            outputs = self.runtime.run(stage, *inputs)
            pairs = list(zip(outputs, expected.outputs[stage], strict=True))
            error = max(np.abs(ours - theirs).max() for ours, theirs in pairs)
            largest = max(np.abs(theirs).max() for _, theirs in pairs)
            parts.append(f"{stage} {error:.1e} of {largest:.1f}")
        actions = expected.chunk(self.runtime.run) - expected.actions
        error = np.abs(actions[..., : self.action_width]).max()
        return f"largest difference from fp32: {', '.join(parts)}, normalised actions {error:.1e}"


def _export_if_missing(arguments: argparse.Namespace, form: str) -> bool:
    """Exports in a process of its own, whose memory does not count."""
    from exported import is_exported

    shape = (arguments.cameras, arguments.batch, arguments.cache)
    if is_exported(arguments.checkpoint, form, *shape):
        return False
    script = Path(__file__).with_name("exported.py")
    command = [sys.executable, script, "--format", form, "--cameras", arguments.cameras, "--batch",
               arguments.batch, "--checkpoint", arguments.checkpoint, "--out", arguments.cache]  # fmt: skip
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        raise RuntimeError(f"the export failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return True


ENGINES: dict[str, Callable[[argparse.Namespace], Engine]] = {
    "lerobot-fp32": lambda arguments: LeRobot(arguments, "fp32"),
    "lerobot-mixed": lambda arguments: LeRobot(arguments, "mixed"),
    "lerobot-compile": LeRobotCompiled,
    "lerobot-int8": LeRobotInt8,
    "openvino-f32": lambda arguments: Exported(arguments, "openvino", "OpenVino", "f32"),
    "openvino-bf16": lambda arguments: Exported(arguments, "openvino", "OpenVino", "bf16"),
    "openvino-int8": lambda arguments: Exported(arguments, "openvino-int8", "OpenVino", "int8"),
    "onnxruntime-f32": lambda arguments: Exported(arguments, "onnx", "OnnxRuntime", "f32"),
    "onnxruntime-int8": lambda arguments: Exported(arguments, "onnx-int8", "OnnxRuntime", "int8"),
}


@contextlib.contextmanager
def _standard_output():
    """Standard output for answers alone; whatever libraries print goes to standard error."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with answers:
        yield answers


def _answer(answers, fields: dict):
    print(json.dumps(fields), file=answers, flush=True)


def _refuse(answers, engine: str, reason: str) -> int:
    _answer(answers, {"ready": False, "engine": engine, "reason": " ".join(reason.split())[:400]})
    return UNAVAILABLE


def _times(preprocess, vision, prefill, denoise, total) -> dict[str, float | None]:
    return {"preprocess_ms": preprocess, "vision_ms": vision, "prefill_ms": prefill, "denoise_ms": denoise,
            "total_ms": total}  # fmt: skip


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)


def _megabytes(size_bytes: int) -> float:
    return round(size_bytes / 1e6, 1)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("lerobot", "torch", "transformers")}


if __name__ == "__main__":
    sys.exit(main())
