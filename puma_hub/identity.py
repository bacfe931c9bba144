"""The identity of a language model: its name, its size and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from puma_hub.errors import ConfigurationError, MismatchError, shown
from puma_hub.limits import MAX_HIDDEN_SIZE, require_text, require_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HASHED_CONFIG = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)
_ROWS_AT_ONCE = 16_384


def fingerprint(model: PreTrainedModel) -> str:
    """Hash what makes a soft prompt fit a model; 16 hexadecimal digits.

    Hashed, in this order, with SHA-256: the config fields ``model_type``, ``hidden_size``,
    ``num_hidden_layers``, ``num_attention_heads``, ``num_key_value_heads`` and ``intermediate_size`` as
    ``name=value`` lines, the shape of the input embedding matrix, and its values rounded to bfloat16. Names,
    paths, file formats and dtypes are not hashed. A float32 model and its bfloat16 copy agree because rounding
    twice to bfloat16 is rounding once; a float16 copy agrees where float16 holds the values. Models that differ
    only beyond their embeddings, such as one fine-tuned with frozen embeddings, are not told apart.
    """
    import torch

    config = model.config.get_text_config()
    digest = hashlib.sha256()
    for name in _HASHED_CONFIG:
        digest.update(f"{name}={getattr(config, name, None)}\n".encode())
    embeddings: Any = model.get_input_embeddings()
    weight = embeddings.weight.detach()
    if weight.is_meta:  # offloaded by accelerate, which holds the values until the layer runs
        weight = embeddings._hf_hook.weights_map["weight"]
    digest.update(f"embeddings={tuple(weight.shape)}\n".encode())
    for start in range(0, weight.shape[0], _ROWS_AT_ONCE):
        rows = weight[start : start + _ROWS_AT_ONCE].to("cpu", torch.bfloat16).contiguous()
        digest.update(rows.view(torch.int16).numpy().astype("<i2", copy=False).tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ModelSpec:
    """A language model as banks and adapters refer to it.

    ``fingerprint`` identifies the weights, see :func:`fingerprint`; without it only size and names can be compared.

    Raises:
        ConfigurationError: a field is not what it must be: a text of one line, a size from 1 to 2 ** 20.
    """

    model_id: str
    hidden_size: int
    revision: str | None = None
    model_type: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        require_text(self.model_id, "model_id")
        require_whole(self.hidden_size, f"hidden_size of {shown(self.model_id)}", MAX_HIDDEN_SIZE)
        for name in ("revision", "model_type", "fingerprint"):
            value = getattr(self, name)
            if value is not None:
                require_text(value, f"{name} of {shown(self.model_id)}")

    @classmethod
    def from_model(cls, model: PreTrainedModel, model_id: str | None = None, revision: str | None = None) -> ModelSpec:
        """Describe a loaded model; ``model_id`` defaults to the name it was loaded by."""
        config = model.config.get_text_config()
        embeddings: Any = model.get_input_embeddings()
        return cls(
            model_id=model_id or model.name_or_path or config.model_type,
            hidden_size=int(embeddings.weight.shape[1]),
            revision=revision,
            model_type=config.model_type,
            fingerprint=fingerprint(model),
        )

    @classmethod
    def of(cls, spec: ModelSpec | Mapping[str, Any]) -> ModelSpec:
        """Return a spec from a spec or a plain dict; unknown keys are left out."""
        if isinstance(spec, ModelSpec):
            return spec
        if not isinstance(spec, Mapping) or not {"model_id", "hidden_size"} <= set(spec):
            raise ConfigurationError(f"a model spec needs model_id and hidden_size, got {shown(spec)}")
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in spec.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def require_same(self, other: ModelSpec, what: str) -> None:
        """Raise MismatchError unless both specs are the same model; ``what`` says whose prompts these are.

        Fingerprints decide. Where one is missing, the ids have to be equal, and the revisions where both are known: a
        folder and a repository of the same weights need fingerprints to be told so.
        """
        if self.hidden_size != other.hidden_size:
            raise MismatchError(
                f"{what}: expected prompts of {self.model_id} (hidden size {self.hidden_size}), found {other.model_id} "
                f"(hidden size {other.hidden_size}); migrate the prompts first"
            )
        if self.fingerprint and other.fingerprint:
            if self.fingerprint != other.fingerprint:
                raise MismatchError(
                    f"{what}: expected prompts of {self.model_id} (fingerprint {self.fingerprint}), found "
                    f"{other.model_id} (fingerprint {other.fingerprint}), which has other weights; migrate the prompts "
                    "first, or load the LLM in float32 or bfloat16 if this is a float16 copy of the same"
                )
            return
        revisions = self.revision, other.revision
        if self.model_id != other.model_id or (all(revisions) and revisions[0] != revisions[1]):
            ours, theirs = (
                f"{spec.model_id} ({'revision ' + spec.revision if spec.revision else 'no revision'}, "
                f"{'with' if spec.fingerprint else 'no'} fingerprint)"
                for spec in (self, other)
            )
            raise MismatchError(
                f"{what}: expected prompts of {ours}, found {theirs}, whose weights cannot be compared; if they are "
                "the same, give the fingerprint of both: ModelSpec.from_model(...); if not, migrate the prompts first"
            )

    def is_same(self, other: ModelSpec) -> bool:
        """Whether :meth:`require_same` would let ``other`` pass."""
        try:
            self.require_same(other, "")
        except MismatchError:
            return False
        return True
