"""What a run reads: its part of the global order of samples, what it is evaluated on, and the tokenizer of both."""

from dataclasses import dataclass

from mfa_train.config import Config
from mfa_train.data.corpora import open_all, prepare_all
from mfa_train.data.reading.batches import Batches, share_of
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.data.reading.held_out import HeldOut
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.parallel.groups import ContextGroup
from mfa_train.training.before_start import read_order
from mfa_train.training.processes.ranks import Ranks, local_world_size


@dataclass(frozen=True)
class RunData:
    """Of one rank."""

    tokenizer: Tokenizer
    batches: Batches
    """This rank's part of each, or its context group's."""
    held_out: HeldOut
    inputs_of: ModelInputs
    """What the model is called with for samples of either."""

    def fingerprints(self) -> dict[str, str]:
        """Those of tokenizer, training samples and held-out text: equal for equal ones, wherever they were prepared."""
        return {
            "tokenizer_sha256": self.tokenizer.sha256,
            "train_sha256": self.batches.fingerprint,
            "held_out_sha256": self.held_out.fingerprint,
        }


def open_run_data(config: Config, ranks: Ranks, sequences: ContextGroup) -> RunData:
    """Prepares the corpus where it isn't yet, on rank 0 while the others wait, and opens it; the ranks of `sequences`
    share each window. Raises UserError.

    Rank 0 alone reads the manifests: a thousand ranks would all ask for the same large file at once, and might find
    another one there."""
    manifests = ranks.on_rank_zero(lambda: prepare_all(config.data, ranks.say))
    corpora = open_all(config.data, ranks.say, manifests=manifests)
    tokenizer = next(iter(corpora.values())).tokenizer
    mine = share_of(ranks.rank, ranks.world_size, local_world_size(), config.parallel.context)
    batches, held_out = read_order(config, corpora, mine)
    inputs_of = ModelInputs(ranks.device, tokenizer.eos_id if config.data.document_mask else None, sequences)
    return RunData(tokenizer, batches, held_out, inputs_of)
