#!/usr/bin/env python
"""Runs LeRobot's own SmolVLA on the cases of tests/fixtures/cases.json and writes what every stage computed.

  golden.py --all                   regenerate every golden file
  golden.py two_cameras aloha       only these cases
  golden.py --all --check           regenerate elsewhere and compare with the committed files
  golden.py one_camera --stats      print how the network behaves; write nothing
"""

import argparse
import hashlib
import importlib.metadata
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import tensors
from cases import ROOT, Case, load_cases, raw_observation, synthesize
from lerobot_policy import Reference
from stages import record, record_actions
from stats import print_statistics

GOLDEN = ROOT / "tests" / "fixtures" / "golden"

# How far a regenerated file may be from the committed one: other CPUs sum in another order, and bf16 rounds
# at other places then.
NMSE_ALLOWED = {"fp32": 1e-10, "mixed": 1e-3}

# How far a normalised action of a batch may be from that of the observation alone, absolute.
BATCHING_ALLOWED = 1e-5

# What a file keeps of a `mixed` run: enough to hold a bf16 backend to. Its inputs are in the fp32 file.
MIXED_KEPT = re.compile(r"prefix\.embeddings|steps\.\d+\.velocity|actions.*")
# What a `digest` case keeps whole; everything else is reduced to a digest.
DIGEST_KEPT = re.compile(
    r"input\..*\.state|noise|processed\.(state|tokens|token_mask)|prefix\.(pad_mask|position_ids)"
    r"|steps\.\d+\.velocity|actions.*"
)
# What an `actions` case keeps. Pictures of the repository are named in the metadata.
ACTIONS_KEPT = re.compile(r"input\..*|noise|actions|actions\.normalized")
# What a `no_vision` case leaves out because another case with the same images has it.
VISION = re.compile(r"processed\.image\..*|vision\..*")


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cases = load_cases()
    unknown = [name for name in arguments.cases if name not in cases]
    if unknown:
        raise SystemExit(f"no such case: {', '.join(unknown)}; there are: {', '.join(cases)}")
    chosen = list(cases.values()) if arguments.all else [cases[name] for name in arguments.cases]

    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # LeRobot leaves a copy of each configuration behind.
        checkpoints = arguments.checkpoints or Path(scratch)
        for case in chosen:
            checkpoint = synthesize(case, checkpoints, arguments.smolvla.absolute())
            if arguments.stats:
                print_statistics(case, checkpoint)
                continue
            for reference in case.reference:
                path = arguments.out / f"{case.name}.{reference}.safetensors"
                content, metadata = run(case, checkpoint, reference)
                if arguments.check:
                    failures += not check(path, content, metadata, NMSE_ALLOWED[reference])
                else:
                    tensors.write(path, content, metadata)
                    print(f"{path.name}: {len(content)} tensors, {path.stat().st_size / 1e3:.0f} kB")
    sys.exit(1 if failures else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names from tests/fixtures/cases.json")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--check", action="store_true", help="compare with the files in --out; write nothing")
    parser.add_argument("--stats", action="store_true", help="print how the synthetic network behaves")
    parser.add_argument("--checkpoints", type=Path, help="keep synthetic checkpoints here and reuse them")
    parser.add_argument("--out", type=Path, default=GOLDEN, help="folder of the golden files")
    parser.add_argument("--smolvla", type=Path, default=ROOT / "target" / "release" / "smolvla")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if bool(arguments.cases) == arguments.all:
        parser.error("name some cases, or pass --all")
    return arguments


