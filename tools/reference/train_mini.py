#!/usr/bin/env python
"""Trains LeRobot's own SmolVLA, small and from scratch, on the tabletop's recorded demonstrations, on a CPU.

  cargo xtask mini data                                records the demonstrations
  train_mini.py --data DIR --out DIR                   trains and writes a checkpoint folder

Three stages, since flow matching alone hardly teaches so small a network to see. *places*: the vision tower and
the connector learn where blocks are. *words*: with the language model, which block the instruction means and where
that is from the gripper. *flow*: everything learns the actions, by LeRobot's flow-matching loss. What the
first two stages read their answers with is thrown away. The checkpoint is the moving average of the weights.

OUT is complete, and can be loaded, from the first save on; every save is loaded again with LeRobot and compared.
`training.csv` and `loss.png` are the losses. The result is the same for the same data, arguments and machine.
"""

import argparse
import csv
import logging
import math
import os
import shutil
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lerobot_policy import Reference  # Before anything of LeRobot: it keeps LeRobot offline.

import matplotlib
import transformers

from mini_checkpoint import build_policy, write_configuration, write_tensors
from mini_data import CAMERAS, CELLS, TABLE_CM, WRIST_CM, Batch, Batches, Data, refuse
from mini_network import Network

EMA = 0.999
# Share of the flow stage over which the earlier stages' losses fade out, and their weights at its start.
FADE, FADE_PLACES, FADE_WORDS = 0.5, 0.05, 0.2
PLACES_IN_WORDS = 0.2
# How far a saved checkpoint's normalised actions may be from those of the network in memory.
RELOAD_ALLOWED = 1e-5


