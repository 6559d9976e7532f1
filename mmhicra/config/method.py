"""The sections `reward`, `credit` and `hicra`: what a step learns from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mmhicra.config.base import (
    MOST,
    NamedOrPlugin,
    NonNegative,
    PathText,
    Positive,
    Processes,
    Section,
    Tokens,
    Weight,
)
from mmhicra.core.names import (
    AdvantageScale,
    AlphaSignal,
    CoordinateFrame,
    CreditMethod,
    FormatStyle,
    PlanningParts,
    TermName,
)

TERM_NAME = "^[a-z][a-z0-9_]{0,39}$"
"""How a term of the reward may be named: as part of the name of a metric."""


class CustomRewardConfig(Section):
    """A reward function of your own, by dotted path."""

    path: PathText
    """`package.module:function` or `./my_reward.py:function`, called with (problem, completion, record), or with lists
    if its parameters are named problems, completions, records; either may be async."""
    name: Annotated[str, Field(pattern=TERM_NAME)] | None = None
    """What the term is called in metrics and rollout files; null takes the path."""
    weight: Annotated[float, Field(ge=-1e4, le=1e4)] = 1.0
    """What its value is multiplied with before it is added to the reward."""


class TermConfig(Section):
    """A built-in term for boxes and points, from 0 to 1: see docs/guides/grounding.md."""

    name: TermName
    """`iou`: of the response's boxes with the gold's. `hit`: 1 if the response's point lies in a box of the gold."""
    weight: Weight = 1.0
    """What its value is multiplied with before it is added to the reward."""
    coordinates: CoordinateFrame = "pixels"
    """What the model writes: `pixels` of the image as it is stored, of the image as it is `resized` for the model, or
    `thousandths` of width and height; docs/guides/grounding.md says which model writes what."""
    gold_coordinates: CoordinateFrame = "pixels"
    """What the golds are in, likewise."""


class JudgeConfig(Section):
    """A language model behind an OpenAI-compatible endpoint that scores each response, from 0 to 1."""

    name: Annotated[str, Field(pattern=TERM_NAME)]
    """What the term is called in metrics and rollout files."""
    weight: Annotated[float, Field(ge=-1e4, le=1e4)] = 1.0
    """What its score is multiplied with before it is added to the reward."""
    url: str
    """Base of the API, e.g. `https://api.openai.com/v1`; `http://127.0.0.1:8000/v1` is a local `vllm serve`."""
    model: Annotated[str, Field(min_length=1)]
    """The name by which the endpoint knows the model."""
    prompt: PathText
    """A text file, the question to the judge: {question}, {choices}, {gold}, {response}, {facts} and {facts.NAME} are
    filled in. It has to ask for a number on the last line, yes or no, or {"score": ...}."""
    scale: Annotated[list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=2, max_length=2)] = Field(
        default=[0.0, 1.0]
    )
    """The lowest and the highest number that the judge is asked for; they become 0 and 1, as do no and yes."""
    api_key_env: Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = 0.0
    """What the judge samples with; null leaves it to the endpoint."""
    timeout: Annotated[float, Field(ge=0.01, le=86400.0)] = 120.0
    """Seconds to wait for one reply."""
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    """Times that a question is sent again, after growing pauses, after 429, 5xx, a timeout or a lost connection."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Questions of a process that may be under way at a time."""
    requests_per_minute: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """Requests that a process may send in a minute, repeated ones included; null for no limit."""
    images: bool = False
    """Sends the images of the problem along, as they are stored."""
    price_in: Annotated[float, Field(ge=0.0, le=1e6)] | None = None
    """Price of a million prompt tokens, in any currency; with `price_out` the cost is shown."""
    price_out: Annotated[float, Field(ge=0.0, le=1e6)] | None = None
    """Price of a million completion tokens."""

    @model_validator(mode="after")
    def _check(self) -> JudgeConfig:
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale ({self.scale}) must begin with the lower number")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out go together: give both or neither")
        if "@" in self.url:
            raise ValueError("url holds a user or password, which config.yaml would show: name a key by api_key_env")
        return self


