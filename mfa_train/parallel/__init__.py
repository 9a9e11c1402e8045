"""What ranks share out among them beside the batch and ZeRO's shards. Which rank has what is a function of the number
of ranks and of the node `parallel` alone.

    groups.py         which ranks stand together: expert groups, the ranks that have the same experts, context groups
    parameters.py     which stretch of a whole parameter a rank's model has
    exchange.py       rows on their way to the rank that has their expert, and back
    stretches.py      which tokens of a shared sequence a rank has; values of all tokens, gathered
    requirements.py   what is refused before anything starts

DeepSpeed's side: `mfa_train.training.steps.expert_parallel`.
"""
