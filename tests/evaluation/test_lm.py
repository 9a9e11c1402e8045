"""Our model as lm-eval asks it: models whose scores are known beforehand, and lm-eval's own `hf` on what we export."""

import math

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from mfa_train import config as configs
from mfa_train.checkpoints.model import model_of
from mfa_train.checkpoints.weights import weights_of
from mfa_train.data.tokenizer import open_tokenizer
from mfa_train.evaluation.evaluate import State, evaluate
from mfa_train.evaluation.lm import RunLM
from mfa_train.evaluation.tasks import load_tasks
from mfa_train.export.export import export
from mfa_train.training.processes.ranks import join
from mfa_train.training.saving.rng import rng_state
from tests.evaluation.four_tasks import OUTPUT_TYPES, documents, four_tasks
from tests.test_first_round import FILES

CORPUS, VOCAB = FILES / "corpus", 512
CLASSES = 8


@pytest.fixture
def tokenizer():
    return open_tokenizer(CORPUS)


@pytest.fixture
def bigrams():
    """log p (CLASSES, VOCAB): what follows a token, by its id modulo CLASSES."""
    logits = torch.randn(CLASSES, VOCAB, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (2 * logits).log_softmax(-1)


def known_model(small_model, log_p: torch.Tensor, attention: str = "mfa"):
    """A decoder that says `log_p` (classes, VOCAB) of what follows a token, whatever came before it."""
    model = small_model(attention, f"model.vocab_size={VOCAB}")
    classes, width = len(log_p), model.lm_head.weight.shape[1]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        # A token's embedding is one axis, of root mean square 1: the norms leave it as it is.
        axis = torch.arange(VOCAB) % classes
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[torch.arange(VOCAB), axis] = width**0.5
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :classes] = (log_p.T / width**0.5).float()
    return model


def request(kind: str, *arguments) -> Instance:
    return Instance(kind, doc={}, arguments=arguments, idx=0, metadata=("task", 0, 1))


def run_lm(model, tokenizer, context: int = 64, batch_tokens: int = 200) -> RunLM:
    return RunLM(model, tokenizer, join(), context=context, batch_tokens=batch_tokens)


def followed(ids, tokenizer, log_p) -> tuple[float, bool]:
    """The log-likelihood of ids behind the first, and whether each is the likeliest."""
    before, after = torch.tensor(ids[:-1], dtype=torch.long) % len(log_p), torch.tensor(ids[1:], dtype=torch.long)
    return log_p[before, after].sum().item(), bool((log_p[before].argmax(-1) == after).all())


def test_a_model_that_knows_bigrams_scores_them_in_every_output_type(small_model, tokenizer, bigrams):
    lm = run_lm(known_model(small_model, bigrams), tokenizer)
    eos, docs = tokenizer.eos_id, documents()
    pairs = [(doc["question"], choice) for doc in docs for choice in doc["choices"]]
    likeliest = int(bigrams[eos % CLASSES].argmax())
    pairs += [("", tokenizer.decode([likeliest])), ("x" * 300, "yz"), ("a\n", "long " * 90)]
    found = lm.loglikelihood([request("loglikelihood", *pair) for pair in pairs])
    for (context, continuation), (nats, greedy) in zip(pairs, found):
        whole = [eos, *tokenizer.encode([context + continuation])[0].tolist()]
        begin = len(tokenizer.encode([context.rstrip()])[0])
        assert (nats, greedy) == (pytest.approx(followed(whole[begin:], tokenizer, bigrams)[0], rel=1e-5), greedy)
        assert greedy == followed(whole[begin:], tokenizer, bigrams)[1]
    lengths = [len(ids) for ids in tokenizer.encode([context + continuation for context, continuation in pairs])]
    assert any(greedy for _, greedy in found) and lm.truncated == sum(length > lm.context for length in lengths) > 1
    texts = [doc["text"] for doc in docs] + ["", "words and more words\n" * 40]
    for text, nats in zip(texts, lm.loglikelihood_rolling([request("loglikelihood_rolling", text) for text in texts])):
        expected, _ = followed([eos, *tokenizer.encode([text])[0].tolist()], tokenizer, bigrams)
        assert nats == pytest.approx(expected, rel=1e-5)
    asked = {"until": ["\n\n"], "max_gen_toks": 12}
    going_on = lm.generate_until([request("generate_until", doc["question"], asked) for doc in docs])
    bigrams[:, VOCAB - 1 :] = -torch.inf
    for doc, text in zip(docs, going_on):
        last, new = tokenizer.encode([doc["question"]])[0].tolist()[-1], []
        while len(new) < 12 and (not new or new[-1] != eos):
            new.append(int(bigrams[(new[-1] if new else last) % CLASSES].argmax()))
        assert text == tokenizer.decode(new).split("\n\n")[0]


