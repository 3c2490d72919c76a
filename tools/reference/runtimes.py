"""OpenVINO and ONNX Runtime on the stages of exported.py: `run(stage, *arrays)` gives a stage's outputs."""

from pathlib import Path

import numpy as np

from exported import STAGES


class OpenVino:
    """Compiled for latency: one stream, the threads given."""

    def __init__(self, folder: Path, precision: str, threads: int):
        import openvino

        self.version = {"openvino": openvino.__version__.split("-")[0]}
        core = openvino.Core()
        suffix = "openvino-int8" if precision == "int8" else "openvino"
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
        # What int8 leaves in floating point runs in the type OpenVINO chooses for this processor.
        if precision != "int8":
            settings["INFERENCE_PRECISION_HINT"] = precision
        self.requests = {}
        hints = set()
        for stage in STAGES:
            compiled = core.compile_model(folder / f"{stage}.{suffix}.xml", "CPU", settings)
            hints.add(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
            self.requests[stage] = compiled.create_infer_request()
        self.note = f"inference precision {', '.join(sorted(hints))}"

    def run(self, stage: str, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs share the runtime's memory and are good until the stage's next run."""
        return list(self.requests[stage].infer(list(inputs), share_inputs=True, share_outputs=True).values())


class OnnxRuntime:
    """The CPU execution provider with all graph optimisations."""

    def __init__(self, folder: Path, precision: str, threads: int):
        import onnxruntime

        self.version = {"onnxruntime": onnxruntime.__version__}
        self.note = "CPU execution provider"
        suffix = "onnx-int8" if precision == "int8" else "onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.sessions = {
            stage: onnxruntime.InferenceSession(
                folder / f"{stage}.{suffix}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for stage in STAGES
        }
        self.names = {
            stage: [x.name for x in session.get_inputs()] for stage, session in self.sessions.items()
        }

    def run(self, stage: str, *inputs: np.ndarray) -> list[np.ndarray]:
        return self.sessions[stage].run(None, dict(zip(self.names[stage], inputs, strict=True)))
