"""training.sequence_schedule: what it may be, and one line for what it may not."""

import dataclasses

import pytest

from mfa_train import config as configs
from mfa_train.attention.stages import config_of_step, require_stages
from mfa_train.config.sequence_schema import Stage, StageConfig
from mfa_train.errors import ConfigError
from mfa_train.parallel.requirements import require_parallel

KEY = "training.sequence_schedule"
YARN = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256}
CONFIG = configs.load(["training.sequence_length=1024", "training.batch_size=8", "attention.rope_theta=5e5"])
LAST = (10**6, 1024)

MISTAKES = [  # stages as (from_tokens, sequence_length, rope_theta, rope_scaling): what the line says
    ([], f"{KEY}=[]: expected stages, as [{{from_tokens: 0, sequence_length: 256}}"),
    ([(5, 1024)], f"{KEY}[0].from_tokens=5: the first stage begins the run: type 0"),
    ([(0, 300), LAST], f"{KEY}[1].sequence_length=1024: expected a multiple of the stage before's 300, as 900"),
    ([(0, 256), (0, 1024)], f"{KEY}[1].from_tokens=0: with steps of 8192 tokens .*: type 8192 or more"),
    ([(0, 256)], f"{KEY}[0].sequence_length=256: the last stage's is training.sequence_length=1024: type "),
    ([(0, 0), LAST], f"{KEY}[0].sequence_length=0: expected a whole number of at least 1"),
    ([(0, 256), (*LAST, 5.0)], f"{KEY}[1].rope_theta: .*: type attention.rope_theta=… instead"),
    ([(0, 256), (10**9, 1024)], f"{KEY}[1].from_tokens=1000000000: a run of 700 steps has 5734400 tokens"),
    ([(0, 256, -1.0), LAST], f"{KEY}[0].rope_theta=-1.0: expected a number above 0"),
    ([(0, 256, None, 7), LAST], f"{KEY}[0].rope_scaling=7: expected keys as attention.rope_scaling has, none for"),
    ([(0, 256, None, YARN | {"rope_type": "ntk"}), LAST], f"{KEY}[0].rope_scaling.rope_type=ntk: expected one of"),
    ([(0, 256, None, YARN | {"factors": 4}), LAST], f"{KEY}[0].rope_scaling.factors: no such key. Did you mean"),
]


def scheduled(*stages: tuple) -> configs.Config:
    schedule = [StageConfig(*stage) for stage in stages]
    training = dataclasses.replace(CONFIG.training, sequence_schedule=schedule)
    return dataclasses.replace(CONFIG, training=training, parallel=dataclasses.replace(CONFIG.parallel))


@pytest.mark.parametrize(("stages", "line"), MISTAKES)
def test_a_schedule_that_is_none_is_told_in_one_line_by_its_stage(stages, line):
    with pytest.raises(ConfigError, match="^" + line.replace("[", r"\[").replace("{", r"\{")) as told:
        require_stages(scheduled(*stages))
    assert "\n" not in str(told.value)


def test_a_stage_begins_with_a_whole_step_and_has_the_rotations_that_it_says():
    config = configs.load(
        [
            *("training.sequence_length=1024", "training.batch_size=8", "attention.rope_theta=5e5"),
            "attention.rope_scaling={rope_type: yarn, factor: 4, original_max_position_embeddings: 256}",
            f"{KEY}=[{{from_tokens: 0, sequence_length: 256, rope_theta: 1e4, rope_scaling: none}}, "
            "{from_tokens: 1e6, sequence_length: 512}, {from_tokens: 2e6, sequence_length: 1024}]",
        ]
    )
    require_stages(config)
    plain = {"rope_theta": 1e4, "rope_scaling": None}
    assert config.training.stages == [Stage(0, 256, plain), Stage(123, 512, {}), Stage(245, 1024, {})]
    assert [config.training.stage_of(step).sequence_length for step in (-1, 0, 122, 123, 244, 245, 699)] == [
        *(256, 256, 256, 512, 512, 1024, 1024)
    ]
    assert config_of_step(config, 122).attention == config.attention | plain
    assert config_of_step(config, 123) is config
    assert configs.typed(type(config), configs.completed(yaml_of(config))).training == config.training


def yaml_of(config: configs.Config) -> dict:
    import yaml

    return yaml.safe_load(configs.to_yaml(config))


def test_every_stages_length_can_be_shared_by_the_ranks_of_a_sequence():
    config = scheduled((0, 256), LAST)
    config.parallel.context = 2
    require_parallel(config, 2)
    config.training.sequence_schedule = [StageConfig(0, 2), StageConfig(*LAST)]
    with pytest.raises(
        ConfigError, match=r"sequence_schedule\[0\].sequence_length=2: parallel.context=2 cuts .* type 4"
    ):
        require_parallel(config, 2)
