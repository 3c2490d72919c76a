"""Golden files: written reproducibly, reduced to digests, compared."""

import json
import math
import struct
from pathlib import Path

import numpy as np
from safetensors import safe_open

SAMPLES = 64
_TYPES = {"float32": "F32", "int64": "I64", "uint8": "U8"}


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]):
    """Writes a safetensors file whose bytes depend on nothing but its content.

    The library's own writer keeps metadata in a hash map and so orders it differently each time.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    for name, tensor in ordered:
        end = offset + tensor.nbytes
        header[name] = {"dtype": _TYPES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in ordered:
            file.write(np.ascontiguousarray(tensor).tobytes())


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a golden file."""
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def digest(name: str, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """A few numbers that any error in a large activation would change.

    `NAME.shape`, `NAME.moments` (mean, standard deviation, largest magnitude) and `NAME.samples`, the values at
    the flat `NAME.indices`, evenly spread but drifting over the columns.
    """
    flat = tensor.reshape(-1)
    count = min(SAMPLES, flat.size)
    indices = np.arange(count) * flat.size // count + np.arange(count) * 7 % (flat.size // count)
    wide = flat.astype(np.float64)
    moments = np.array([wide.mean(), wide.std(), np.abs(wide).max()], np.float32)
    return {
        f"{name}.shape": np.array(tensor.shape, np.int64),
        f"{name}.moments": moments,
        f"{name}.indices": indices.astype(np.int64),
        f"{name}.samples": flat[indices],
    }


def difference(tensors: dict[str, np.ndarray], committed: dict[str, np.ndarray], nmse: float) -> list[str]:
    """What differs: other names, shapes or integers, or floats further apart than `nmse`."""
    problems = [f"{name}: only in one of the files" for name in sorted(tensors.keys() ^ committed.keys())]
    for name in sorted(tensors.keys() & committed.keys()):
        new, old = tensors[name], committed[name]
        if new.shape != old.shape or new.dtype != old.dtype:
            problems.append(f"{name}: {new.dtype}{new.shape}, committed {old.dtype}{old.shape}")
        elif new.dtype != np.float32:
            if not np.array_equal(new, old):
                problems.append(f"{name}: integers differ")
        elif not (error := normalized_error(new, old)) <= nmse:
            problems.append(f"{name}: NMSE {error:.3g}, allowed {nmse:g}")
    return problems


def normalized_error(new: np.ndarray, old: np.ndarray) -> float:
    """Mean squared error over the mean square of `old`; NaN where either is not finite."""
    new, old = new.astype(np.float64), old.astype(np.float64)
    if not (np.isfinite(new).all() and np.isfinite(old).all()):
        return math.nan
    error, scale = np.square(new - old).sum(), np.square(old).sum()
    return float(error / scale) if scale > 0 else float(error)