def main():
    arguments = parse_arguments()
    silence_libraries()
    torch.set_num_threads(1)  # Of each part of a batch: threads share batches, not operations.
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)
    data = Data(arguments.data)
    out = arguments.out.resolve()
    # A training that was stopped before its first save left these, and is started over.
    is_unfinished = (out / "training.csv").is_file() and not (out / "model.safetensors").exists()
    if out.exists() and not is_unfinished and (not out.is_dir() or any(out.iterdir())):
        refuse(f"{out} exists and is not an empty folder; name another one with --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # LeRobot leaves a copy of each configuration behind.
        write_configuration(out, data, arguments.learning_rate, arguments.steps)
        Training(arguments, data, out).run()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that `cargo xtask mini data` wrote")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write; must be empty or absent")
    parser.add_argument("--pretrain", type=int, default=700, help="steps of the stage places")
    parser.add_argument("--words", type=int, default=1200, help="steps of the stage words")
    parser.add_argument("--steps", type=int, default=2500, help="steps of the stage flow")
    parser.add_argument("--batch", type=int, default=64, help="samples of a step")
    parser.add_argument("--draws", type=int, default=2, help="noises and times for each sample of a flow step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the highest, in every stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1,
                        help="each takes an equal part of a batch; the result depends on their number")  # fmt: skip
    parser.add_argument("--log-every", type=int, default=25, help="steps between lines of progress")
    parser.add_argument("--check-every", type=int, default=500, help="steps between looks at held-out samples")
    parser.add_argument("--save-every", type=int, default=0, help="flow steps between saves; 0: at the end only")
    arguments = parser.parse_args()
    for name in ("batch", "draws", "threads", "log_every", "check_every"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if arguments.batch % arguments.threads:
        parser.error("--batch must be a multiple of --threads")
    for name in ("pretrain", "words", "steps", "save_every"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must not be negative")
    if not arguments.learning_rate > 0:
        parser.error("--learning-rate must be positive")
    return arguments


def silence_libraries():
    matplotlib.use("Agg")
    logging.disable(logging.INFO)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


class Training:
    def __init__(self, arguments: argparse.Namespace, data: Data, out: Path):
        self.arguments, self.data, self.out = arguments, data, out
        self.batches = Batches(data, out)
        self.network = Network(build_policy(out))
        twins = [Network(build_policy(out), self.network) for _ in range(arguments.threads - 1)]
        self.networks = [self.network, *twins]
        self.pool = ThreadPoolExecutor(arguments.threads)
        self.policy = self.network.policy
        self.parameters = sum(parameter.numel() for parameter in self.policy.parameters())
        self.average: Network | None = None
        self.random = np.random.default_rng(arguments.seed)
        self.order = np.empty(0, np.int64)
        self.rows: list[tuple[str, int, float, float, float]] = []
        self.start = time.perf_counter()
        self.log = (out / "training.csv").open("w", newline="")
        csv.writer(self.log, lineterminator="\n").writerow(["stage", "step", "loss", "learning_rate", "seconds"])
        say(f"{self.parameters:,} parameters; {len(data.training):,} samples to learn from and {len(data.held_out)} "
            f"of other episodes to check with; {len(data.instructions)} instructions of up to "
            f"{self.batches.tokens.shape[1]} tokens; {arguments.threads} threads")  # fmt: skip

    def run(self):
        arguments = self.arguments
        self.stage("places", arguments.pretrain, self.places_step, self.check_places)
        self.stage("words", arguments.words, self.words_step, self.check_words)
        average = build_policy(self.out)
        average.load_state_dict(self.policy.state_dict())
        self.average = Network(average.requires_grad_(False).eval())
        self.compare_with_lerobot()
        self.stage("flow", arguments.steps, self.flow_step, self.check_flow)
        self.save()
        say(f"done in {duration(time.perf_counter() - self.start)}: {self.out}")

    def stage(self, name: str, steps: int, step, check):
        """Trains for `steps`; `step(network, batch, share of the stage done, noise and times)` is the loss."""
        config, arguments = self.policy.config, self.arguments
        parameters = self.network.parameters()
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.optimizer_lr,
            betas=config.optimizer_betas,
            eps=config.optimizer_eps,
            weight_decay=config.optimizer_weight_decay,
            foreach=True,
        )
        self.policy.train()
        begin = previous = time.perf_counter()
        losses: list[float] = []
        for done in range(1, steps + 1):
            rate = learning_rate(config, done, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = self.differentiate(step, parameters, (done - 1) / steps)
            torch.nn.utils.clip_grad_norm_(parameters, config.optimizer_grad_clip_norm, foreach=True)
            optimizer.step()
            if self.average:
                self.update_average(done)
            losses.append(loss)
            if not math.isfinite(losses[-1]):
                refuse(f"{name}: the loss of step {done} is {losses[-1]}; try a lower --learning-rate")
            if done % arguments.log_every == 0 or done == steps:
                now = time.perf_counter()
                each = (now - previous) / len(losses)
                self.note(name, done, float(np.mean(losses)), rate)
                say(f"{name} {done}/{steps}  loss {np.mean(losses):.4f}  learning rate {rate:.1e}  {each:.3f} s/step"
                    f"  {duration(each * (steps - done))} left in this stage")  # fmt: skip
                losses, previous = [], now
            if done % arguments.check_every == 0 or done == steps:
                self.check(name, done, check)
                previous = time.perf_counter()
            if name == "flow" and arguments.save_every and done % arguments.save_every == 0 and done < steps:
                self.save()
                previous = time.perf_counter()
        if steps:
            say(f"{name} took {duration(time.perf_counter() - begin)}")

    def differentiate(self, step, parameters: list[torch.nn.Parameter], share: float) -> float:
        """Sets the parameters' gradients for the next batch, each thread doing a part, and returns the loss."""
        threads = len(self.networks)
        parts = np.split(self.next_indices(), threads)
        noise, moment = self.network.draw(self.arguments.batch, self.arguments.draws)
        draws = list(zip(noise.chunk(threads, 1), moment.chunk(threads, 1), strict=True))

        def part(index: int) -> tuple[float, tuple]:
            batch = self.batches.take(parts[index])
            loss = step(self.networks[index], batch, share, draws[index]) / threads
            return loss.item(), torch.autograd.grad(loss, parameters, allow_unused=True)

        results = list(self.pool.map(part, range(threads)))
        for index, parameter in enumerate(parameters):
            gradients = [gradients[index] for _, gradients in results]
            parameter.grad = None if gradients[0] is None else sum(gradients[1:], gradients[0])
        return sum(loss for loss, _ in results)

    def next_indices(self) -> np.ndarray:
        """Every sample of the training part once, in random order, before any comes again."""
        if len(self.order) < self.arguments.batch:
            repeats = -(-self.arguments.batch // len(self.data.training))
            fresh = [self.random.permutation(self.data.training) for _ in range(repeats)]
            self.order = np.concatenate([self.order, *fresh])
        taken, self.order = np.split(self.order, [self.arguments.batch])
        return taken

    def places_step(self, network: Network, batch: Batch, _share: float, _draw) -> torch.Tensor:
        network.see(batch)
        return network.places_loss(batch)

    def words_step(self, network: Network, batch: Batch, _share: float, _draw) -> torch.Tensor:
        network.read(batch)
        return network.words_loss(batch) + PLACES_IN_WORDS * network.places_loss(batch)

    def flow_step(self, network: Network, batch: Batch, share: float, draw) -> torch.Tensor:
        loss = network.flow_loss(batch, *draw)
        fade = max(0.0, 1 - share / FADE)
        if fade > 0 and self.arguments.words:
            loss = loss + fade * FADE_WORDS * network.words_loss(batch)
        if fade > 0 and self.arguments.pretrain:
            loss = loss + fade * FADE_PLACES * network.places_loss(batch)
        return loss

    @torch.no_grad()
    def update_average(self, done: int):
        # Shorter at first, so that it forgets where the stage began.
        keep = min(EMA, (1 + done) / (10 + done))
        averages, weights = list(self.average.policy.parameters()), list(self.policy.parameters())
        torch._foreach_lerp_(averages, weights, 1 - keep)

    def note(self, stage: str, step: int, loss: float, rate: float):
        row = (stage, step, loss, rate, time.perf_counter() - self.start)
        self.rows.append(row)
        csv.writer(self.log, lineterminator="\n").writerow([stage, step, f"{loss:.6f}", f"{rate:.3e}", f"{row[-1]:.1f}"])
        self.log.flush()

    # Checks on held-out episodes

    @torch.no_grad()
    def check(self, name: str, step: int, check):
        """Says what `check(batch)` finds: numbers with their weights, averaged over the held-out samples."""
        self.policy.eval()
        parts = np.array_split(self.data.held_out, max(1, len(self.data.held_out) // 128))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = [check(self.batches.take(part)) for part in parts]
        texts = []
        for key, (_, _, form) in found[0].items():
            total, weight = (sum(float(part[key][i]) for part in found) for i in (0, 1))
            texts.append(f"{key} {total / max(weight, 1):{form}}")
        say(f"{name} {step}, held-out: {', '.join(texts)}")
        self.policy.train()

    def check_places(self, batch: Batch) -> dict:
        self.network.see(batch)
        logits, offset = self.network.places()
        answers = {}
        for index, (camera, size_cm) in enumerate(zip(CAMERAS, (TABLE_CM, WRIST_CM), strict=True)):
            here = batch.here[:, index].bool()  # [n, tokens, colours]
            best = F.one_hot(logits[:, index].argmax(1), here.shape[1]).transpose(1, 2).bool()
            there = here.any(1)
            distance = (offset[:, index] - batch.offset[:, index]).norm(dim=-1)[here] * size_cm / CELLS
            answers[f"{camera} cell found"] = ((best & here).sum(), there.sum(), ".1%")
            answers[f"{camera} error in it (cm)"] = (distance.sum(), there.sum(), ".2f")
        return answers

    def check_words(self, batch: Batch) -> dict:
        self.network.read(batch)
        target, kind = self.network.words()
        count = len(batch.kind)
        return {
            "target error (cm)": ((target - batch.target).norm(dim=-1).sum(), count, ".2f"),
            "goal's kind right": ((kind.argmax(1) == batch.kind).sum(), count, ".1%"),
        }

    def check_flow(self, batch: Batch) -> dict:
        """Of the averaged weights."""
        count = len(batch.kind)
        noise, moment = self.average.draw(count, 4)
        loss = self.average.flow_loss(batch, noise, moment)
        policy = self.average.policy
        predicted = policy.predict_action_chunk(without_actions(batch.inputs), noise=noise[0])
        executed = slice(policy.config.n_action_steps)
        error = (predicted - batch.inputs["action"])[:, executed] * self.batches.action_std
        press, expected = (self.batches.physical(x)[..., 2] > 0.5 for x in (predicted, batch.inputs["action"]))
        right = press == expected
        return {
            "loss": (loss * count, count, ".4f"),
            "velocity error (cm/s)": (error[..., :2].norm(dim=-1).mean() * count, count, ".2f"),
            "press right": (right[:, executed].float().mean() * count, count, ".1%"),
        }

    @torch.no_grad()
    def compare_with_lerobot(self):
        """`Network.flow_loss` must be the loss that LeRobot's own `forward` computes."""
        batch = self.batches.take(self.data.held_out[:8])
        noise, moment = self.network.draw(len(batch.kind), 2)
        ours = self.network.flow_loss(batch, noise, moment).item()
        theirs = [self.policy.forward(dict(batch.inputs), noise[i], moment[i])[0].item() for i in range(2)]
        if not abs(ours - np.mean(theirs)) <= 1e-5 * (1 + abs(ours)):
            refuse(f"the flow loss is {ours}, LeRobot's is {np.mean(theirs)}; this LeRobot is not the pinned version")

    # Saving

    def save(self):
        """Replaces the checkpoint's weights by the present average, and checks what LeRobot loads."""
        weights = {name: value.detach().contiguous() for name, value in self.average.policy.named_parameters()}
        name = "model.safetensors"
        with tempfile.TemporaryDirectory(dir=self.out.parent) as beside:
            trial = Path(beside) / "checkpoint"
            shutil.copytree(self.out, trial, ignore=shutil.ignore_patterns(name))
            write_tensors(trial / name, weights)
            self.check_saved(trial)
            os.replace(trial / name, self.out / name)
        self.plot()
        say(f"saved {self.out}")

    def check_saved(self, checkpoint: Path):
        indices = self.data.held_out[:4]
        batch = self.batches.take(indices)
        pictures = {camera: self.data.pictures(indices, camera).numpy() for camera in CAMERAS}
        observations = [
            {"observation.state": self.data.state[index].numpy()}
            | {f"observation.images.{camera}": pictures[camera][row] for camera in CAMERAS}
            for row, index in enumerate(indices)
        ]
        tasks = [self.data.instructions[self.data.instruction[index]] for index in indices]
        loaded = Reference(checkpoint, "fp32")
        noise = loaded.noise(len(indices), 0)
        theirs = loaded.predict(loaded.preprocess(observations, tasks), noise)
        ours = self.average.policy.predict_action_chunk(without_actions(batch.inputs), noise=noise)
        error = (theirs - ours).abs().max().item()
        if not error <= RELOAD_ALLOWED:
            refuse(f"{self.out}: what LeRobot loads predicts other actions than were trained, by up to {error:.1e} "
                   f"of a normalised action; at most {RELOAD_ALLOWED:.0e} is rounding")  # fmt: skip
        physical = loaded.postprocessor(theirs.clone())
        error = (physical - self.batches.physical(ours)).abs().max().item()
        if not error <= 1e-3:
            refuse(f"{self.out}: the postprocessor's actions are off by up to {error:.1e}")

    def plot(self):
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        offset = 0
        for stage in ("places", "words", "flow"):
            points = [(offset + step, loss) for name, step, loss, *_ in self.rows if name == stage]
            if not points:
                continue
            axes.plot(*zip(*points, strict=True), label=stage)
            offset = points[-1][0]
            axes.axvline(offset, color="0.8", linewidth=0.8, zorder=0)
        axes.set(yscale="log", xlabel="step", ylabel="training loss")
        axes.set_title(f"Small SmolVLA from scratch: seed {self.arguments.seed}, {self.parameters:,} parameters")
        axes.grid(True, which="both", axis="y", color="0.9")
        axes.legend()
        figure.savefig(self.out / "loss.png", dpi=120)
        pyplot.close(figure)


def learning_rate(config, step: int, steps: int) -> float:
    """A linear warm-up, then half a cosine down to the configuration's lowest rate."""
    warm_up = min(config.scheduler_warmup_steps, max(1, steps // 10))
    if step <= warm_up:
        return config.optimizer_lr * step / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    low = config.scheduler_decay_lr
    return low + (config.optimizer_lr - low) * 0.5 * (1 + math.cos(math.pi * done))


def without_actions(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in inputs.items() if key != "action"}


def duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def say(text: str):
    print(text, flush=True)


if __name__ == "__main__":
    main()
