"""The README's Python and the pages under docs/ run as they are, against the test Hub."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from huggingface_hub import HfApi

from puma_hub import (
    AdapterTrainer,
    ModelSpec,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaAdapter,
    PumaConfig,
    PumaTrainingArguments,
    pair_repo_id,
)
from puma_hub.cli.main import main
from puma_hub.data import load_interactions
from tests.conftest import CHAT_TEMPLATE, make_bank, make_interactions, make_model, make_tokenizer
from tests.hub_server import HubServer

DOCS = Path(__file__).parents[1] / "docs"
SOURCE, TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct", "google/gemma-3-270m"


def snippets(page: str, name: str) -> list[tuple[str, str]]:
    """Language and text of the blocks that are marked to be run."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"<!-- run: ([\w-]+) -->\n```(\w+)\n(.*?)```", text, re.S)
    assert found and len(found) == len(re.findall(r"^```(?:bash|python)", text, re.M)), "every block is run"
    return [(language, code) for marked, language, code in found if marked == name]


def run(page: str, name: str) -> str:
    """Run a page's blocks one after the other, Python in one namespace; return what they print."""
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for language, code in snippets(page, name):
            if language == "python":
                exec(compile(code, page, "exec"), names)
                continue
            for line in code.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(line)
                assert program == "puma-hub" and main(arguments) == 0, line
    return printed.getvalue()


