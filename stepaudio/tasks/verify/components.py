"""The components that `verify` runs, in order. One file for each; all must run and pass."""

from __future__ import annotations

from stepaudio.tasks.verify.checks import Component
from stepaudio.tasks.verify.encoder import ADAPTOR, ENCODER
from stepaudio.tasks.verify.flow import FLOW
from stepaudio.tasks.verify.hift import HIFT
from stepaudio.tasks.verify.llm import GREEDY, LLM
from stepaudio.tasks.verify.mel import MEL
from stepaudio.tasks.verify.prompt_features import PROMPT_FEATURES
from stepaudio.tasks.verify.s3_tokenizer import S3_TOKENIZER

COMPONENTS: tuple[Component, ...] = (
    MEL,
    PROMPT_FEATURES,
    ENCODER,
    ADAPTOR,
    LLM,
    GREEDY,
    S3_TOKENIZER,
    FLOW,
    HIFT,
)
