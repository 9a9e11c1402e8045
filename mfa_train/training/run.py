"""A run from config to closing table.

1. The variant is matched where the config asks for it. What can be known to fail is checked: the config, the batch
   over the ranks, the memory, the run folder.
2. The corpus is prepared, or found prepared.
3. Model, optimizer and DeepSpeed engine are built; the run folder is made, or made ready to go on from the newest
   whole checkpoint, which is read into the engine.
4. Steps, with an evaluation and a checkpoint every so often; every record goes to metrics.jsonl, the terminal and
   W&B.
5. Final weights, summary, closing table and a sample of text.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.budget.match import matched, told
from mfa_train.budget.peak import Peak
from mfa_train.config import Config
from mfa_train.data.corpora import open_all, prepare_all
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.errors import Stopped
from mfa_train.tracking.run_log import SilentLog
from mfa_train.tracking.wandb_run import forget_run
from mfa_train.training.before_start import checked_plan, read_order
from mfa_train.training.checkpoints.final_weights import save_weights
from mfa_train.training.checkpoints.folders import manifest_of, verified
from mfa_train.training.checkpoints.save_points import Checkpoints
from mfa_train.training.processes.ranks import join, ranks_of_node, world_size
from mfa_train.training.processes.signals import StopSignals
from mfa_train.training.processes.watchdog import Watchdog
from mfa_train.training.resuming.roll_back import roll_back
from mfa_train.training.resuming.starting_point import Progress, restore, settings, starting_point
from mfa_train.training.resuming.stretches import continued
from mfa_train.training.run_folder.closing import (
    closing_table,
    history,
    make_summary,
    where_to_look,
    zlib_bits_per_byte,
)
from mfa_train.training.run_folder.folder import RunFolder, final_checkpoint
from mfa_train.training.run_folder.opening import open_log
from mfa_train.training.run_folder.provenance import provenance
from mfa_train.training.sample import closing_sample
from mfa_train.training.steps.engine import build_engine
from mfa_train.training.steps.evaluation import Evaluator
from mfa_train.training.steps.guard import Guard, Poisoned
from mfa_train.training.steps.loop import train


def run(config: Config) -> dict:
    """Trains the config's model and returns what summary.json holds. Raises UserError."""
    if config.resume == "never":
        forget_run(os.environ)
    config, match = matched(config)
    device = planned_device("auto", ranks_of_node())
    dtype = resolve_precision(config.precision, device)
    plan = checked_plan(config, match, device, world_size())
    folder = RunFolder(config)
    ranks = join()
    if match:
        ranks.say("\n".join(f"matched: {line}" for line in told(match)))
    if finished := ranks.on_first(folder.open):
        ranks.say(
            f"{closing_table(finished)}\n\n{where_to_look(folder)}\n"
            f"{folder.path} holds this run, finished before. To train it again: resume=never"
        )
        return finished
    ranks.on_first(lambda: prepare_all(config.data, ranks.say))
    corpora = open_all(config.data, ranks.say)
    tokenizer = next(iter(corpora.values())).tokenizer
    batches, held_out = read_order(config, corpora, ranks.rank, ranks.world_size, ranks_of_node())
    inputs_of = ModelInputs(ranks.device, tokenizer.eos_id if config.data.document_mask else None)
    data = batches.identity()
    start = ranks.on_first(lambda: starting_point(config, folder.path, data, ranks.say, vouch=manifest_of))
    with ThreadPoolExecutor(1) as beside:  # its files are held against their checksums while the engine is built
        checked = beside.submit(verified, start.checkpoint) if start and ranks.first else None
        engine = build_engine(config, ranks, dtype, fresh=start is None)
    if start and ranks.on_first(lambda: checked.exception() is not None):
        start = ranks.on_first(lambda: starting_point(config, folder.path, data, ranks.say))
    launch = ranks.on_first(lambda: folder.create(plan, start))
    progress, guard = Progress(), Guard(config.guard, ranks.say)
    if start:
        restore(engine, start, ranks)
        progress, guard = start.progress, Guard(config.guard, ranks.say, start.content["guard"])
        ranks.say(
            "\n".join(
                [
                    f"goes on from {start.checkpoint}, after step {progress.step}",
                    *(f"changed since: {line}" for line in start.accepted),
                ]
            )
        )
    progress.stretches = continued(progress.stretches, progress.step, settings(config, dtype))
    evaluate = Evaluator(
        held_out, inputs_of, config.training.micro_batch(ranks.world_size), ranks, tokenizer.token_bytes
    )
    zlib_bits = zlib_bits_per_byte(tokenizer, evaluate.targets)
    origin = ranks.on_first(
        lambda: provenance(
            (folder.path / "config.yaml").read_bytes(),
            {
                "tokenizer_sha256": tokenizer.sha256,
                "train_sha256": batches.fingerprint,
                "held_out_sha256": held_out.fingerprint,
            },
        )
    )
    peak = Peak(device, dtype, ranks.say)
    log = open_log(config, folder.path, plan, start) if ranks.first else SilentLog()
    status, record = "failed", log.last_record()
    try:
        with StopSignals() as signals, Watchdog(ranks, config.guard.hang_seconds) as watchdog:
            checkpoints = Checkpoints(config, ranks, launch, data, log, signals)

            def on_step(done: int) -> None:
                log.advance(done)
                watchdog.alive(done)

            evaluate.on_pass = lambda: watchdog.alive(watchdog.step)
            while True:
                try:
                    for record in train(
                        engine,
                        config,
                        batches,
                        inputs_of,
                        ranks,
                        plan["flops"]["train_per_token"],
                        peak,
                        evaluate,
                        on_step,
                        progress,
                        guard,
                        checkpoints,
                    ):
                        log.log(record)
                    break
                except Poisoned as poisoned:
                    progress, guard = roll_back(poisoned, engine, config, ranks, progress, guard, checkpoints)
                    log.go_back(progress.step)
            checkpoints.finish()
        save_weights(engine, tokenizer, final_checkpoint(folder.path), ranks)
        status = "finished"
    except Stopped:
        status = "stopped"
        raise
    finally:
        summary = make_summary(status, plan, record, zlib_bits) | history(progress, guard) | origin
        log.close(summary)
        if ranks.first:
            folder.close(summary)
    sample = ""
    if config.sample.max_new_tokens:
        sample = f"A sample:\n\n{closing_sample(config, engine.module, tokenizer, ranks.device)}\n\n"
    if ranks.first:  # the others have no record where a run goes on behind its last step
        ranks.say(f"\n{closing_table(summary)}\n\n{sample}{where_to_look(folder)}")
    return summary