@pytest.fixture
def place(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ratings.csv, and tiny models under the names that the pages use."""
    for repo_id, family in ((SOURCE, "llama"), (TARGET, "gemma3")):
        make_model(family).save_pretrained(tmp_path / family)
        tokenizer = make_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(tmp_path / family)
        hub.create_repository(repo_id, files={f.name: f.read_bytes() for f in (tmp_path / family).iterdir()})
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    make_interactions(users=10, rows=10).to_csv("ratings.csv", index=False)
    return tmp_path / "work"


def test_readme(place: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    source, target = names["source"], names["target"]
    assert isinstance(source, PromptBank) and isinstance(target, PromptBank)
    assert target.user_ids == source.user_ids and target.model.model_id == TARGET
    rows = names["teacher_rows"]
    assert isinstance(rows, datasets.Dataset) and "source_prediction" in rows.column_names  # the best way


def test_train_and_migrate(place: Path) -> None:
    printed = run("train.md", "train")
    assert "source_prediction" in printed and "'rmse': " in printed and "target {'own': " in printed
    target = PromptBank.from_pretrained(place / "target-bank")
    assert len(target) == 10 and target.model.model_id == TARGET
    assert PromptBank.from_pretrained(place / "target").user_ids == target.user_ids


def test_selection(place: Path) -> None:
    source = PersonalizedLM.from_pretrained(SOURCE)
    arguments = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    PromptTrainer(source, load_interactions("ratings.csv")["train"], arguments).train().save_pretrained("source/bank")
    assert run("selection.md", "selection").startswith("5\n")
    assert len(set((place / "users.txt").read_text().split())) == 5


def test_new_users(place: Path) -> None:
    rows = make_interactions(users=10, rows=10)
    source, target = (PersonalizedLM.from_pretrained(name) for name in (SOURCE, TARGET))
    arguments = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    bank = PromptTrainer(source, rows, arguments).train()
    bank.save_pretrained(place / "source" / "bank")
    AdapterTrainer(target, bank, rows, arguments).train().save_pretrained(place / "migrator" / "adapter")
    make_interactions(users=12, rows=10, seed=1).filter(lambda row: row["user_id"] in ("user-10", "user-11")).to_csv(
        "new-users.csv", index=False
    )
    printed = run("new_users.md", "new-users")
    assert " True\n10 -> 12 users" in printed
    migrated = PromptBank.from_pretrained(place / "target-bank")
    assert len(migrated) == 12 and migrated.provenance.details["own_source_bank"]


def test_without_labels(place: Path) -> None:
    source = PersonalizedLM.from_pretrained(SOURCE)
    arguments = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    rows = make_interactions(users=40, rows=5)
    bank = PromptTrainer(source, rows, arguments).train()
    bank.save_pretrained(place / "source" / "bank")
    texts = sorted(set(rows["item_text"][:]))
    datasets.Dataset.from_dict({"item_text": texts}).to_csv("items.csv", index=False)
    printed = run("without_labels.md", "without-labels")
    assert "label" not in printed.split("]")[0] and "PromptBank(1024 users" in printed
    adapter = PumaAdapter.from_pretrained(place / "migrator" / "adapter")
    migrated = adapter.migrate(bank)
    assert migrated.provenance.details["own_source_bank"] is True and migrated.user_ids == bank.user_ids


def test_publish_then_use_as_somebody_else(hub: HubServer, login: Callable[..., None], place: Path) -> None:
    login("alice")
    repo_id = pair_repo_id(SOURCE, TARGET, "alice")
    printed = run("publish.md", "publish")
    assert repo_id in printed
    card = hub.repository(repo_id).files()["README.md"].decode()
    for part in ("license: gemma", "Trained on 5 of 10 users (chosen by `puma`)", "`my-ratings`", "user mean (no LLM)"):
        assert part in card, part
    assert "new_version: alice/puma-smollm2-to-gemma-films" in card
    assert "user-3" not in card and str(place) not in card
    migrated = PromptBank.from_pretrained(place / "target-bank")
    PumaAdapter.from_pretrained(repo_id).save_pretrained(place / "puma-demo" / "adapter")  # as the demo leaves them
    PromptBank.from_pretrained(place / "source" / "bank").save_pretrained(place / "puma-demo" / "source-bank")
    assert f"PromptBank({len(migrated)} users" in run("migrate.md", "demo")
    login("bob")
    hub.empty_cache()
    printed = run("migrate.md", "use")
    assert repo_id in printed and "one direct adapter" in printed and '"kind": "bank"' in printed
    assert (PromptBank.from_pretrained(place / "target-bank").prompts == migrated.prompts).all()  # bit by bit
    assert repo_id in run("names.md", "names")
    assert HubServer.token("bob") not in printed and len(HfApi().list_repo_commits(repo_id)) >= 2


def test_banks_and_what_is_left_of_a_user(hub: HubServer, login: Callable[..., None], place: Path) -> None:
    login("alice")
    bank = make_bank(9)
    bank.save_pretrained(place / "source" / "bank")
    new = make_bank(12, seed=1, statistics=bank.statistics).select(["user-2", "user-10", "user-11"])
    new.save_pretrained(place / "new-users" / "bank")
    printed = run("banks.md", "banks")
    assert "['user-3', 'user-1'] (1, 32)" in printed and '"license": "cc-by-4.0"' in printed
    repository = hub.repository("lab/movie-prompts", "dataset")
    assert repository.private and len(repository.history()) == 1
    # Nothing of the deleted is left: in no revision, and in nothing that is kept beside them.
    kept = [
        *repository.objects.values(),
        *(blob.content for c in repository.commits.values() for blob in c.tree.values()),
    ]

    def is_kept(user: str) -> bool:
        return any(user.encode() in content or bank[user].tobytes() in content for content in kept)

    assert is_kept("user-4") and not is_kept("user-3") and not is_kept("user-5")
    newest = PromptBank.from_pretrained("lab/movie-prompts")
    assert newest.user_ids == sorted({*bank.user_ids, "user-10", "user-11"} - {"user-3", "user-5"})


def test_pipelines_as_somebody_else(hub: HubServer, login: Callable[..., None], place: Path) -> None:
    source, target = (
        ModelSpec.from_model(make_model(family), repo_id) for repo_id, family in ((SOURCE, "llama"), (TARGET, "gemma3"))
    )
    login("alice")
    make_bank(9).with_provenance(model=source).push_to_hub("alice/movie-prompts", private=False)
    PumaAdapter(PumaConfig(sources=[source], target=target, template="rating")).push_to_hub()
    login("bob")
    hub.empty_cache()
    printed = run("pipelines.md", "pipelines")
    assert "PromptBank(9 users, prompts 1 x 32, model 'google/gemma-3-270m')\n(1, 32) True" in printed
    assert "'distribution': {'1': 0." in printed and "rows, 2 of unknown users" in printed
    assert printed.count("'role': 'assistant'") == 2


def test_an_adapter_on_a_bank_trained_apart(hub: HubServer, place: Path) -> None:
    rows = make_interactions(users=40, rows=6)
    rows.to_csv("ratings.csv", index=False)
    later = rows.map(lambda row: {"timestamp": row["timestamp"] + 6})  # a head is not calibrated on rows of training
    later.to_csv("new-ratings.csv", index=False)
    source, target = (PersonalizedLM.from_pretrained(name) for name in (SOURCE, TARGET))
    arguments = {"num_train_epochs": 1, "disable_tqdm": True}
    banks = [PromptTrainer(source, rows, PumaTrainingArguments(seed=seed, **arguments)).train() for seed in (1, 2)]
    AdapterTrainer(target, banks[0], rows, PumaTrainingArguments(**arguments)).train().save_pretrained(
        place / "migrator" / "adapter"
    )
    banks[1].save_pretrained(place / "source" / "bank")
    printed = run("other_banks.md", "other-banks")
    assert '"own_source_bank": false' in printed and "True" in printed
    assert PromptBank.from_pretrained(place / "calibrated-bank").provenance.details["calibrated"]["rows"] == 240


def test_several_sources(hub: HubServer, place: Path) -> None:
    make_model("qwen3").save_pretrained(place / "qwen3")
    make_tokenizer().save_pretrained(place / "qwen3")
    hub.create_repository("Qwen/Qwen3-0.6B", files={f.name: f.read_bytes() for f in (place / "qwen3").iterdir()})
    rows = make_interactions(users=40, rows=6)
    rows.to_csv("ratings.csv", index=False)
    train = load_interactions("ratings.csv")["train"]
    arguments = PumaTrainingArguments(num_train_epochs=1, disable_tqdm=True)
    lms = [PersonalizedLM.from_pretrained(name) for name in (SOURCE, "Qwen/Qwen3-0.6B", TARGET)]
    for name, lm in zip("ab", lms):
        bank = PromptTrainer(lm, train, arguments).train()
        bank.remove([] if name == "a" else ["user-3"]).save_pretrained(place / name / "bank")
    onward = PumaConfig(sources=[lms[2].spec], target=lms[0].spec, template="rating")
    PumaAdapter(onward).save_pretrained(place / "onward" / "adapter")
    printed = run("several_sources.md", "several")
    assert "4. migrated from 3: HuggingFaceTB/SmolLM2-135M-Instruct" in printed
    moved = PromptBank.from_pretrained(place / "target-bank")
    assert len(moved) == 40 and moved.provenance.details["missing"] == {"policy": "predict", "users_filled": [0, 1]}


def test_engines(place: Path, login: Callable[..., None]) -> None:
    login("alice")
    spec = ModelSpec.from_model(make_model("gemma3"), TARGET)
    make_bank(template="rating").with_provenance(model=spec).push_to_hub("alice/movie-prompts")
    printed = run("engines.md", "engines")
    assert "'logprob_token_ids'" in printed and "'prompt_embeds'" in printed and "'5': 0.2" in printed
    assert (place / "serving.json").is_file()


def test_peft(place: Path) -> None:
    import peft

    source = PersonalizedLM.from_pretrained(SOURCE)
    make_bank(9, template="rating", task=source.task).with_provenance(model=source.spec).save_pretrained("source/bank")
    for user in ("ann", "bob"):
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        model = peft.get_peft_model(make_model("llama"), config)
        model.save_pretrained(place / "adapters" / user, save_embedding_layers=False)
    printed = run("peft.md", "peft")
    assert "TRAINABLE_TOKENS (399,) (" in printed and "tensor([0." in printed
    assert "PromptBank(2 users, prompts 2 x 32" in printed and "<user> <item>" in printed
    assert PromptBank.from_pretrained(place / "peft-bank").user_ids == ["ann", "bob"]


def test_operate(place: Path) -> None:
    source, target = (PersonalizedLM.from_pretrained(name) for name in (SOURCE, TARGET))
    make_interactions(users=12, rows=10).to_csv("ratings.csv", index=False)
    bank = make_bank(12, template="rating").with_provenance(model=source.spec)
    adapter = PumaAdapter(PumaConfig(sources=[source.spec], target=target.spec)).eval()
    adapter.save_pretrained(place / "migrator" / "adapter")
    bank.save_pretrained(place / "source" / "bank")
    adapter.migrate(bank).save_pretrained(place / "target-bank")
    (place / "users.txt").write_text("user-1\nuser-2\n")
    printed = run("operate.md", "operate")
    assert "rmse on 20 rows of 10 users" in printed and "pass users >= 5: 10" in printed
    assert "\nFAIL worse_share <= 0.05: it is not defined" in printed  # of two rows a user
    page = (place / "report.html").read_text(encoding="utf-8")
    assert "20 held-out rows of 10 users" in page and "never trained on (those it trained on: 2 left out)" in page
