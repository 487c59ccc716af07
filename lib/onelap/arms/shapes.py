"""What of a model's configuration decides its size, and that of the models that params/ names."""

from dataclasses import dataclass
from pathlib import Path

from onelap.machine.store import read_json


@dataclass(frozen=True)
class Shape:
    """What of a model's configuration decides memory and time."""

    hidden: int
    intermediate: int
    layers: int
    key_value: int
    """Width of keys and values: heads times their size."""
    vocabulary: int
    tied: bool
    """Whether input embeddings and head are the same matrix."""

    @classmethod
    def read(cls, base: Path) -> "Shape":
        """From a model folder's config.json."""
        config = read_json(base / "config.json")
        heads = config["num_attention_heads"]
        head_size = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            config["hidden_size"],
            config["intermediate_size"],
            config["num_hidden_layers"],
            config.get("num_key_value_heads", heads) * head_size,
            config["vocab_size"],
            config.get("tie_word_embeddings", True),
        )

    @property
    def linear(self) -> int:
        """Weights of the linear layers in all blocks, those that are quantized."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_value
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def download_gb(self) -> float:
        """Of the weights, two bytes each."""
        return 2 * (self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)) / 1e9

    def adapter(self, rank: int) -> int:
        """LoRA weights on q, k, v, o, gate, up and down of every block."""
        widths = 4 * self.hidden + 2 * (self.hidden + self.key_value) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * widths


SHAPES = {  # of the models that params/ names, from their config.json; so a plan needs no download
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 11008, 36, 256, 151936, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(4096, 14336, 32, 1024, 128256, tied=False),
}
