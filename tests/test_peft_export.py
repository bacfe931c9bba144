"""Prompts of a bank as PEFT adapters: plain PEFT and plain transformers give the scorer's own logits."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from puma_hub import ClickTask, ModelSpec, PersonalizedLM, PromptBank, PromptTemplate, PumaHubError
from puma_hub.bank.peft_files import PeftExport
from puma_hub.errors import (
    BankError,
    ConfigurationError,
    MismatchError,
    StorageError,
    UnknownUserError,
    UnsupportedModelError,
)
from puma_hub.scorer.embedding_scale import embedding_scale
from puma_hub.scorer.encoding import with_tokens
from puma_hub.scorer.spare_tokens import spare_tokens
from tests.conftest import NAMED_FAMILIES, make_model, make_tokenizer
from tests.tiny_models import make_tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import LoraConfig, PeftModel, get_peft_model

USER = "somebody's id ü"
FRONT = "<user> Movie: <item>. Rating:"
ROWS = [{"item_text": text} for text in ("Toy Story (1995)", "A rather long title about nothing", "x")]
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "puma_hub.json"]


def bank_of(lm: PersonalizedLM, length: int = 3, **facts: object) -> PromptBank:
    """One user's prompt, as large as the model's embeddings."""
    prompt = lm.embedding_rms * np.random.default_rng(0).normal(size=(1, length, lm.hidden_size))
    known: dict[str, Any] = {"template": lm.template, "task": lm.task, **facts}
    return PromptBank.from_arrays([USER], prompt, lm.spec, **known)


def of_scorer(lm: PersonalizedLM, bank: PromptBank) -> torch.Tensor:
    """The scorer's own answer logits of the rows, ``(rows, answers)``."""
    with torch.no_grad():
        return lm.logits(torch.from_numpy(np.repeat(bank[USER][None], len(ROWS), axis=0)), ROWS)


def of_peft(model: PreTrainedModel, lm: PersonalizedLM, bank: PromptBank, export: PeftExport) -> torch.Tensor:
    """Logits of plain PEFT for the last position, ``(rows, vocabulary)``. Loading it gives no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # of transformers about its own names
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = PeftModel.from_pretrained(model, str(export.path)).eval()
    encoded = lm.encode(ROWS, bank.shape[0])
    ids = [with_tokens(row, {"user": export.slot_ids}) for row in encoded.segments]
    with torch.no_grad():
        return torch.stack([loaded(input_ids=torch.tensor([row])).logits[0, -1] for row in ids])


def tokenizer_with_bos(bos: str = "<s>") -> PreTrainedTokenizerFast:
    """As the tests' own, with ``bos`` before every text."""
    plain = make_tokenizer()
    plain.add_tokens([AddedToken(bos, special=True)])
    inner = plain.backend_tokenizer
    number = plain.convert_tokens_to_ids(bos)
    inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token="</s>", unk_token="<unk>")


# The same logits


@pytest.mark.parametrize(("template", "kind"), [("rating", "TRAINABLE_TOKENS"), (FRONT, "PROMPT_TUNING")])
@pytest.mark.parametrize("family", NAMED_FAMILIES)
def test_plain_peft_gives_the_scorers_logits(
    family: str, template: str, kind: str, saved_lm: Callable[..., str], tmp_path: Path
) -> None:
    folder = saved_lm(family)
    lm = PersonalizedLM.from_pretrained(folder, template=template)
    bank = bank_of(lm)
    export = bank.to_peft(USER, tmp_path / "out", model=folder)
    assert export.peft_type == kind and export.path == tmp_path / "out" and sorted(os.listdir(export.path)) == FILES
    assert len(export.slot_ids) == (3 if kind == "TRAINABLE_TOKENS" else 0)
    found = of_peft(AutoModelForCausalLM.from_pretrained(folder), lm, bank, export)
    assert (found[:, list(export.answer_ids)] - of_scorer(lm, bank)).abs().max() < 1e-4
    assert export.answer_ids == tuple(lm.answer_ids) and export.answer_texts == lm.answer_texts
    ready = bank.to_peft(USER, tmp_path / "of-scorer", model=lm)  # the same from a loaded scorer
    assert ready == export
    files = [load_file(one.path / "adapter_model.safetensors") for one in (export, ready)]
    assert files[0].keys() == files[1].keys() and all(torch.equal(files[0][key], files[1][key]) for key in files[0])


