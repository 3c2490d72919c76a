#!/usr/bin/env python
"""LeRobot's policy behind a pipe: batches of observations on standard input, chunks of actions on standard output.

  serve_policy.py --checkpoint DIR [--reference fp32] [--threads 2]

All numbers are little-endian; floats are f32. When the policy is loaded, one line of JSON, ended by a newline:

  {"lerobot": "0.6.1", "torch": "…", "chunk": 16, "action_dim": 3, "max_action_dim": 4, "n_action_steps": 8,
   "cameras": ["top", "wrist"], "state_dim": 5, "parameters": N}

`cameras` are the policy's, without `observation.images.`, in the order in which requests hold them. A request is

  u32     length of the header in bytes
  header  JSON: {"count": n, "tasks": [n texts], "side": pixels}
  n times, one observation after the other:
    u8  [cameras][side][side][3]      pictures, RGB, row by row
    f32 [state_dim]                   state, in physical units
    f32 [chunk][max_action_dim]       noise that the flow starts from

and is predicted as one batch. The answer is

  u32     0
  f32 [n][chunk][action_dim]          actions, in physical units

or, where the request cannot be answered,

  u32     length of the message in bytes, more than 0
  message UTF-8

After a message about what a request holds the next request is awaited; after one that cannot be read to its end, a
request whose size is unknown for example, the process ends with 2. The end of input ends it with 0. Whatever
libraries print goes to standard error.
"""

import argparse
import json
import os
import struct
import sys
from importlib.metadata import version
from pathlib import Path

LARGEST_HEADER = 1 << 20
MOST_OBSERVATIONS = 4096
LARGEST_SIDE = 4096


def main() -> int:
    arguments = parse_arguments()
    answers = take_standard_output()
    import torch

    from lerobot_policy import Reference

    torch.set_num_threads(arguments.threads)
    server = Server(Reference(arguments.checkpoint, arguments.reference))
    answers.write(json.dumps(server.about()).encode() + b"\n")
    answers.flush()
    return serve(server, sys.stdin.buffer, answers)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint folder of LeRobot's layout")
    parser.add_argument("--reference", choices=("fp32", "mixed"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    arguments.checkpoint = arguments.checkpoint.resolve()
    if not (arguments.checkpoint / "config.json").is_file():
        parser.error(f"{arguments.checkpoint} holds no config.json; name a checkpoint folder with --checkpoint")
    return arguments


def take_standard_output():
    """Standard output for answers alone; whatever libraries print goes to standard error."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


class Unreadable(Exception):
    """A request after which the next one cannot be found."""


class Server:
    def __init__(self, policy):
        self.policy, self.config = policy, policy.config
        self.cameras = list(self.config.image_features)
        self.state_dim = self.config.robot_state_feature.shape[0]
        self.action_dim = self.config.action_feature.shape[0]

    def about(self) -> dict:
        config = self.config
        return {
            **{name: version(name) for name in ("lerobot", "torch")},
            "chunk": config.chunk_size,
            "action_dim": self.action_dim,
            "max_action_dim": config.max_action_dim,
            "n_action_steps": config.n_action_steps,
            "cameras": [camera.removeprefix("observation.images.") for camera in self.cameras],
            "state_dim": self.state_dim,
            "parameters": sum(parameter.numel() for parameter in self.policy.policy.parameters()),
        }

    def layout(self, side: int):
        """NumPy's type of one observation of a request."""
        import numpy as np

        chunk = (self.config.chunk_size, self.config.max_action_dim)
        return np.dtype([
            ("pictures", np.uint8, (len(self.cameras), side, side, 3)),
            ("state", "<f4", (self.state_dim,)),
            ("noise", "<f4", chunk),
        ])  # fmt: skip

    def answer(self, tasks: list[str], side: int, body: bytes) -> bytes:
        """Actions of a request's observations. `ValueError` says what is wrong with them."""
        import numpy as np
        import torch

        requests = np.frombuffer(body, self.layout(side))
        for name in ("state", "noise"):
            bad = np.flatnonzero(~np.isfinite(requests[name]).reshape(len(requests), -1).all(1))
            if len(bad):
                raise ValueError(f"{name} of observation {bad[0]} is not finite")
        observations = [
            {"observation.state": request["state"]} | dict(zip(self.cameras, request["pictures"], strict=True))
            for request in requests
        ]
        batch = self.policy.preprocess(observations, tasks)
        noise = torch.from_numpy(np.ascontiguousarray(requests["noise"], np.float32))
        actions = self.policy.postprocessor(self.policy.predict(batch, noise).float()).numpy()
        expected = (len(tasks), self.config.chunk_size, self.action_dim)
        if actions.shape != expected:
            raise ValueError(f"LeRobot's actions have the shape {actions.shape}; expected {expected}")
        if not np.isfinite(actions).all():
            raise ValueError("LeRobot's actions are not finite")
        return np.ascontiguousarray(actions, "<f4").tobytes()


def serve(server: Server, requests, answers) -> int:
    """Answers requests until there are no more."""
    while True:
        try:
            length = requests.read(4)
            if not length:
                return 0
            tasks, side, body = read_request(server, length, requests)
        except Unreadable as error:
            reply(answers, str(error))
            return 2
        try:
            actions = server.answer(tasks, side, body)
        except Exception as error:
            # One request's; the caller decides whether another makes sense.
            reply(answers, f"{type(error).__name__}: {error}")
            continue
        answers.write(struct.pack("<I", 0) + actions)
        answers.flush()


def read_request(server: Server, length: bytes, requests) -> tuple[list[str], int, bytes]:
    if len(length) < 4:
        raise Unreadable("the input ended within the length of a header")
    (size,) = struct.unpack("<I", length)
    if size > LARGEST_HEADER:
        raise Unreadable(f"a header of {size} bytes; expected at most {LARGEST_HEADER}")
    try:
        header = json.loads(exactly(requests, size, "a header"))
        count, tasks, side = header["count"], header["tasks"], header["side"]
    except (ValueError, TypeError, KeyError) as error:
        raise Unreadable(f"a header is not as expected: {type(error).__name__}: {error}") from None
    for name, value, most in (("count", count, MOST_OBSERVATIONS), ("side", side, LARGEST_SIDE)):
        if type(value) is not int or not 1 <= value <= most:
            raise Unreadable(f"{name} is {value!r}; expected a number from 1 to {most}")
    if not isinstance(tasks, list) or len(tasks) != count or not all(isinstance(task, str) for task in tasks):
        raise Unreadable(f"tasks are not {count} texts, as count says")
    return tasks, side, exactly(requests, count * server.layout(side).itemsize, "a request")


def exactly(stream, size: int, what: str) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise Unreadable(f"the input ended within {what}, {size - len(content)} bytes too early")
    return content


def reply(answers, message: str):
    content = message.encode() or b"?"
    answers.write(struct.pack("<I", len(content)) + content)
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
