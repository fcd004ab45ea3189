"""Training: from a ``Config`` to a ``Result``."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from scratch_layers.regularization import l1_penalty, max_norm_
from scratch_optim.clip_grad import adaptive_clip_grad_, clip_factor
from scratch_optim.explain import explain
from scratch_optim.swa_utils import Lookahead
from training import budget, checkpoint, probe, recipes
from training.allocator import keep_freed_memory
from training.augment import augment, draw_mix
from training.averaging import Average
from training.batch import Batch
from training.checkpoint import Run
from training.data import Data, Split
from training.data import load as load_data
from training.dice import Dice
from training.distributed import ALONE, World, exchange, whole
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.graphs import Graphs, Rates
from training.options import CLIPS, Config
from training.result import Result, environment, versions
from training.statistics import expected_calibration_error

if TYPE_CHECKING:
    from training.tensorboard import Board  # imported when it is needed: it takes a second

Watch = Callable[[dict[str, float]], object]
T = TypeVar("T")
PROBED = 64  # images whose activations are looked at
EMBEDDED = 2000  # images whose features are shown
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    config: Config,
    watch: Watch | None = None,
    testing: bool = True,
    world: World = ALONE,
    points: Watch | None = None,
    optimizer: recipes.MakeOptimizer = recipes.build_optimizer,
) -> Result:
    """Train, validate after every epoch, test the final weights once.

    Args:
        config: what to do.
        watch: is given the row of ``history`` that every epoch adds, once it is saved. What it
            raises ends the run. In every process.
        testing: without, no network sees the test images, and what they would say is None in the
            result: for a search, whose choice must not rest on them.
        world: the processes that train together, each of which calls this.
        points: is given what the curves of TensorBoard are, every ``config.log_every`` steps, with
            the number of the ``step``. In every process.
        optimizer: makes it, for one that no option names.

    Raises:
        UsageError: the data or the checkpoint cannot be used, or a file cannot be written.
        DivergedError: the loss or a weight is not finite; the checkpoints written before it remain.
        InterruptedRunError: Ctrl-C or SIGTERM; ``last.pt`` holds the state after the step it came
            in.
    """
    started = time.perf_counter()
    if world.first:
        for folder in {config.log_dir, config.checkpoint_dir}:
            checkpoint.remove_leftovers(Path(folder))
    torch.manual_seed(config.seed)
    silent = config.quiet or not world.first
    say: Callable[[str], object] = (lambda line: None) if silent else tqdm.write
    data = world.in_turn(
        lambda: load_data(
            config.dataset,
            config.data_dir,
            config.seed,
            say,
            config.holdout,
            config.imbalance,
            config.train_images,
            config.label_noise,
        )
    )
    steps_per_epoch = len(data.train) // config.batch_size
    if steps_per_epoch == 0:
        raise UsageError(
            f"--batch-size {config.batch_size} is larger than the training set of "
            f"{len(data.train)} images ({len(data.validation)} are set aside for validation). Give "
            f"{len(data.train)} or less."
        )
    if config.batch_size < world.size:
        raise UsageError(
            f"--batch-size {config.batch_size} is that of all {world.size} processes together. "
            "Give at least one image each, or start fewer processes."
        )
    device = world.device(config.device)
    data = data.to(device)
    run, network = begin(config, data, world, optimizer)
    if config.budget and not config.resume:
        measuring = Trainer(config, data, run, None, say, world=world, network=network)
        per_step = budget.seconds_per_step(measuring)
        left = config.budget - run.train_seconds
        steps = world.same(lambda: budget.steps_within(left, per_step))
        epochs = steps / steps_per_epoch
        warmup = config.warmup * epochs / config.epochs  # the same share of the run
        config = dataclasses.replace(config, epochs=epochs, warmup=warmup)
        run.scheduler = recipes.build_schedule(config, run.optimizer, steps_per_epoch)
        say(
            f"{' + '.join(f'{1000 * s:.0f}' for s in per_step)} ms a step: {steps} steps, "
            f"{config.epochs:.2f} epochs, in {config.budget:g} s"
        )

    settings = config.as_json()
    software = versions(device)
    parameters = sum(p.numel() for p in run.model.parameters())
    say(_opening(config, data, parameters))
    board = None
    if config.tensorboard and world.first:
        from training.tensorboard import Board

        board = Board(config.log_dir, run.steps + 1 if config.resume else 0)
        board.describe(settings, software, environment(device), run.steps)
        if not config.fsdp:
            board.graph(run.model)
    try:
        trainer = Trainer(config, data, run, board, say, watch, world, network, points)
        trainer.fit()
        if config.patience:
            trainer.go_back_to_the_best()
        validated = trainer.evaluate(data.validation) if len(data.validation) else None
        test = data.test
        tested = trainer.evaluate(test) if testing else None
        trained = trainer.evaluate(data.train) if config.gap else None
        begun = time.perf_counter()
        viewed = trainer.evaluate(test, views=True) if config.tta and testing else None
        tta_seconds = time.perf_counter() - begun
        figures = trainer.figures(tested, viewed) if tested else {}
        if board and tested:
            trainer.show_test(board, tested, figures)
    finally:
        if board:
            board.close()

    def by_class(found: Evaluation) -> dict[str, float]:
        return dict(zip(data.classes, found.class_accuracy(test.labels), strict=True))

    result = Result(
        test_accuracy=figures.get("accuracy"),
        test_loss=figures.get("loss"),
        test_class_accuracy=by_class(tested) if tested else None,
        test_calibration_error=figures.get("calibration_error"),
        test_accuracy_tta=figures.get("accuracy_tta"),
        test_class_accuracy_tta=by_class(viewed) if viewed else None,
        test_calibration_error_tta=figures.get("calibration_error_tta"),
        tta_seconds=tta_seconds if viewed else None,
        train_accuracy=trained.accuracy if trained else None,
        train_loss=trained.loss if trained else None,
        gap=trained.accuracy - tested.accuracy if trained and tested else None,
        validation_accuracy=validated.accuracy if validated else None,
        best_validation_accuracy=run.best_accuracy if validated else None,
        best_epoch=run.best_epoch,
        epochs=run.epoch,
        steps=run.steps,
        parameters=parameters,
        train_seconds=run.train_seconds,
        total_seconds=time.perf_counter() - started,
        images_per_second=run.steps * config.batch_size / run.train_seconds,
        history=run.history,
        config=settings,
        versions=software,
        data={
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "checksum": data.checksum,
        },
    )
    if world.first:
        if config.results:  # first: who has a result.json has ended, and is not run again
            result.append(Path(config.results))
        result.write(Path(config.log_dir))
    return result


def begin(
    config: Config,
    data: Data,
    world: World = ALONE,
    make_optimizer: recipes.MakeOptimizer = recipes.build_optimizer,
) -> tuple[Run, nn.Module]:
    """A run before its first step, or where it is resumed, and what to call for its network.

    The initial weights come from torch's global generator.

    Args:
        config: what to do.
        data: on the device.
        world: the processes that train together.
        make_optimizer: of the options and the network.
    """
    device = data.mean.device
    if device.type == "cpu":
        keep_freed_memory()
    model = recipes.build_model(config, len(data.classes), data.train.images.shape[1:])
    model.to(device).to(memory_format=_layout(config))
    begun = time.perf_counter()
    if not config.resume:
        recipes.fit_to_images(model, data)
    fitting_seconds = time.perf_counter() - begun
    network = recipes.distribute(config, model, world)
    if world.rank:  # other dropout masks than in the first process
        torch.manual_seed((config.seed << 20) + world.rank)
    optimizer = make_optimizer(config, model)
    run = first_step(config, data, model, optimizer)
    run.train_seconds = fitting_seconds
    if config.resume:
        _resume(run, Path(config.resume), data, world)
    if config.compile:  # in place, so that the names in the state stay as they are
        model.compile(dynamic=False)
    return run, network


def first_step(config: Config, data: Data, model: nn.Module, optimizer: Optimizer) -> Run:
    """A run before its first step, of a network and an optimizer that are before theirs."""
    device = data.mean.device
    return Run(
        model,
        optimizer,
        recipes.build_schedule(config, optimizer, len(data.train) // config.batch_size),
        torch.amp.GradScaler(device.type, enabled=config.amp == "fp16"),
        torch.Generator(device).manual_seed(config.seed),
        Average(model, config.average, config.ema_decay),
        recipes.build_plateau(config, optimizer),
    )


@dataclass(frozen=True)
class Evaluation:
    """How a network does on some images."""

    loss: float  # cross-entropy in nats an image
    accuracy: float  # 0..1
    logits: Tensor  # (N, K) float32, on the device

    def class_accuracy(self, labels: Tensor) -> list[float]:
        """The share of each class that is right; 0 for a class without images."""
        k = self.logits.shape[1]
        right = torch.bincount(labels[self.logits.argmax(1) == labels], minlength=k)
        return (right / torch.bincount(labels, minlength=k).clamp(min=1)).tolist()


class Trainer:
    """The loop. ``data`` and ``run.model`` are on the same device.

    With ``config.cuda_graph`` steps are replayed, see :mod:`training.graphs`, but those that are
    measured.

    What the device counts is kept there and read every ``config.log_every`` steps, at the end of an
    epoch and before a checkpoint: between these nothing waits for the device.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        run: Run,
        board: Board | None,
        say: Callable[[str], object] = print,
        watch: Watch | None = None,
        world: World = ALONE,
        network: nn.Module | None = None,
        points: Watch | None = None,
    ) -> None:
        self.config, self.data, self.run, self.board, self.say = config, data, run, board, say
        self.watch, self.points, self.world = watch, points, world
        self.network = network or run.model  # around the model, where several processes train it
        self.device = data.mean.device
        self.steps_per_epoch = len(data.train) // config.batch_size
        self.total_steps = recipes.total_steps(config, self.steps_per_epoch)
        self.warmup_steps = recipes.warmup_steps(config, self.steps_per_epoch)
        self.sizes = config.resolutions or (data.train.images.shape[3],)
        self.heads = self.tossed()
        self.filters = recipes.filters(run.model) if config.normalize_weights else []
        self.fill = data.mean.round()  # of a cutout
        self.weights = recipes.weights(run.model) if config.l1 or config.max_norm else []
        self.norms = recipes.clipping(config)
        self.part = None if world.size == 1 else world.part(config.batch_size).to(self.device)
        self.class_weights = recipes.weights_of_classes(config, data.train.labels)
        self.loss = recipes.build_loss(config, self.class_weights)
        self.clips = any(getattr(config, name) for name in CLIPS)
        self.folder = Path(config.checkpoint_dir)
        self.precision = torch.autocast(
            self.device.type, AMP[config.amp], enabled=config.amp != "off"
        )
        if config.amp == "fp16":  # the scaler skips steps while it looks for its scale; no mistake
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        self.graphs = None
        if config.cuda_graph:
            # the first steps; no mistake
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            self.graphs = Graphs(self.compute, Rates(run.optimizer, self.device))
        self.stepping: Optimizer = run.optimizer
        self.around_a_step: Callable[[], AbstractContextManager[None]] = nullcontext
        if self.graphs and isinstance(run.optimizer, Lookahead):
            # what it counts would not be counted in a graph
            self.stepping = run.optimizer.optimizer
            self.around_a_step = run.optimizer.taking_a_step
        self.explanation = None
        if board and config.explain:
            self.explanation = explain(
                run.optimizer,
                lambda values, _: board.explained(values, run.steps + 1),
                config.explain,
                groups=recipes.group_names(run.optimizer),
                taken=run.steps,
            )
        self.window: list[Tensor] = []  # of each step not read yet: mean loss, right answers
        self.measures: dict[str, Tensor] = {}  # of the newest step that was measured
        self.clock = 0.0
        self.data_seconds = 0.0  # since the clock was read

    def fit(self) -> None:
        """Train until ``config.epochs`` are complete."""
        run = self.run
        with StopSignal() as stop:
            while run.steps < self.total_steps and not self.is_out_of_patience():
                self.train_epoch(stop)
                self.finish_epoch()
                asked = self.world.greatest(stop.requested, self.device)
                if asked and run.steps < self.total_steps:
                    raise InterruptedRunError(self._interrupted(), asked)

    def is_out_of_patience(self) -> bool:
        """Whether the validation accuracy has not risen for --patience epochs."""
        waited = self.run.epoch - self.run.best_epoch
        return 0 < self.config.patience <= waited

    def go_back_to_the_best(self) -> None:
        """Load the weights of the epoch with the best validation accuracy."""
        best = checkpoint.load(self.folder / "best.pt")
        self.run.load_weights(best)

    def train_epoch(self, stop: StopSignal) -> None:
        """The steps that the present epoch still lacks; the last one may be a part of an epoch."""
        config, run, size = self.config, self.run, self.config.batch_size
        steps = self.steps_of_epoch()
        run.model.train()
        order = self.order()
        self.clock = time.perf_counter()
        with tqdm(
            total=steps,
            initial=run.step,
            desc=f"epoch {run.epoch + 1}/{self.epochs}",
            unit="step",
            leave=False,
            # None: shown where there is a terminal
            disable=True if config.quiet or not self.world.first else None,
        ) as bar:
            while run.step < steps:
                begun = time.perf_counter()
                batch = self.batch(order[run.step * size : (run.step + 1) * size])
                self.data_seconds += time.perf_counter() - begun
                if self.board and run.steps == 0:
                    self.board.batch(batch.images, 0)
                last = run.step + 1 == steps
                due = last or (run.steps + 1) % config.log_every == 0
                shown = config.tensorboard or self.points is not None
                self.train_step(batch, measure=due and shown)
                bar.update()

                wanted = config.checkpoint_every and run.steps % config.checkpoint_every == 0
                # processes have to agree, for which they wait where they wait anyway
                asked = 0
                if due or self.world.size == 1:
                    asked = self.world.greatest(stop.requested, self.device)
                save = (wanted or asked) and not last
                if due or save:
                    bar.set_postfix_str(f"loss {self.read():.3f}")
                if save:
                    self.save("last.pt")
                    self.clock = time.perf_counter()
                    if asked:
                        raise InterruptedRunError(self._interrupted(), asked)

    def fit_unwatched(self) -> None:
        """Take all steps of the run. Nothing waits for the device, is validated or is written."""
        config, run = self.config, self.run
        run.model.train()
        while run.steps < self.total_steps:
            order = self.order()
            for _ in range(self.steps_of_epoch()):
                chosen = order[run.step * config.batch_size :][: config.batch_size]
                self.train_step(self.batch(chosen), measure=False)
            run.epoch, run.step = run.epoch + 1, 0

    def restart(self, seed: int) -> None:
        """Go to the beginning of another run, with the same network, optimizer and graphs.

        What is compiled and recorded is kept; weights and state are new, in the old memory.

        Args:
            seed: of that run.

        Raises:
            UsageError: the optimizer cannot begin anew.
        """
        run, images = self.run, self.data.train.images
        if self.config.optim != "scratch" or not hasattr(run.optimizer, "reset"):
            raise UsageError(
                f"--optim {self.config.optim} --optimizer {self.config.optimizer}: an optimizer of "
                "scratch_optim is needed to begin anew. Use one of them."
            )
        self.config = config = dataclasses.replace(self.config, seed=seed)
        torch.manual_seed(seed)
        with self.device:
            fresh = recipes.build_model(config, len(self.data.classes), images.shape[1:])
        run.model.load_state_dict(fresh.state_dict())
        recipes.fit_to_images(run.model, self.data)
        run.optimizer.reset()
        self.run = first_step(config, self.data, run.model, run.optimizer)
        self.heads = self.tossed()
        self.window = []

    def tossed(self) -> Tensor:
        """Which images are mirrored in every even epoch, (N,) bool."""
        coin = torch.Generator().manual_seed(self.config.seed)
        return self.to_device(torch.rand(len(self.data.train), generator=coin) < 0.5)

    def order(self) -> Tensor:
        """Positions of the training images in the order of the present epoch, (N,) int64."""
        return self.to_device(permutation(len(self.data.train), self.config.seed, self.run.epoch))

    def to_device(self, x: Tensor) -> Tensor:
        """A tensor of the host there; the host does not wait for what the device does before."""
        if self.device.type != "cuda":
            return x
        return x.pin_memory().to(self.device, non_blocking=True)

    @property
    def epochs(self) -> int:
        """Epochs that are begun."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def steps_of_epoch(self) -> int:
        """Steps of the present epoch."""
        begun = self.run.epoch * self.steps_per_epoch
        return min(self.steps_per_epoch, self.total_steps - begun)

    def batch(self, chosen: Tensor) -> Batch:
        """Augmented images with their labels.

        Args:
            chosen: positions among the training images of the whole batch, (B,) int64.
        """
        config, run, train = self.config, self.run, self.data.train
        own = chosen if self.part is None else chosen[self.part]
        mirrored = None
        if "altflip" in config.augment:
            mirrored = self.heads[own] ^ (run.epoch % 2 == 1)
        images = augment(
            train.images[own],
            config.augment,
            self.fill,
            Dice(run.generator, len(chosen), self.part),
            mirrored,
            config.padding,
        )
        labels = train.labels[own]
        height, width = images.shape[2:]
        seed = (config.seed << 32) + run.steps
        mix = draw_mix(config.mixup, config.cutmix, (height, width), seed)
        weight: Tensor | float = len(chosen)
        if self.class_weights is not None:
            weight = self.class_weights[train.labels[chosen]].sum()
        if mix is None:
            return Batch(images, labels, None, 1.0, weight)
        return Batch(mix(images), labels, labels.flip(0), mix.share, weight)

    def objective(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss to descend, whose mean over processes is that of the whole batch."""
        config = self.config
        total: Tensor = self.loss(logits, batch.labels)
        if batch.others is not None:
            total = torch.lerp(self.loss(logits, batch.others), total, batch.share)
        total = total * (self.world.size / batch.weight)
        if config.l1:  # each part of the batch adds its share
            share = len(batch.labels) * self.world.size / config.batch_size
            total = total + config.l1 * share * l1_penalty(self.weights)
        return total

    def train_step(self, batch: Batch, measure: bool, pixels: int | None = None) -> None:
        """One step of the optimizer.

        Args:
            batch: what to descend on.
            measure: take the lengths of gradients, weights and updates too.
            pixels: height and width to which the images are scaled; if None, what the present
                part of the run has.
        """
        run = self.run
        if pixels is None:
            pixels = self.sizes[len(self.sizes) * run.steps // self.total_steps]
        with self.around_a_step():
            if self.graphs is None:
                counted = self.compute(batch, pixels, measure)
            elif measure:
                counted = self.graphs.as_usual(batch, pixels, measure)
            else:
                counted = self.graphs(batch, pixels)
        self.window.append(counted)
        if measure:
            names = recipes.group_names(run.optimizer)
            for group, name in zip(run.optimizer.param_groups, names, strict=True):
                lr = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
                self.measures[f"learning_rate/{name}"] = lr
        run.step, run.steps = run.step + 1, run.steps + 1
        if run.plateau is None or run.steps < self.warmup_steps:
            run.scheduler.step()
        if run.steps == self.total_steps and isinstance(run.optimizer, Lookahead):
            run.optimizer.sync()
        run.average.after_step()

    def compute(self, batch: Batch, pixels: int, measure: bool = False) -> Tensor:
        """What a step does on the device: forward, backward, and the optimizer's equation.

        Args:
            batch: what to descend on.
            pixels: height and width to which the images are scaled.
            measure: as for ``train_step``.

        Returns:
            (2,) float32 on the device: the sum of the losses by the size of the whole batch, and
            how many answers were right, of the images of this process.
        """
        config, run = self.config, self.run
        if self.filters:
            recipes.normalize(self.filters)
        run.optimizer.zero_grad(set_to_none=True)
        seen = []
        parts = batch.parts(config.accumulate)
        for i, part in enumerate(parts):
            with exchange(self.network, i + 1 == len(parts)):
                with self.precision:
                    begun = time.perf_counter()
                    prepared = self.prepare(part.images, pixels)
                    self.data_seconds += time.perf_counter() - begun
                    logits = self.network(prepared)
                    loss = self.objective(logits, part)
                run.scaler.scale(loss).backward()
            seen.append(logits.detach().float())

        parameters = [p for p in run.model.parameters() if p.grad is not None]
        if measure or self.clips:
            run.scaler.unscale_(run.optimizer)
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = whole(self.norms.get_total_norm(gradients))
            if measure:
                slopes = probe.lengths(whole(gradients))  # before they are clipped
            if config.clip_grad_norm:
                self.norms.clip_grads_with_norm_(parameters, config.clip_grad_norm, norm)
                if self.explanation:
                    self.explanation.note(clip_factor=clip_factor(config.clip_grad_norm, norm))
            elif config.clip_grad_value:
                self.norms.clip_grad_value_(parameters, config.clip_grad_value)
            elif config.clip_grad_ratio:
                adaptive_clip_grad_(recipes.units(run.model), config.clip_grad_ratio)
        if measure:
            before = whole([p.detach().clone() for p in parameters])
        run.scaler.step(self.stepping)
        run.scaler.update()
        if config.max_norm:
            max_norm_(self.weights, config.max_norm)
        if measure:
            after = whole([p.detach() for p in parameters])
            self.measures = {"gradient_norm": norm}
            self.measures |= probe.lengths_of_layers(run.model, slopes, before, after)

        logits = torch.cat(seen)
        # without label smoothing, to be compared with the validation loss
        plain = F.cross_entropy(logits, batch.labels, reduction="sum") / config.batch_size
        return torch.stack([plain, (logits.argmax(1) == batch.labels).sum()])

    def prepare(self, images: Tensor, pixels: int | None = None) -> Tensor:
        """uint8 (N, C, H, W) -> float32 of the training images' mean 0 and deviation 1.

        Args:
            images: the batch.
            pixels: height and width to scale it to; None: as it is.
        """
        images = self.data.normalized(images)
        if pixels not in (None, images.shape[3]):
            images = F.interpolate(images, (pixels, pixels), mode="bilinear", antialias=True)
        return images.contiguous(memory_format=_layout(self.config))

    def read(self) -> float:
        """Fetch what the device has counted since the last time, and log it.

        Returns:
            The mean loss since then.
        """
        run, size = self.run, self.config.batch_size
        counted = self.world.total(torch.stack(self.window)).tolist()  # waits for the device
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        run.train_seconds += seconds
        first = run.steps - len(counted) + 1
        for i, (loss, correct) in enumerate(counted):
            if not math.isfinite(loss):
                raise self._diverged(f"the training loss is {loss}", first + i)
            run.loss_sum += loss * size
            run.correct += correct
        mean = sum(loss for loss, _ in counted) / len(counted)
        if self.board or self.points:
            values = {
                "train/loss": mean,
                "train/accuracy": sum(right for _, right in counted) / (len(counted) * size),
                "images_per_second": len(counted) * size / seconds,
            }
            if self.measures:
                measured = torch.stack(list(self.measures.values())).tolist()
                values |= dict(zip(self.measures, measured, strict=True))
            if self.device.type == "cuda":
                values |= probe.memory(self.device)
            else:  # where the host does not run ahead of the device, its clock tells who works
                values["data_share"] = self.data_seconds / seconds
            if self.board:
                self.board.scalars(values, run.steps)
            if self.points:
                self.points({"step": run.steps} | values)
        self.window, self.measures, self.data_seconds = [], {}, 0.0
        return mean

    def finish_epoch(self) -> None:
        """Validate, log, save."""
        config, run, held = self.config, self.run, self.data.validation
        self.world.like_the_first(run.model.buffers())
        batches = self.data.train.images.split(max(100, config.batch_size))
        run.average.after_epoch(run.steps / self.total_steps, map(self.prepare, batches))
        measured = self.evaluate(held) if len(held) else None
        if measured and not math.isfinite(measured.loss):
            raise self._diverged(f"the validation loss is {measured.loss}", run.steps)
        images = self.steps_of_epoch() * config.batch_size
        seconds = run.train_seconds - (run.history[-1]["train_seconds"] if run.history else 0.0)
        run.epoch, run.step = run.epoch + 1, 0
        row: dict[str, float] = {
            "epoch": run.epoch,
            "step": run.steps,
            "train_loss": run.loss_sum / images,
            "train_accuracy": run.correct / images,
            "train_seconds": run.train_seconds,
        }
        if config.gap:
            trained = self.evaluate(self.data.train)
            row |= {
                "evaluated_train_loss": trained.loss,
                "evaluated_train_accuracy": trained.accuracy,
            }
        validated = ""
        if measured:
            row |= {"validation_loss": measured.loss, "validation_accuracy": measured.accuracy}
            validated = f"  validation loss {measured.loss:.4f} accuracy {measured.accuracy:7.2%}"
        run.history.append(row)
        run.loss_sum = run.correct = 0.0
        if measured and run.plateau:
            run.plateau.step(measured.loss)
        # of equals the one that has seen more; the last one where none is validated
        best = measured is None or measured.accuracy >= run.best_accuracy
        if best:
            run.best_epoch = run.epoch
            if measured:
                run.best_accuracy = measured.accuracy
        if self.board:
            self.show_epoch(self.board, row, measured)
            every = config.pictures_every
            if run.steps == self.total_steps or (every and run.epoch % every == 0):
                self.show_pictures(self.board, measured)
        if best:
            self.save("best.pt")
        self.save("last.pt")
        self.say(
            f"epoch {run.epoch:{len(str(self.epochs))}}/{self.epochs}"
            f"  train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:7.2%}"
            f"{validated}"
            f"  {images / seconds:,.0f} images/s  {run.train_seconds:.1f} s"
            f"{'  best' if best else ''}"
        )
        if self.watch:
            self.watch(row)

    def show_epoch(self, board: Board, row: dict[str, float], measured: Evaluation | None) -> None:
        """The points of an epoch.

        Args:
            board: where to show them.
            row: of the history.
            measured: of the validation images; None where there are none.
        """
        values = {f"train_epoch/{name}": row[f"train_{name}"] for name in ("loss", "accuracy")}
        if self.config.gap:
            evaluated = {n: row[f"evaluated_train_{n}"] for n in ("loss", "accuracy")}
            values |= {f"train_evaluated/{name}": value for name, value in evaluated.items()}
        if measured:
            values |= {"validation/loss": measured.loss, "validation/accuracy": measured.accuracy}
            by_class = measured.class_accuracy(self.data.validation.labels)
            for name, value in zip(self.data.classes, by_class, strict=True):
                values[f"validation_class/{name}"] = value
        board.scalars(values, self.run.steps)

    def show_pictures(self, board: Board, measured: Evaluation | None) -> None:
        """What the network holds, gives out and answers; arguments as for ``show_epoch``."""
        run, held = self.run, self.data.validation
        if not self.config.fsdp:  # where a process has a part of the weights only
            board.filters(run.model, self.data.train.images.shape[1:], run.steps)
            images = held.images if measured else self.data.train.images
            found = probe.weights_and_statistics(run.model)
            found |= self.inside(probe.activations, images[spread(len(images), PROBED)])
            board.histograms(found, run.steps)
        if measured:
            logits, classes = measured.logits, self.data.classes
            board.predictions("validation", logits, held.images, held.labels, classes, run.steps)

    def show_test(self, board: Board, tested: Evaluation, figures: dict[str, float]) -> None:
        """What there is to see at the end.

        Args:
            board: where to show it.
            tested: of the test images.
            figures: the final ones.
        """
        run, test, classes = self.run, self.data.test, self.data.classes
        board.predictions("test", tested.logits, test.images, test.labels, classes, run.steps)
        if not self.config.fsdp:  # where all processes would have to run the network
            chosen = spread(len(test), EMBEDDED)
            each = test.images[chosen].split(500)
            features = torch.cat([self.inside(probe.features, images) for images in each])
            board.embedding(
                features, tested.logits[chosen], test.images[chosen], test.labels[chosen], classes
            )
        final = {f"test/{name}": value for name, value in figures.items()}
        board.finish(final | {"train_seconds": run.train_seconds}, run.steps)

    @torch.no_grad()
    def inside(self, look: Callable[[nn.Module, Tensor], T], images: Tensor) -> T:
        """What ``look`` finds in the network, in evaluation mode, with images as they are.

        Args:
            look: is given the network and the images as the network gets them.
            images: uint8 (N, C, H, W).
        """
        self.run.model.eval()
        with self.precision:
            return look(self.run.model, self.prepare(images))

    def evaluate(self, split: Split, batch_size: int = 500, views: bool = False) -> Evaluation:
        """What :meth:`logits` come to, by the labels; arguments as there."""
        together = self.logits(split, batch_size, views)
        loss = F.cross_entropy(together, split.labels)
        accuracy = (together.argmax(1) == split.labels).double().mean()
        return Evaluation(loss.item(), accuracy.item(), together)

    @torch.no_grad()
    def logits(self, split: Split, batch_size: int = 500, views: bool = False) -> Tensor:
        """Run the network in evaluation mode over ``split``, on the images as they are.

        Each process takes a part of them; all get the whole. The weights are those of --average.

        Args:
            split: images and labels.
            batch_size: images at a time.
            views: take the mean over six views of each image, see :func:`six_views`.

        Returns:
            float32 (N, K), on the device.
        """
        own = torch.arange(self.world.rank, len(split), self.world.size, device=self.device)
        together = torch.zeros(len(split), len(self.data.classes), device=self.device)
        self.run.model.eval()
        with self.run.average.in_place() as model:
            # as many batches in each process: with --fsdp they run the network together
            count = math.ceil(len(split) / (batch_size * self.world.size))
            for rows in own.tensor_split(count):
                images = split.images[rows]
                with self.precision:
                    seen = six_views(images) if views else [(images, 1.0)]
                    each = [w * model(self.prepare(x)).float() for x, w in seen]
                together[rows] = sum(each[1:], each[0])
        return self.world.total(together)  # the others' rows are zeros here

    def figures(self, tested: Evaluation, viewed: Evaluation | None) -> dict[str, float]:
        """The final figures, of the test images; those of six views end in ``_tta``.

        Raises:
            DivergedError: the network's answers are not finite.
        """
        values: dict[str, float] = {}
        for end, found in (("", tested), ("_tta", viewed)):
            if found is None:
                continue
            if not found.logits.isfinite().all():
                raise self._diverged("the logits of the test images are not finite", self.run.steps)
            error = expected_calibration_error(found.logits, self.data.test.labels)
            values |= {
                f"accuracy{end}": found.accuracy,
                f"loss{end}": found.loss,
                f"calibration_error{end}": error,
            }
        return values

    def save(self, name: str) -> None:
        """Write a checkpoint. Not of weights that are lost, over the one that is good.

        Raises:
            DivergedError: a weight or a running statistic is not finite.
        """
        state = self.run.state_dict()
        finite = {
            key: tensor.isfinite().all()
            for key, tensor in state["model"].items()
            if tensor.is_floating_point()
        }
        if not torch.stack(list(finite.values())).all():
            bad = next(key for key, fine in finite.items() if not fine)
            raise self._diverged(f"{bad} has values that are not finite", self.run.steps)
        if self.board:
            self.board.flush()  # the curves reach the disk no later than the state they belong to
        extra = {
            "config": self.config.as_json(),
            "data": self.data.checksum,
            "images": {  # what whoever serves the network has to know of them
                "shape": list(self.data.train.images.shape[1:]),
                "classes": list(self.data.classes),
                "mean": self.data.mean.cpu(),
                "std": self.data.std.cpu(),
            },
            "ranks": self.world.gathered(torch.get_rng_state()),
        }
        if self.world.first:
            checkpoint.save(self.folder / name, state | extra)

    def _diverged(self, what: str, step: int) -> DivergedError:
        kept = self.folder / "last.pt"
        rest = (
            f"{kept} holds the last good state." if kept.exists() else "No checkpoint exists yet."
        )
        return DivergedError(
            f"diverged: {what} at step {step}. Use a lower --lr, --warmup or --clip-grad-norm. "
            f"{rest}"
        )

    def _interrupted(self) -> str:
        return (
            f"interrupted after step {self.run.steps} of "
            f"{self.total_steps}. Go on with --resume {self.folder}"
        )


class StopSignal:
    """Within it, the first Ctrl-C or SIGTERM only sets ``requested``: no step is left half done.

    The second one interrupts at once; the checkpoint written before it remains.
    """

    requested = 0
    """The number of the signal."""

    def __enter__(self) -> StopSignal:
        # Python delivers signals to the main thread only
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = {
                number: signal.signal(number, self._request)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __exit__(self, *error: object) -> None:
        if self.main:
            for number, handler in self.before.items():
                signal.signal(number, handler)


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of ``n`` images in an epoch, int64, a function of seed and epoch alone.

    So a run that is resumed within an epoch, or one process of several, needs no one to tell it.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed((seed << 20) + epoch))


def spread(n: int, count: int) -> Tensor:
    """Positions of ``count`` among ``n``, evenly apart, or of all; int64, ascending.

    A data set may be in the order of its classes.
    """
    count = min(n, count)
    return torch.arange(count) * n // count


def six_views(images: Tensor) -> list[tuple[Tensor, float]]:
    """Views of images whose logits are averaged, and their weights, which add up to 1.

    The images as they are have the weight 1/2, and moved by a pixel up and left, or down and right,
    with the edge mirrored, 1/4 each; half of every weight is that of the mirror image. K. Jordan,
    "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv:2404.00498, section 3.5.

    Args:
        images: (N, C, H, W) of any dtype.
    """
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="reflect").to(images.dtype)
    moved = [padded[:, :, d : d + height, d : d + width] for d in (0, 2)]
    views = [(images, 0.25), *[(x, 0.125) for x in moved]]
    return [(x, w) for view, w in views for x in (view, view.flip(3))]


