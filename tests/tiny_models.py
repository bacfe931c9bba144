"""A tiny random model of every causal LM class of transformers, made by shrinking its default configuration."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MOST_PARAMETERS = 20_000_000

# Sizes by the names that configurations have for them. A name is set where the configuration has it.
_SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "embedding_size": 32,
    "emb_dim": 32,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "d_ff": 64,
    "n_inner": 64,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "ffn_hidden_size": 64,
    "num_hidden_layers": 4,
    "n_layer": 4,
    "n_layers": 4,
    "num_layers": 4,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "dim_head": 8,
    "d_kv": 8,
    "global_head_dim": 8,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "max_seq_len": 256,
    "n_ctx": 256,
    "sliding_window": 6,
    "attention_chunk_size": 6,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 256,
    "o_lora_rank": 16,
    "o_groups": 2,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "state_size": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "mamba_expand": 2,
    "expand": 2,
    "mamba_dt_rank": 4,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "mamba_d_ssm": 64,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "num_heads": 8,
    "time_step_rank": 4,
    "lru_width": 32,
    "attention_window_size": 6,
    "n_mamba_heads": 2,
    "mamba_headdim": 8,
    "use_mem_rope": False,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 400,
    "laurel_rank": 4,
    "num_kv_shared_layers": 2,
    "altup_num_inputs": 2,
    "rotary_dim": 4,
    "query_pre_attn_scalar": 8,
    "axial_pos_shape": [16, 16],
    "axial_pos_embds_dim": [16, 16],
    "image_token_id": 397,
    "image_token_index": 397,
    "video_token_id": 398,
    "audio_token_id": 399,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


# What else a class needs: sizes that must fit one another, and layers of every kind among the few there are.
_CLASSES: dict[str, dict[str, Any]] = {
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 2]], "window_size": 6},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "BambaForCausalLM": {"attn_layer_indices": [1, 3]},
    "BailingHybridForCausalLM": {"layer_group_size": 2},
    "NemotronForCausalLM": {"head_dim": 8, "num_key_value_heads": 2},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 8},
    "MinistralForCausalLM": {"head_dim": 8},
    "Dots1ForCausalLM": {
        "n_routed_experts": 4,
        "moe_intermediate_size": 32,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
    },
    "DbrxForCausalLM": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2},
    "Qwen4ExpForCausalLM": {
        "indexer_compress_ratio": 4,
        "indexer_budget": 64,
        "indexer_head_dim": 8,
        "indexer_kv_heads": 1,
        "indexer_n_heads": 4,
        "hc_lowrank": 8,
        "ngram_vocab_size_base": 100,
    },
    "BltForCausalLM": {"encoder_hash_byte_group_vocab": 500, "hidden_size_global": 32, "encoder_cross_output_size": 64},
    "Dots3NoteForCausalLM": {"num_key_value_heads": 4},
    "CohereCompassForCausalLM": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    **{
        name: {"layer_types": ["sliding_attention", "full_attention"] * 2}
        for name in ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "Gemma4UnifiedForCausalLM")
    },
    "Zamba2ForCausalLM": {
        "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "hybrid_layer_ids": [1, 3],
        "n_mamba_heads": 8,
    },
    "ZambaForCausalLM": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
    "XLNetLMHeadModel": {"d_head": 8},
}
# Latent attention: as many key/value heads as heads, of the rotary size.
_LATENT = (
    "AXK1",
    "AXK2",
    "BailingHybrid",
    "DeepseekV2",
    "DeepseekV3",
    "Glm4MoeLite",
    "GlmMoeDsa",
    "LongcatFlash",
    "MiniCPM3",
    "Youtu",
)


def causal_lm_names() -> list[str]:
    """Every causal LM class of this transformers."""
    found = {name for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in _each(names)}
    return sorted(found)


def _each(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def shrunk(config: PretrainedConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a small configuration of the same kind."""
    arguments: dict[str, Any] = {}
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            arguments[name] = shrunk(part, changes)
    known = {*config.to_dict(), *type(config).attribute_map}
    sizes = {name: size for name, size in _SIZES.items() if name in known and _value(config, name) is not None}
    return {**arguments, **sizes, **{name: value for name, value in changes.items() if name in known or not arguments}}


def _value(config: PretrainedConfig, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # of layers that differ
        return 0


def make_tiny(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of a class, float32, in evaluation mode.

    Raises:
        Exception: of any kind, where the class cannot be built from a small configuration.
    """
    kind = getattr(transformers, name)
    changes = {**_CLASSES.get(name, {}), **changes}
    arguments = shrunk(kind.config_class(), changes)
    if name.startswith(_LATENT):
        arguments = {**arguments, "num_key_value_heads": 4, "head_dim": 8}
    config = kind.config_class(**arguments)
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in kind(config).parameters())
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"{parameters} parameters after shrinking")
    torch.manual_seed(seed)
    model: PreTrainedModel = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than the usual 0.02, so that errors show
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    return model
