"""A run from config to closing table.

1. Match and check: the variant is matched where the config asks for it, and what can be known to fail is checked: the
   config, the batch over the ranks, the memory, the run folder, the weights to begin with.
2. Data: the corpus is prepared, or found prepared.
3. Build: model, optimizer and DeepSpeed engine; the run folder is made, or made ready to go on from the newest whole
   checkpoint, which is read into the engine.
4. Steps, with an evaluation and a checkpoint every so often; every record goes to metrics.jsonl, the terminal and W&B.
5. Close: final weights, summary, closing table and a sample of text; what is being uploaded is waited for.
"""

import os
from collections.abc import Iterator

from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.budget.match import matched
from mfa_train.budget.match_report import told
from mfa_train.budget.peak import Peak
from mfa_train.budget.plan import notes_of_config
from mfa_train.config import Config
from mfa_train.errors import Stopped
from mfa_train.run_files import LOGS
from mfa_train.tracking.run_log import RunLog, SilentLog
from mfa_train.tracking.wandb_run import forget_run
from mfa_train.training.before_start import checked_plan, checked_tasks, of_another_kind
from mfa_train.training.closing_sample import closing_sample
from mfa_train.training.init_from.begin import loss_to_begin_with, source_to_begin_with
from mfa_train.training.init_from.same_tokenizer import require_same_tokenizer
from mfa_train.training.processes.groups import join_context_group, wait_longer_than_watchdog
from mfa_train.training.processes.ranks import join, local_rank, local_world_size, world_size
from mfa_train.training.processes.signals import StopSignals
from mfa_train.training.processes.watchdog import Watchdog
from mfa_train.training.resuming.build import build_to_resume, restored
from mfa_train.training.resuming.from_storage import fetch_what_is_newer, open_storage
from mfa_train.training.resuming.roll_back import roll_back
from mfa_train.training.run_data import open_run_data
from mfa_train.training.run_folder.closing import (
    closing_table,
    evaluations,
    make_summary,
    where_to_look,
    zlib_bits_per_byte,
)
from mfa_train.training.run_folder.folder import RunFolder
from mfa_train.training.run_folder.opening import open_log
from mfa_train.training.run_folder.provenance import provenance
from mfa_train.training.saving.final_weights import save_final_weights
from mfa_train.training.saving.save_points import SavePoints
from mfa_train.training.saving.uploads import STOP_SECONDS, Uploads
from mfa_train.training.steps.evaluation import Evaluator
from mfa_train.training.steps.garbage import GarbageInStep
from mfa_train.training.steps.guard import Poisoned
from mfa_train.training.steps.loop import train
from mfa_train.training.steps.profiling import Profiling
from mfa_train.training.steps.speed import Speed
from mfa_train.training.steps.step import TrainingStep
from mfa_train.training.steps.task_scores import TaskScorer


