"""config.json of a model that was trained with mfa_train."""

from typing import Any

from transformers import PretrainedConfig


class MfaTrainConfig(PretrainedConfig):
    """The decoder's widths under Hugging Face's names, in `attention` the keys of its attention, and in `feed_forward`
    those of its feed-forward.

    A folder may say another model_type and other architectures, for a server that has the model under those names:
    they are kept, and saved again.
    """

    model_type = "mfa_train"
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference = ["cache", "past_key_values"]

    def __init__(
        self,
        *,
        attention: dict[str, Any],
        vocab_size: int,
        hidden_size: int,
        intermediate_size: int,
        num_hidden_layers: int,
        rms_norm_eps: float,
        max_position_embeddings: int,
        tie_word_embeddings: bool = False,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        feed_forward: dict[str, Any] | None = None,
        **further: Any,
    ):
        self.attention = attention
        self.feed_forward = feed_forward or {"name": "dense"}
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.rms_norm_eps = rms_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        model_type = further.pop("model_type", self.model_type)
        if model_type != self.model_type:
            self.known_as = {"model_type": model_type, "architectures": further.get("architectures")}
        super().__init__(tie_word_embeddings=tie_word_embeddings, **further)  # type: ignore[call-arg]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **choices: Any) -> Any:  # type: ignore[override]
        """As every config's, but another model_type is no reason to warn."""
        found, further = cls.get_config_dict(pretrained_model_name_or_path, **choices)
        return cls.from_dict(found, **further)

    def to_dict(self) -> dict[str, Any]:
        """What config.json says."""
        said = super().to_dict()
        return said | said.pop("known_as", {})
