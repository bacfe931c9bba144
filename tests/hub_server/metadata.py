"""Facts that the Hub derives from a repository: the card's YAML, its checks, and tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.hub_server.storage import MAIN, Blob, Commit, Repository

_HEADER = re.compile(r"\A(?:﻿)?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
RELATIONS = ("adapter", "finetune", "merge", "quantized")
# The licenses of the Hub that are likely on cards in these tests.
_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 afl-3.0 artistic-2.0
bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl
mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2
llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown other
"""
LICENSES = frozenset(_LICENSES.split())


def header(content: str) -> str | None:
    """The YAML block at the start of a card."""
    found = _HEADER.match(content)
    return found.group(1) if found else None


def card_data(tree: Mapping[str, Blob]) -> dict[str, Any] | None:
    """The card's metadata, or None without a readable card."""
    if "README.md" not in tree:
        return None
    try:
        block = header(tree["README.md"].content.decode())
        data = yaml.safe_load(block) if block else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return json.loads(json.dumps(data, default=str)) if isinstance(data, dict) else None  # dates become text


def check(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a card, as ``validate-yaml`` gives them."""
    block = header(content)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(block)
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if not isinstance(data, dict):
        return ["YAML Metadata Error: the metadata must be a mapping"], []
    return _check_fields(data), []


def _check_fields(data: dict[str, Any]) -> list[str]:
    errors = []
    for license_id in _texts(data.get("license")):
        if license_id not in LICENSES:
            errors.append(f'"license" must be one of the Hub\'s licenses, not {license_id!r}')
    for model in _texts(data.get("base_model")):
        if not isinstance(model, str) or not _REPO_ID.fullmatch(model) or ".." in model or "--" in model:
            errors.append(f'"base_model" with value {model!r} is not valid. Use a model id from the Hub.')
    relation = data.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of {list(RELATIONS)}, not {relation!r}')
    for key in ("tags", "datasets", "metrics"):
        value = data.get(key, [])
        if not isinstance(value, (list, str)) or any(not isinstance(entry, str) for entry in value):
            errors.append(f'"{key}" must be a list of strings')
    for key in ("library_name", "pipeline_tag", "license_name", "license_link"):
        if not isinstance(data.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    return errors + _check_index(data.get("model-index", []))


def _check_index(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        where = f"model-index[{i}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"{where}.name" is required')
            continue
        if not isinstance(model.get("results"), list):
            errors.append(f'"{where}.results" is required')
            continue
        for j, result in enumerate(model["results"]):
            errors += _check_result(f"{where}.results[{j}]", result)
    return errors


def _check_result(where: str, result: Any) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{where}" must be an object']
    errors = []
    if not (result.get("task") or {}).get("type"):
        errors.append(f'"{where}.task.type" is required')
    dataset = result.get("dataset")
    if dataset is not None and not ({"type", "name"} <= set(dataset) and all(dataset[key] for key in ("type", "name"))):
        errors.append(f'"{where}.dataset" needs a type and a name')
    if not result.get("metrics"):
        errors.append(f'"{where}.metrics" is required')
    for k, metric in enumerate(result.get("metrics") or []):
        if "type" not in metric or "value" not in metric:
            errors.append(f'"{where}.metrics[{k}]" needs a type and a value')
    return errors


def tags(repository: Repository, commit: Commit) -> list[str]:
    """The tags the Hub shows and filters by."""
    data = card_data(commit.tree) or {}
    found: list[str] = []
    if repository.type == "model":
        library, config = library_name(commit), _config(commit)
        found += [library] if library else []
        found += ["safetensors"] if any(path.endswith(".safetensors") for path in commit.tree) else []
        found += [config["model_type"]] if isinstance(config.get("model_type"), str) else []
        found += _texts(data.get("pipeline_tag"))
        found += ["model-index"] if data.get("model-index") else []
    found += _texts(data.get("tags"))
    for key, prefix in (("language", "language:"), ("task_categories", "task_categories:"), ("task_ids", "task_ids:")):
        plain = key == "language" and repository.type == "model"
        found += [value if plain else prefix + value for value in _texts(data.get(key))]
    found += [f"size_categories:{value}" for value in _texts(data.get("size_categories"))]
    found += [f"dataset:{value}" for value in _texts(data.get("datasets")) if repository.type == "model"]
    if repository.type == "model":
        bases = _texts(data.get("base_model"))
        found += [f"base_model:{base}" for base in bases]
        found += [f"base_model:{relation(data)}:{base}" for base in bases]
    found += [f"license:{value}" for value in _texts(data.get("license"))]
    if repository.type == "dataset" and any(path.endswith(".parquet") for path in commit.tree):
        found.append("format:parquet")
    return list(dict.fromkeys(str(tag) for tag in [*found, "region:us"]))


def relation(data: Mapping[str, Any]) -> str:
    """The relation of a model to its base models; if the card does not state it, guessed as the Hub does."""
    if data.get("base_model_relation"):
        return str(data["base_model_relation"])
    if data.get("library_name") == "peft":
        return "adapter"
    return "merge" if len(_texts(data.get("base_model"))) > 1 else "finetune"


def library_name(commit: Commit) -> str | None:
    data = card_data(commit.tree) or {}
    return data.get("library_name") or ("transformers" if "config.json" in commit.tree else None)


def describe(repository: Repository, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """All facts about a repository at a commit. Most requests get only some of them."""
    data = card_data(commit.tree)
    facts: dict[str, Any] = {
        "_id": repository.id,
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit.oid,
        "createdAt": repository.created_at,
        "lastModified": repository.resolve(MAIN).date,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "downloadsAllTime": 0,
        "likes": 0,
        "trendingScore": 0,
        "tags": tags(repository, commit),
        "cardData": data,
        "siblings": [_sibling(path, blob, blobs) for path, blob in sorted(commit.tree.items())],
        "usedStorage": sum(len(content) for content in repository.objects.values()),
    }
    if repository.type == "model":
        bases = _texts((data or {}).get("base_model"))
        facts |= {
            "modelId": repository.id,
            "library_name": library_name(commit),
            "pipeline_tag": (data or {}).get("pipeline_tag"),
            "model-index": (data or {}).get("model-index"),
            "config": {key: value for key, value in _config(commit).items() if key in ("architectures", "model_type")},
            "baseModels": {"relation": relation(data or {}), "models": [{"id": base} for base in bases]}
            if bases
            else None,
        }
    return facts


def _sibling(path: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path}
    if blobs:
        entry |= {"size": len(blob.content), "blobId": blob.oid}
        if blob.lfs:
            entry["lfs"] = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return entry


def _config(commit: Commit) -> dict[str, Any]:
    try:
        config = json.loads(commit.tree["config.json"].content)
    except (KeyError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _texts(value: Any) -> list[Any]:
    """The entries of a card's field, which may be one entry or a list."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]
