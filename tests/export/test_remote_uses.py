"""What people do with a model they downloaded: fine-tune, save, score, serve it in other types; and what is refused."""

import json
import sys

import pytest
import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from trl import SFTConfig, SFTTrainer

from mfa_train.export.formats.llama import Llama
from mfa_train.export.formats.step3 import Step3
from mfa_train.model.generation import generate
from tests.export.remote_folders import loaded, written


def tokens(batch: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(1, 199, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of MFA."""
    path = tmp_path_factory.mktemp("remote") / "out"
    written(path, "mfa", "attention.output_gate=element")
    return path


def test_labels_give_the_loss_of_transformers_own_models(tmp_path):
    """Over padding and over a number of items, with checkpointed activations, from embeddings, as a tuple."""
    written(tmp_path / "remote", "gqa")
    written(tmp_path / "native", "gqa", form=Llama)
    remote, native = loaded(tmp_path / "remote"), AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    x, mask = tokens(), torch.ones(2, 24, dtype=torch.long)
    mask[1, 15:] = 0
    batch = {"attention_mask": mask, "labels": x.masked_fill(mask == 0, -100), "num_items_in_batch": torch.tensor(50)}
    grads = []
    for model in (remote.train(), native.train()):
        out = model(input_ids=x, **batch)
        out.loss.backward()
        grads.append(
            [out.loss, model.model.embed_tokens.weight.grad, model.model.layers[0].self_attn.k_proj.weight.grad]
        )
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)

    remote.zero_grad()
    remote.gradient_checkpointing_enable()
    loss, logits, *_ = remote(inputs_embeds=remote.get_input_embeddings()(x), **batch, return_dict=False)
    loss.backward()
    torch.testing.assert_close(remote.model.embed_tokens.weight.grad, grads[0][1], rtol=1e-4, atol=1e-6)
    assert remote(x, logits_to_keep=3).logits.equal(remote(x).logits[:, -3:]) and logits.shape == (2, 24, 199)


def test_a_lora_step_is_taken_saved_and_heard_in_generation(folder, tmp_path):
    base = loaded(folder)
    adapted = get_peft_model(
        base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    )
    adapted(input_ids=tokens(), labels=tokens()).loss.backward()
    torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 0.1).step()
    generated = adapted.generate(input_ids=tokens(length=5), max_new_tokens=4, do_sample=False, eos_token_id=None)
    merged = adapted.merge_and_unload()
    expected = merged.generate(tokens(length=5), max_new_tokens=4, do_sample=False, eos_token_id=None, use_cache=False)
    assert generated.equal(expected)
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert loaded(tmp_path / "merged")(tokens()).logits.equal(merged(tokens()).logits)


@pytest.mark.parametrize("attention", ["mla", "gla", "deepseek_v4"])
def test_an_adapter_of_every_linear_is_heard_while_decoding(attention, tmp_path):
    """MLA's decoding would read the weights of its up-projection past an adapter around it."""
    written(tmp_path / "out", attention)
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(loaded(tmp_path / "out"), config)
    x = tokens(length=8)
    with torch.no_grad():
        cache = adapted(input_ids=x[:, :7], use_cache=True).cache
        decoded = adapted(input_ids=x[:, 7:], cache=cache).logits
        torch.testing.assert_close(decoded, adapted(input_ids=x).logits[:, 7:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_a_step_of_supervised_fine_tuning_is_taken(packing, folder, tmp_path):
    args = SFTConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, max_length=32,
        packing=packing, save_strategy="no", learning_rate=1e-2, gradient_checkpointing=packing, disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["ab", "c", "def"], "completion": ["cd", "ef", "g h i"]})
    model = loaded(folder)
    before = model.lm_head.weight.clone()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    trainer = SFTTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    given = []
    model.register_forward_pre_hook(lambda module, args, named: given.append(named.keys()), with_kwargs=True)
    trainer.train()
    assert packing == ("position_ids" in given[0]) != ("attention_mask" in given[0])
    assert trainer.state.log_history[-1]["train_loss"] > 0 and not before.equal(model.lm_head.weight)


def test_lm_eval_scores_it_as_its_own_logits_say(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mfa_train", None)
        lm = HFLM(pretrained=str(folder), trust_remote_code=True, device="cpu", dtype="float32", batch_size=2)
    texts = [("a cat", " sat"), ("the", " longer end of it"), ("x", "y")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in texts]
    for (context, end), (found, _) in zip(texts, lm.loglikelihood(requests)):
        ids = torch.tensor([lm.tok_encode(context) + lm.tok_encode(end)])
        with torch.no_grad():
            scores = lm.model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        assert found == pytest.approx(scores[len(lm.tok_encode(context)) - 1 :].sum().item(), abs=1e-4)
    ends = [Instance("generate_until", {}, (text, {"until": ["\n"], "max_gen_toks": 4}), 0) for text in ("a cat", "x")]
    assert len(lm.generate_until(ends)) == 2


def test_it_saves_what_it_loads_again(folder, tmp_path):
    """With the code, in another type, and from a config alone."""
    model = loaded(folder)
    model.save_pretrained(tmp_path / "saved", max_shard_size="100KB")
    assert (tmp_path / "saved/modeling_mfa_train.py").read_bytes() == (folder / "modeling_mfa_train.py").read_bytes()
    again = loaded(tmp_path / "saved", device_map="cpu")
    half = loaded(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = model(tokens()).logits
        assert again(tokens()).logits.equal(expected)
        assert half.dtype == torch.bfloat16 and (half(tokens()).logits - expected).abs().max() < 0.3
    assert half.model.rope.inverse_frequencies.equal(model.model.rope.inverse_frequencies)
    assert loaded(tmp_path / "saved", dtype="auto").dtype == torch.float32
    fresh = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True
    )
    assert fresh(tokens()).logits.std() < expected.std() and fresh.num_parameters() == model.num_parameters()


def test_a_folder_that_vllm_serves_stays_one_when_it_is_saved(tmp_path):
    """Under the name of Step-3, whose weights are other ones."""
    ours = written(tmp_path / "out", "mfa", "attention.rope_interleave=true", form=Step3)
    model = loaded(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()).logits, ours(tokens()), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "saved"))
    assert before["model_type"] == "step3_text" and {key: after.get(key) for key in before} == before


def test_a_cache_in_another_type_and_one_that_goes_on(folder):
    ours, model, x = (
        written(folder.parent / "same", "mfa", "attention.output_gate=element"),
        loaded(folder),
        tokens(length=9),
    )
    choices = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    first = model.generate(x, **choices)
    second = model.generate(first.sequences, cache=first.cache, **choices)
    assert second.sequences.equal(generate(ours, x, 6, temperature=0.0)) and second.cache is first.cache
    eighth = type(first.cache)(2, dtype=torch.float8_e4m3fn)
    model.generate(x, cache=eighth, **choices)
    assert eighth.bytes_per_token * 4 == first.cache.bytes_per_token + 2 * 2 * 4  # a scale a tensor and layer
    with torch.no_grad():
        cache = model(x, use_cache=True).cache
        cache.crop(-4)
        cache.batch_repeat_interleave(2)
        torch.testing.assert_close(
            model(x[:, 5:].repeat_interleave(2, 0), cache=cache).logits, model(x).logits[:, 5:].repeat_interleave(2, 0)
        )


def test_what_would_be_read_otherwise_than_meant_is_refused(folder):
    model, x = loaded(folder), tokens(length=6)
    ones = torch.ones(2, 6)
    with torch.no_grad():
        filled = model(x, use_cache=True).cache
        for wrong, said in (
            ({"attention_mask": torch.ones(2, 1, 6, 6)}, "attention_mask of shape"),
            ({"attention_mask": ones, "cache": filled}, "attention_mask of shape"),
            ({"attention_mask": torch.cat([ones * 0, ones], 1), "cache": filled}, "shows others"),
            ({"position_ids": torch.arange(6).expand(2, -1), "cache": filled}, "position_ids"),
            ({"position_ids": torch.arange(5).expand(2, -1)}, "position_ids of shape"),
            ({"cu_seq_lens_q": torch.tensor([0, 6])}, "position_ids"),
            ({"cache": DynamicCache()}, "DynamicCache"),
            ({"output_attentions": True}, "output_attentions"),
            ({"inputs_embeds": torch.zeros(2, 6, 64)}, "input_ids"),
        ):
            with pytest.raises(ValueError, match=said):
                model(x, **wrong)
    with pytest.raises(ValueError, match="cache_implementation=static"):
        model.generate(x, cache_implementation="static", max_new_tokens=2)
    with pytest.raises(ValueError, match="position_ids"):
        model.generate(x, position_ids=torch.zeros(2, 6, dtype=torch.long), max_new_tokens=2)