@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma2", "cohere"])
def test_tied_embeddings_change_no_other_tokens_logits(
    family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = make_model(family, tie_word_embeddings=True)
    lm = PersonalizedLM(model, tokenizer, model_id="tiny/model")
    bank = bank_of(lm)
    export = bank.to_peft(USER, tmp_path / "out", model=model, tokenizer=tokenizer)
    found = of_peft(make_model(family, tie_word_embeddings=True), lm, bank, export)
    with torch.no_grad():  # the plain model on embeddings, independent of the scorer
        embeds = []
        for before, _, after in lm.encode(ROWS, 3).segments:
            layer = model.get_input_embeddings()
            text = [layer(torch.tensor(part)) for part in (before, after)]
            embeds.append(torch.cat([text[0], torch.from_numpy(bank[USER].copy()), text[1]])[None])
        plain = torch.cat([model(inputs_embeds=one).logits[:, -1] for one in embeds])
    others = torch.ones(plain.shape[1], dtype=torch.bool)
    others[list(export.slot_ids)] = False
    assert (found - plain)[:, others].abs().max() < 1e-4
    assert (found - plain)[:, ~others].abs().max() > 1e-2  # as the card says


def test_generation_without_the_spare_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    lm = PersonalizedLM(make_model("gemma3"), tokenizer, template="A story for <user>:", model_id="tiny/model")
    bank = bank_of(lm, task=None)
    export = bank.to_peft(USER, tmp_path / "out", model=lm)
    loaded = PeftModel.from_pretrained(make_model("gemma3"), str(export.path))
    ids = torch.tensor([export.example_ids])
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    written = loaded.generate(input_ids=ids, suppress_tokens=list(export.slot_ids), **options)[0, ids.shape[1] :]
    expected = lm.generate(
        "A story for <user>:", torch.from_numpy(bank[USER].copy()), suppress_tokens=list(export.slot_ids), **options
    )
    assert tokenizer.decode(written, skip_special_tokens=True) == expected != ""


def test_a_leading_bos_keeps_its_place(tmp_path: Path) -> None:
    tokenizer = tokenizer_with_bos()
    lm = PersonalizedLM(make_model("llama"), tokenizer, template=FRONT, model_id="tiny/model")
    bank = bank_of(lm)
    export = bank.to_peft(USER, tmp_path / "out", model=lm)
    (bos,) = export.leading_ids
    assert export.peft_type == "TRAINABLE_TOKENS" and export.example_ids[:4] == (bos, *export.slot_ids)
    found = of_peft(make_model("llama"), lm, bank, export)
    assert (found[:, lm.answer_ids] - of_scorer(lm, bank)).abs().max() < 1e-4


def test_a_prompt_in_front_that_peft_would_not_find_the_embeddings_for(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = make_model("llama")
    model.config.vocab_size = 390  # fewer than rows, as in models of text and images
    lm = PersonalizedLM(model, tokenizer, template=FRONT, model_id="tiny/model")
    bank = bank_of(lm)
    export = bank.to_peft(USER, tmp_path / "out", model=lm)
    assert export.peft_type == "TRAINABLE_TOKENS" and export.example_ids[:3] == export.slot_ids
    found = of_peft(model, lm, bank, export)
    assert (found[:, lm.answer_ids] - of_scorer(lm, bank)).abs().max() < 1e-4


def test_a_scale_is_measured_and_not_looked_up() -> None:
    assert embedding_scale(make_model("llama")) == embedding_scale(make_model("granite")) == 1.0
    gemma = make_model("gemma3")
    assert embedding_scale(gemma) == pytest.approx(32**0.5, rel=1e-6)
    assert embedding_scale(gemma.to(torch.bfloat16)) == pytest.approx(32**0.5, rel=2**-8)

    class Shifted(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + 1

    class Hidden(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 3

    model = make_model("llama")
    model.set_input_embeddings(Shifted(400, 32))
    with pytest.raises(UnsupportedModelError, match="more than multiply its rows by one number"):
        embedding_scale(model)
    model.set_input_embeddings(Hidden(400, 32))  # PEFT would leave this factor out
    assert embedding_scale(model) == pytest.approx(3.0)
    lm_bank = PromptBank.from_arrays(["a"], np.ones((1, 1, 32)), ModelSpec.from_model(model, "m"), template="rating")
    with pytest.raises(UnsupportedModelError, match=r"computes what PEFT's TRAINABLE_TOKENS does not \(a scale of 3\)"):
        lm_bank.to_peft("a", "never", model=model, tokenizer=make_tokenizer())
    assert not os.path.exists("never")


# Spare tokens


def test_spare_tokens_are_the_last_that_nothing_uses(tokenizer: PreTrainedTokenizerFast) -> None:
    assert spare_tokens(make_model("llama"), tokenizer, 2) == [398, 399] and len(tokenizer) < 398
    busy = make_model("llama", pad_token_id=399)
    busy.generation_config.eos_token_id = [1, 397]
    assert spare_tokens(busy, tokenizer, 2) == [396, 398]


def test_reserved_tokens_where_the_vocabulary_fills_the_matrix() -> None:
    tokenizer = make_tokenizer()
    names = ["<unused0>", "<|reserved_special_token_1|>", "<|reserved_special_token_2|>", "<|placeholder3|>", "unused4"]
    tokenizer.add_tokens([AddedToken(name, special=name.startswith("<|r")) for name in names])
    model = make_model("llama", vocab_size=len(tokenizer))
    of = tokenizer.convert_tokens_to_ids
    assert spare_tokens(model, tokenizer, 4) == [of(name) for name in names[:4]]
    tokenizer.chat_template = "<|reserved_special_token_2|>{{ messages }}"
    model.config.eos_token_id = of("<|placeholder3|>")
    tokenizer.pad_token = "<unused0>"
    assert spare_tokens(model, tokenizer, 1) == [of("<|reserved_special_token_1|>")]
    with pytest.raises(UnsupportedModelError, match="of 2 vectors needs 2 spare tokens, LlamaForCausalLM has 1"):
        spare_tokens(model, tokenizer, 2)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_remedy_for_too_few_spare_tokens(family: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    model = make_model(family, vocab_size=len(tokenizer))
    lm = PersonalizedLM(model, tokenizer, model_id="tiny/model")
    bank = bank_of(lm)
    with pytest.raises(UnsupportedModelError, match=r"has 0 .*model.resize_token_embeddings\((\d+)\)") as refused:
        bank.to_peft(USER, tmp_path / "out", model=lm)
    assert not (tmp_path / "out").exists()
    size = int(re.findall(r"resize_token_embeddings\((\d+)\)", str(refused.value))[0])
    expected = of_scorer(lm, bank)
    model.resize_token_embeddings(size)
    model.save_pretrained(tmp_path / "larger")
    tokenizer.save_pretrained(tmp_path / "larger")
    moved = bank.with_provenance(model=ModelSpec.from_model(model))
    export = moved.to_peft(USER, tmp_path / "out", model=tmp_path / "larger")
    larger = AutoModelForCausalLM.from_pretrained(tmp_path / "larger")
    found = of_peft(larger, PersonalizedLM(model, tokenizer), moved, export)
    assert (found[:, list(export.answer_ids)] - expected).abs().max() < 1e-4


# What the folder tells


def test_the_folder_names_neither_the_user_nor_the_machine(saved_lm: Callable[..., str], tmp_path: Path) -> None:
    folder = saved_lm("llama")
    lm = PersonalizedLM.from_pretrained(folder)
    assert lm.spec.model_id == folder
    export = bank_of(lm).to_peft(USER, tmp_path / "out")  # by the bank's own name of its LLM
    for path in export.path.iterdir():
        content = path.read_bytes()
        for secret in (USER.encode(), json.dumps(USER)[1:-1].encode(), str(tmp_path).encode(), b"somebody"):
            assert secret not in content, path.name
    config = json.loads((export.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None and config["token_indices"] == list(export.slot_ids)
    named = bank_of(lm).with_provenance(
        model=ModelSpec("org/llama", 32, revision="v1", fingerprint=lm.spec.fingerprint)
    )
    named.to_peft(USER, tmp_path / "out", model=folder)  # over the first one
    config = json.loads((export.path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/llama", "v1")
    facts = json.loads((export.path / "puma_hub.json").read_text())
    assert facts["model"]["model_id"] == "org/llama" and facts["model"]["fingerprint"] == lm.spec.fingerprint
    assert PeftExport.from_dict(facts, export.path, "it").template == lm.template.text
    assert "base_model: org/llama" in (export.path / "README.md").read_text()


def prefixing_tokenizer() -> PreTrainedTokenizerFast:
    """Puts a space before every text, as Llama 2's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["A title by the viewer: 1 2 3 4 5", "Rating by one user: \n4"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("template", ["<item> Rating by one user:<user> the viewer:", "<user> Title: <item>: "])
@pytest.mark.parametrize("make", [make_tokenizer, tokenizer_with_bos, prefixing_tokenizer])
def test_the_cards_code_runs(make: Callable[[], PreTrainedTokenizerFast], template: str, tmp_path: Path) -> None:
    tokenizer = make()
    base = tmp_path / "base"
    make_model("gemma3").save_pretrained(base)
    tokenizer.save_pretrained(base)
    lm = PersonalizedLM.from_pretrained(str(base), template=template)
    bank = bank_of(lm)
    export = bank.to_peft(USER, tmp_path / "out", model=lm)
    (code,) = re.findall(r"```python\n(.*?)```", (export.path / "README.md").read_text(encoding="utf-8"), re.S)
    code = code.replace("this folder or repository", str(export.path))
    code = code.replace("the folder or repository of the LLM", str(base))
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "README.md", "exec"), names)
    assert names["ids"] == list(export.example_ids) and "tensor([" in printed.getvalue()
    with torch.no_grad():
        expected = lm.logits(torch.from_numpy(bank[USER].copy())[None], [{"item_text": "A title"}])[0]
    assert (names["logits"][list(export.answer_ids)] - expected).abs().max() < 1e-4


def test_banks_that_record_less(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = make_model("llama")
    plain = PromptBank.from_arrays(["a"], np.ones((1, 2, 32)), ModelSpec.from_model(model, "tiny/model"))
    export = plain.to_peft("a", tmp_path / "1", model=model, tokenizer=tokenizer)
    assert export.task is None and export.answer_ids == () and export.template == PromptTemplate.of("rating").text


# What is refused


def refused(kind: type[PumaHubError], match: str, call: Callable[[], object], out: Path) -> None:
    with pytest.raises(kind, match=match) as found:
        call()
    assert USER not in str(found.value) and not out.exists()


def test_what_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model, out = make_model("llama"), tmp_path / "out"
    lm = PersonalizedLM(model, tokenizer, model_id="tiny/model")
    bank = bank_of(lm)
    loaded = {"model": model, "tokenizer": tokenizer}
    refused(UnknownUserError, "not among the 1 users", lambda: bank.to_peft("x", out, model=lm), out)
    refused(BankError, "a string", lambda: bank.to_peft([USER], out, model=lm), out)  # type: ignore[arg-type]
    items = bank.with_provenance(owners="items")
    refused(MismatchError, "holds prompts of items", lambda: items.to_peft(USER, out, model=lm), out)
    other = {"model": make_model("llama", seed=1), "tokenizer": tokenizer}
    refused(MismatchError, "which has other weights", lambda: bank.to_peft(USER, out, **other), out)  # type: ignore[arg-type]
    beside = bank.with_provenance(template="rating-items")
    refused(ConfigurationError, "two soft slots", lambda: beside.to_peft(USER, out, **loaded), out)  # type: ignore[arg-type]
    given = bank.with_provenance(details={"given": {"owners": "items"}})
    refused(MismatchError, "read along with prompts of items", lambda: given.to_peft(USER, out, model=lm), out)
    refused(ConfigurationError, "needs its tokenizer", lambda: bank.to_peft(USER, out, model=model), out)
    own = {"model": lm, "template": "click"}
    refused(ConfigurationError, "its own tokenizer and template", lambda: bank.to_peft(USER, out, **own), out)  # type: ignore[arg-type]
    clicks = bank.with_provenance(task=ClickTask())
    refused(MismatchError, "another task", lambda: clicks.to_peft(USER, out, model=lm), out)
    texts = bank.with_provenance(details={"answer_texts": ["a", "b", "c", "d", "e"]})
    refused(MismatchError, "other texts for the answers", lambda: texts.to_peft(USER, out, **loaded), out)  # type: ignore[arg-type]
    refused(MismatchError, "the template", lambda: bank.to_peft(USER, out, **loaded, template=FRONT), out)  # type: ignore[arg-type]
    refused(StorageError, "holds no model", lambda: bank.to_peft(USER, out, model=tmp_path), out)


def test_models_that_peft_computes_otherwise(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tied = make_model("phi", tie_word_embeddings=True)  # its output layer has a bias
    lm = PersonalizedLM(tied, tokenizer, model_id="tiny/model")
    out = tmp_path / "out"
    refused(
        UnsupportedModelError, r"leaves out the rest \(a bias\)", lambda: bank_of(lm).to_peft(USER, out, model=lm), out
    )
    layered = PersonalizedLM(make_tiny("Gemma3nForCausalLM"), tokenizer, model_id="tiny/layered", prefix_cache="off")
    bank = bank_of(layered)
    refused(UnsupportedModelError, "for every layer", lambda: bank.to_peft(USER, out, model=layered), out)


def test_what_others_put_into_the_folder_stays(make_lm: Callable[..., PersonalizedLM], tmp_path: Path) -> None:
    lm = make_lm()
    bank = bank_of(lm)
    get_peft_model(make_model("llama"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    before = {path.name: path.read_bytes() for path in (tmp_path / "lora").iterdir()}
    with pytest.raises(StorageError, match=r"is not a prompt as a PEFT adapter \(puma_hub.json missing\)"):
        bank.to_peft(USER, tmp_path / "lora", model=lm)
    assert {path.name: path.read_bytes() for path in (tmp_path / "lora").iterdir()} == before
    bank.to_peft(USER, tmp_path / "mine", model=lm)
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"notes\.txt"):
        bank.to_peft(USER, tmp_path / "mine", model=lm)
    bank.save_pretrained(tmp_path / "bank")
    with pytest.raises(StorageError, match="bank"):
        bank.to_peft(USER, tmp_path / "bank", model=lm)
    assert len(PromptBank.from_pretrained(tmp_path / "bank")) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="it is a file"):
        bank.to_peft(USER, tmp_path / "file", model=lm)


def test_an_export_that_fails_leaves_the_one_before(
    make_lm: Callable[..., PersonalizedLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm()
    bank = bank_of(lm)
    export = bank.to_peft(USER, tmp_path / "out", model=lm)
    before = {path.name: path.read_bytes() for path in export.path.iterdir()}

    def full(tensors: object, path: Path, metadata: object = None) -> None:
        save_file({}, path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("puma_hub.bank.peft_export.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        bank_of(lm, length=2).to_peft(USER, export.path, model=lm)
    assert {path.name: path.read_bytes() for path in export.path.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