def run(case: Case, checkpoint: Path, reference: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """One case under one reference: the golden file's tensors and metadata."""
    observations = [raw_observation(o, checkpoint) for o in case.observations]
    policy = Reference(checkpoint, reference)
    if case.steps:
        policy.config.num_steps = case.steps
    batch = policy.preprocess(observations, case.tasks)
    noise = policy.noise(case.noises * len(observations), case.noise_seed)
    if case.sweep:
        content = record_actions(policy, batch, noise.unflatten(0, (case.noises, len(observations))))
        if reference == "fp32":
            check_batching(policy, case, observations, content)
    else:
        content = record(policy, batch, noise)
    for b, observation in enumerate(observations):
        for key, value in observation.items():
            name = "state" if key == "observation.state" else key
            content[f"input.{b}.{name}"] = value
    metadata = {
        "case": case.name,
        "reference": reference,
        "tasks": json.dumps(case.tasks),
        "images": json.dumps([o["images"] for o in case.observations]),
        "rename_map": json.dumps(case.rename_map),
        "config": (checkpoint / "config.json").read_text(),
        "model_sha256": sha256(checkpoint / "model.safetensors"),
        **{name: importlib.metadata.version(name) for name in ("lerobot", "torch", "transformers")},
    }
    if case.sweep:
        metadata["noises"] = str(case.noises)
    if case.steps:
        metadata["steps"] = str(case.steps)
    return reduce(content, case, reference), metadata


def check_batching(policy: Reference, case: Case, observations: list[dict], content: dict[str, np.ndarray]):
    """Holds a sweep's batch to what LeRobot computes for an observation alone.

    Prompts of a batch are padded to the longest, which must change nothing but rounding. Looked at are the
    shortest prompt, a middling one and the longest.
    """
    by_length = sorted(range(len(case.tasks)), key=lambda index: len(case.tasks[index]))
    for index in (by_length[0], by_length[len(by_length) // 2], by_length[-1]):
        batch = policy.preprocess([observations[index]], [case.tasks[index]])
        noise = torch.from_numpy(content["noise"][0, index : index + 1])
        alone = policy.predict(batch, noise)[0].numpy()
        error = float(np.abs(alone - content["actions.normalized"][0, index]).max())
        if not error <= BATCHING_ALLOWED:
            raise SystemExit(f"{case.name}: observation {index} alone differs by {error:.1e} from the batch")


def reduce(content: dict[str, np.ndarray], case: Case, reference: str) -> dict[str, np.ndarray]:
    """Leaves out what the case does not ask to keep."""
    if reference == "mixed":
        content = {name: value for name, value in content.items() if MIXED_KEPT.fullmatch(name)}
    if case.stages == "all":
        return content
    if case.stages == "actions":
        files = {f"input.{b}.{key}" for b, o in enumerate(case.observations) for key, i in o["images"].items() if "file" in i}
        return {name: value for name, value in content.items() if ACTIONS_KEPT.fullmatch(name) and name not in files}
    if case.stages == "no_vision":
        return {name: value for name, value in content.items() if not VISION.fullmatch(name)}
    assert case.stages == "digest", f"{case.name}: stages: {case.stages}"
    reduced = {}
    for name, value in content.items():
        if DIGEST_KEPT.fullmatch(name):
            reduced[name] = value
        # Images are named in the metadata, and `x` follows from the noise and the velocities.
        elif not name.startswith("input.") and not name.endswith(".x"):
            reduced |= tensors.digest(name, value)
    return reduced


def check(path: Path, content: dict[str, np.ndarray], metadata: dict[str, str], nmse: float) -> bool:
    """Compares with the committed file, and says what differs."""
    if not path.exists():
        print(f"{path.name}: missing")
        return False
    committed, committed_metadata = tensors.read(path)
    problems = [
        f"metadata {key}: {metadata.get(key)!r:.80}, committed {committed_metadata.get(key)!r:.80}"
        for key in sorted(metadata.keys() | committed_metadata.keys())
        if metadata.get(key) != committed_metadata.get(key)
    ]
    problems += tensors.difference(content, committed, nmse)
    exact = all(np.array_equal(content.get(name), value) for name, value in committed.items())
    verdict = "differs" if problems else "identical" if exact else f"within NMSE {nmse:g}"
    print("\n  ".join([f"{path.name}: {verdict}", *problems]))
    return not problems


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