class RewardConfig(Section):
    """The terms of the reward and their weights."""

    accuracy_weight: Weight = 1.0
    """Weight of the answer: 1 if it is right, else 0."""
    format_weight: Weight = 0.0
    """Weight of the form: 1 if the response has `format_style`, else 0."""
    format_style: FormatStyle = "boxed"
    """`boxed`: one \\boxed{} answer. `think_boxed`: <think>...</think>, then that. `think_answer`:
    <think>...</think><answer>...</answer>."""
    length_weight: Weight = 0.0
    """Weight of the soft overlong penalty; see `length_buffer`."""
    length_buffer: Tokens = 512
    """Soft overlong penalty: grows to -1 over the last so many tokens before `rollout.max_new_tokens`."""
    workers: Processes = 2
    """Processes that verify what takes algebra."""
    time_limit: Annotated[float, Field(ge=0.01, le=3600.0)] = 5.0
    """Seconds one verification may take before its worker is killed."""
    custom: list[CustomRewardConfig] = Field(default=[])
    """Reward functions of your own, each with its weight."""
    terms: list[TermConfig] = Field(default=[])
    """Built-in terms for boxes and points, each with its weight."""
    judges: list[JudgeConfig] = Field(default=[])
    """Language models that score responses, each with its weight."""
    custom_threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Completions of a group that custom functions are called on at a time; raise it if they wait, e.g. for a judge."""
    custom_concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Calls of an async function that may be under way at a time."""
    custom_batch: NonNegative = 0
    """Completions in one call of a function that takes lists; 0 gives it all that a process scores at once."""
    custom_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Calls of a custom function at most for one completion, if it raises."""
    custom_wait: Annotated[float, Field(ge=0.0, le=3600.0)] = 0.5
    """Seconds before its second call, doubled before each further one."""
    custom_time_limit: Annotated[float, Field(ge=0.01, le=86400.0)] = 300.0
    """Seconds that one call of a custom function may take; one that takes longer counts as one that raises."""
    custom_failures: NonNegative = 10
    """Groups that may be dropped because a custom function failed, over all processes and since this start of the run;
    with one more the run saves and stops."""

    @property
    def asks(self) -> bool:
        """Whether a term is somebody else's, which may fail."""
        return bool(self.custom or self.judges)

    @property
    def has_terms(self) -> bool:
        """Whether any term has a weight."""
        ours = self.accuracy_weight or self.format_weight or self.length_weight or self.terms
        return bool(ours) or self.asks

    @property
    def reads_gold(self) -> bool:
        """Whether a term compares the answer with the gold: without one, golds of any kind are used."""
        return self.accuracy_weight > 0


class CreditConfig(Section):
    """How the group's rewards become per-token advantages."""

    method: Annotated[str, NamedOrPlugin(CreditMethod)] = "hicra"
    """See docs/explanation/credit.md; all but `grpo` and `entropy` use `hicra.alpha`. A function of your own: see
    docs/extend/credit_method.md."""
    scale: AdvantageScale = "none"
    """`none` is the paper's mean-centred advantage; `std` also divides by the group's standard deviation."""
    top_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """`high_entropy`: the share of a response's tokens that is amplified."""
    entropy_weight: Weight = 0.4
    """`entropy`: adds min(entropy_weight * H, |A| / entropy_divisor)."""
    entropy_divisor: Annotated[float, Field(gt=1.0, le=1e4)] = 2.0
    """`entropy`: what |A| is divided by to bound the bonus."""

    @property
    def amplifies(self) -> bool:
        """Whether the method uses alpha."""
        return self.method not in ("grpo", "entropy")


class AlphaScheduleConfig(Section):
    """Alpha goes linearly from `hicra.alpha` to `end` over the first `steps` steps. Ours, not the paper's."""

    end: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Alpha from step `steps` on."""
    steps: Annotated[int, Field(ge=2, le=MOST)]
    """Steps from `hicra.alpha` to `end`."""


class AdaptiveAlphaConfig(Section):
    """Alpha is moved after every step to hold `signal` at `target`. Ours, not the paper's."""

    signal: AlphaSignal
    """`mass`: share of the positive advantage mass on planning tokens. `kl`: KL(old || new) of a step, per token."""
    target: Annotated[float, Field(gt=0.0, le=100.0)]
    """The value of `signal` to hold."""
    minimum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Alpha never goes below this."""
    maximum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Alpha never goes above this."""
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """The largest change in one step."""


class HicraConfig(Section):
    """The planning mask and its amplification: A + alpha * |A| on planning tokens."""

    alpha: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """How much planning tokens are amplified; 0.2 is the paper's, 0 is GRPO."""
    schedule: AlphaScheduleConfig | None = None
    """Moves alpha by the step."""
    adaptive: AdaptiveAlphaConfig | None = None
    """Moves alpha by what each step did."""
    grams: PathText = "published_249"
    """A shipped library (`published_249`, `released_193`, `strategy_chunks`) or a file, e.g. of `mmhicra mine`."""
    min_words: Positive = 1
    """Drop grams with fewer words; 2 leaves out the connectives (`so`, `but`, ...)."""
    skip_math: bool = False
    """Leave matches inside LaTeX, code and boxed answers unmarked."""
    parts: PlanningParts = "all"
    """Where planning is looked for: in the whole response, before `</think>` or `<answer>`, or after it."""

    @model_validator(mode="after")
    def _check(self) -> HicraConfig:
        if self.schedule and self.adaptive:
            raise ValueError("schedule and adaptive both move alpha: drop one")
        if self.adaptive and not self.adaptive.minimum <= self.alpha <= self.adaptive.maximum:
            bounds = f"{self.adaptive.minimum} to {self.adaptive.maximum}"
            raise ValueError(f"alpha ({self.alpha}) starts outside the bounds of adaptive ({bounds}): move one")
        return self
