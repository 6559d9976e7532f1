"""The typed run configuration. `mmhicra.config.loading.load_config` reads one."""

from mmhicra.config.data import GENERATED_SOURCES, ColumnsConfig, CurriculumConfig, DataConfig
from mmhicra.config.eval import BenchmarkConfig, EvalConfig
from mmhicra.config.method import (
    AdaptiveAlphaConfig,
    AlphaScheduleConfig,
    CreditConfig,
    CustomRewardConfig,
    HicraConfig,
    JudgeConfig,
    RewardConfig,
    TermConfig,
)
from mmhicra.config.model import FreezeConfig, LoraConfig, ModelConfig
from mmhicra.config.parallel import ParallelConfig
from mmhicra.config.rollout import GuardConfig, RolloutConfig, VLLMConfig
from mmhicra.config.run import LogConfig, RunConfig
from mmhicra.config.train import (
    CorrectionConfig,
    DynamicSamplingConfig,
    LossConfig,
    OptimizerConfig,
    SirenConfig,
    TrainConfig,
)

__all__ = [
    "GENERATED_SOURCES",
    "AdaptiveAlphaConfig",
    "AlphaScheduleConfig",
    "BenchmarkConfig",
    "ColumnsConfig",
    "CorrectionConfig",
    "CreditConfig",
    "CurriculumConfig",
    "CustomRewardConfig",
    "DataConfig",
    "DynamicSamplingConfig",
    "EvalConfig",
    "FreezeConfig",
    "GuardConfig",
    "HicraConfig",
    "JudgeConfig",
    "LogConfig",
    "LoraConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SirenConfig",
    "TermConfig",
    "TrainConfig",
    "VLLMConfig",
]