def _layout(config: Config) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def _resume(run: Run, source: Path, data: Data, world: World) -> None:
    state = checkpoint.load(source)
    if state.get("data") != data.checksum:
        raise UsageError(
            f"{source} was trained on other images (checksum {state.get('data')}, not "
            f"{data.checksum}). Give the --data-dir it was made with, unchanged."
        )
    run.load_state_dict(state, source)
    states = state.get("ranks", [])
    if len(states) == world.size:
        torch.set_rng_state(states[world.rank])
    elif world.rank:  # other processes than before: random numbers that none of them has had
        torch.manual_seed((state["config"]["seed"] << 20) + (run.steps << 8) + world.rank)


def _opening(config: Config, data: Data, parameters: int) -> str:
    counts = f"{len(data.train):,} + {len(data.validation):,} + {len(data.test):,}"
    shape = "x".join(map(str, data.train.images.shape[1:]))
    threads = f" ({torch.get_num_threads()} threads)" if config.device == "cpu" else ""
    return (
        f"{config.dataset}: {counts} images of {shape} to train, validate, test\n"
        f"{config.model} ({parameters:,} parameters, {config.layers} layers), "
        f"{config.optimizer} ({config.optim}), seed {config.seed}, {config.device}{threads}\n"
        f"records in {config.log_dir}"
    )
