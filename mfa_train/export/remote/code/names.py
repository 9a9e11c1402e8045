"""Names of weights in folders that say another model_type, beside those in the model."""

STEP3 = {
    ".moe.gate.weight": ".mlp.gate.weight",
    ".moe.gate_proj.weight": ".mlp.experts.gate_proj.weight",
    ".moe.up_proj.weight": ".mlp.experts.up_proj.weight",
    ".moe.down_proj.weight": ".mlp.experts.down_proj.weight",
    ".share_expert.": ".mlp.shared_experts.",
}
"""vLLM's of `step3_text`, and ours."""