def run(config: Config) -> dict:
    """Trains the config's model and returns what summary.json holds. Raises UserError."""
    # 1. Match and check
    if config.resume == "never":
        forget_run(os.environ)
    config, match = matched(config)
    device = planned_device("auto", local_world_size(), local_rank())
    dtype = resolve_precision(config.precision, device)
    plan = checked_plan(config, match, device, world_size(), local_world_size())
    folder, ranks = RunFolder(config), join()
    wait_longer_than_watchdog(config.guard.hang_seconds)
    if told_of_device := of_another_kind(config, device):
        ranks.say(told_of_device)
    if match:
        ranks.say("\n".join(f"matched: {line}" for line in told(match)))
    for note in notes_of_config(config):
        ranks.say(note)
    finished = ranks.on_rank_zero(folder.open)
    if stored := open_storage(config, ranks):
        finished = finished or fetch_what_is_newer(stored, folder, ranks)
    if finished:
        if stored:  # what the start before may have left
            Uploads(stored, config.checkpoint, folder.path, ranks, "finished").finish(config.guard.hang_seconds)
        again = f"{folder.path} holds this run, finished before. To train it again: resume=never"
        ranks.say(f"{closing_table(finished)}\n\n{where_to_look(folder)}\n{again}")
        return finished
    tasks = checked_tasks(config)
    source = source_to_begin_with(config, ranks)

    # 2. Data
    if shared := plan.get("context"):
        ranks.say(f"parallel.context={shared['ranks']}: by {shared['by']}: {shared['why']}")
    sequences = join_context_group(config.parallel.context, ranks, shared["by"] if shared else "entries")
    data = open_run_data(config, ranks, sequences)
    if source:
        for line in ranks.on_rank_zero(lambda: require_same_tokenizer(source, data.tokenizer)):
            ranks.say(f"init_from: {line}")

    # 3. Build
    engine, resume_point, record_of_source = build_to_resume(
        config, folder.path, data.batches, ranks, dtype, source, stored
    )
    earlier_starts = ranks.on_rank_zero(lambda: folder.create(plan, resume_point, data.tokenizer))
    state = restored(engine, resume_point, config, ranks, dtype, record_of_source)
    step = TrainingStep(engine, config, ranks, data.batches, data.inputs_of, state)
    micro_batch = config.training.micro_batch(data.batches.mine.world_size)
    evaluate = Evaluator(data, micro_batch, ranks, config.evaluation.by_position, step.stages)
    zlib_bits = zlib_bits_per_byte(data.tokenizer, evaluate.targets)
    origin = ranks.on_rank_zero(lambda: provenance(folder.path, data.fingerprints()))
    commit = origin["code_commit"]
    score = TaskScorer(config, tasks, data.tokenizer, folder.path, ranks, commit) if tasks else None
    speed = Speed(plan, Peak(device, dtype, ranks.say), ranks.world_size)
    log = open_log(config, folder.path, plan, resume_point, state.init_from) if ranks.is_rank_zero else SilentLog()
    uploads = Uploads(stored, config.checkpoint, folder.path, ranks, str(earlier_starts)) if stored else None

    # 4. Steps
    status, record = "failed", log.last_record()
    try:
        watched = Watchdog(ranks, config.guard.hang_seconds, folder.path / LOGS)
        with StopSignals() as signals, watched as watchdog, GarbageInStep() as garbage:
            identity = data.batches.identity()
            save_points = SavePoints(config, ranks, earlier_starts, identity, log, signals, commit, uploads)
            evaluate.on_pass = lambda: watchdog.alive(watchdog.step)
            if score:
                score.on_pass = evaluate.on_pass
            if source:
                loss_to_begin_with(engine, evaluate, state, ranks)
            with Profiling(config, ranks, save_points.agreed, state.progress.step) as profiling:
                for record in _records(step, speed, evaluate, score, save_points, log, watchdog, garbage, profiling):
                    log.log(record)
            save_points.finish()

        # 5. Close: the weights, the summary however the steps ended, and what a person is shown
        save_final_weights(engine, data.tokenizer, folder.path, ranks, averaged=config.training.ema is not None)
        if uploads and ranks.is_rank_zero:
            uploads.saved_final_weights()
        status = "finished"
    except Stopped:
        status = "stopped"
        raise
    finally:
        summary = make_summary(status, plan, record, zlib_bits) | step.state.history() | origin
        if status == "finished" and score is not None:
            summary["evaluations"] = evaluations(score.final())
        log.close(summary)
        if ranks.is_rank_zero:
            folder.close(summary)
        if uploads and status == "stopped":
            uploads.finish(min(STOP_SECONDS, config.guard.hang_seconds))
        elif uploads and status == "failed":
            uploads.give_up()

    sample = closing_sample(config, engine.module, data.tokenizer, ranks)
    if ranks.is_rank_zero:  # the others have no record where a run goes on behind its last step
        ranks.say(f"\n{closing_table(summary)}\n\n{sample}{where_to_look(folder)}")
    if uploads:
        uploads.finish(config.guard.hang_seconds)
    return summary


def _records(
    step: TrainingStep,
    speed: Speed,
    evaluate: Evaluator,
    score: TaskScorer | None,
    save_points: SavePoints,
    log: RunLog | SilentLog,
    watchdog: Watchdog,
    garbage: GarbageInStep,
    profiling: Profiling,
) -> Iterator[dict]:
    """The records of all steps that are left; a run that is poisoned goes back and on."""

    def on_step(done: int) -> None:
        log.advance(done)
        watchdog.alive(done)
        garbage.step(done)

    while True:
        try:
            yield from train(step, speed, evaluate, save_points, on_step, profiling, score)
            return
        except Poisoned as poisoned:
            roll_back(poisoned, step, save_points)
            log.go_back(step.state.progress.step)