def test_a_uniform_models_metrics_are_those_of_its_vocabulary(small_model, tokenizer, tmp_path):
    docs = documents()
    config = configs.load(["evaluation.tasks=[choice,ending,text,going_on]", f"evaluation.tasks_dir={tmp_path}"])
    four_tasks(tmp_path, docs)
    lm = run_lm(known_model(small_model, torch.zeros(1, VOCAB)), tokenizer, context=256)
    tasks = load_tasks(config.evaluation)
    random_states = rng_state()
    found = {scores.task: scores for scores in evaluate(lm, tasks, State("final", 7, 99), None, "c")}
    assert list(found) == list(OUTPUT_TYPES) and rng_state().equal(random_states)

    def tokens(doc: dict, ending: str) -> int:
        whole, context = tokenizer.encode([doc["question"] + ending, doc["question"]])
        return len(whole) - len(context)

    shortest = [min(range(len(d["choices"])), key=lambda at: tokens(d, d["choices"][at])) for d in docs]
    assert found["choice"].by_document["acc"] == [float(at == d["gold"]) for at, d in zip(shortest, docs)]
    bits = [tokens(doc, doc["answer"]) * math.log2(VOCAB) / len(doc["answer"].encode()) for doc in docs]
    for task in ("choice", "ending"):
        assert found[task].by_document["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    nats = [tokens(doc, doc["answer"]) * math.log(VOCAB) for doc in docs]
    assert found["ending"].metrics["perplexity"].value == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    of_texts = [len(tokenizer.encode([doc["text"]])[0]) * math.log2(VOCAB) for doc in docs]
    per_byte = sum(of_texts) / sum(len(doc["text"].encode()) for doc in docs)
    assert found["text"].metrics["bits_per_byte"].value == pytest.approx(per_byte, rel=1e-5)
    assert found["going_on"].metrics["exact_match"].value == 0  # the first id is no text
    assert {scores.documents for scores in found.values()} == {len(docs)}
    assert {(scores.step, scores.tokens, scores.truncated) for scores in found.values()} == {(7, 99, 0)}


@pytest.mark.parametrize("attention", ["gqa", "mfa"])
def test_every_score_is_that_of_lm_evals_own_hf_model_on_the_export(attention, tmp_path):
    run = FILES / "runs" / attention
    config = configs.of_run(run)
    weights = weights_of(run, config)
    tokenizer, window = weights.tokenizer(), config.training.sequence_length
    export(run, tmp_path / "export")
    model = model_of(weights).eval()
    ours = run_lm(model, tokenizer, window)
    options = {
        "pretrained": str(tmp_path / "export"),
        "device": "cpu",
        "dtype": "float32",
        "max_length": window,
        "trust_remote_code": True,
    }
    theirs = HFLM(**options, batch_size=5)
    docs = documents(20)
    asked = [
        {"until": ["\n"], "max_gen_toks": 8},
        {"until": [" ", "e"], "max_gen_toks": 20, "do_sample": False},
    ]
    contexts = [doc["question"] for doc in docs] + ["", "two  spaces  ", "import os\n" * 40]
    going_on = [request("generate_until", context, how) for context in contexts for how in asked]
    generated = ours.generate_until(going_on)
    assert generated == theirs.generate_until(going_on, disable_tqdm=True)
    pairs = [(doc["question"], choice) for doc in docs for choice in doc["choices"]]
    pairs += [(context, text) for (context, text) in zip(np.repeat(contexts, 2).tolist(), generated) if text]
    requests = [request("loglikelihood", *pair) for pair in pairs]
    ours.truncated = 0
    mine, others = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    assert [nats for nats, _ in mine] == pytest.approx([nats for nats, _ in others], abs=2e-4)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in others] and any(greedy for _, greedy in mine)
    lengths = [len(ids) for ids in tokenizer.encode([context + text for context, text in pairs])]
    assert ours.truncated == sum(length > window for length in lengths) > 0
    texts = [request("loglikelihood_rolling", text) for text in ("x", contexts[-1], *(doc["text"] for doc in docs))]
    mine = ours.loglikelihood_rolling(texts)
    plain = HFLM(**options, batch_size=5, add_bos_token=False)
    assert mine == pytest.approx(plain.loglikelihood_rolling(texts, disable_tqdm=True), abs=2e-4)
    # With its defaults it puts the separator before the text twice, and scores the second one as well.
    separator = torch.tensor([[tokenizer.eos_id]])
    again = model(separator).log_softmax(-1)[0, 0, tokenizer.eos_id].item()
    others = theirs.loglikelihood_rolling(texts[:1], disable_tqdm=True)
    assert others[0] < mine[0] + again / 2
