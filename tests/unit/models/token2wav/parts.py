"""A small detokenizer whose parts fit each other, in our layout and in the public one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.models.token2wav.flow import Flow
from stepaudio.models.token2wav.flow_config import FlowConfig
from stepaudio.models.token2wav.folder import TrainedParts
from stepaudio.models.token2wav.hift import HiftVocoder
from stepaudio.models.token2wav.hift_config import HiftConfig, IstftConfig
from stepaudio.models.token2wav.istft_vocoder import IstftVocoder, IstftVocoderConfig
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer
from stepaudio.models.token2wav.source_filter_config import SourceFilterConfig
from stepaudio.models.token2wav.source_filter_vocoder import SourceFilterVocoder
from stepaudio.models.token2wav.speaker import SpeakerConfig, SpeakerNetwork
from tests.unit.models.token2wav.conftest import audible, small_hift_config
from tests.unit.models.token2wav.exports import export_speaker, export_tokenizer
from tests.unit.models.token2wav.flows import BANDS, small_flow_config

CODEBOOK = 3**4
RATE = 8000
HOP = 160
SAMPLES_PER_TOKEN = 2 * HOP

Kind = Literal["hift", "istft", "source_filter"]


def random_flow(config: FlowConfig) -> Flow:
    """Weights so large that every input matters."""
    torch.manual_seed(5)
    flow = Flow(config)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if config.input_size < 20 else 0.05)
    return flow.eval()


def random_vocoder(kind: Kind) -> HiftVocoder | IstftVocoder | SourceFilterVocoder:
    torch.manual_seed(6)
    if kind == "source_filter":
        return SourceFilterVocoder(
            SourceFilterConfig(
                in_channels=BANDS,
                sampling_rate=RATE,
                highest_mel_hz=RATE / 2,
                hidden_size=8,
                num_layers=2,
                hop_length=HOP,
                n_fft=4 * HOP,
            )
        )
    if kind == "istft":
        config = IstftVocoderConfig(
            in_channels=BANDS,
            sampling_rate=RATE,
            hidden_size=8,
            num_layers=2,
            hop_length=HOP,
            n_fft=4 * HOP,
        )
        return IstftVocoder(config).eval()
    changes: dict[str, Any] = {
        "upsample_rates": (8, 5),
        "upsample_kernel_sizes": (16, 11),
        "istft_params": IstftConfig(n_fft=16, hop_len=4),
    }
    return audible(HiftVocoder(dataclasses.replace(small_hift_config(), **changes)))


def random_tokenizer(config: S3Config) -> S3Tokenizer:
    torch.manual_seed(7)
    tokenizer = S3Tokenizer(config)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tokenizer.eval()


def random_speaker(num_bins: int, size: int) -> SpeakerNetwork:
    torch.manual_seed(8)
    config = SpeakerConfig(
        num_bins=num_bins, channels=4, kernels=(3,), dilations=(1,), embedding_size=size
    )
    return SpeakerNetwork(config).eval()


def small_parts(
    kind: Kind = "hift", *, streaming: dict[str, Any] | None = None, **sampler: Any
) -> TrainedParts:
    """Parts at 8 kHz with 81 codes."""
    flow = dataclasses.replace(small_flow_config(streaming, **sampler), vocab_size=CODEBOOK)
    tokenizer = S3Config(
        n_mels=8,
        n_audio_state=16,
        n_audio_head=2,
        n_audio_layer=1,
        fsmn_kernel=5,
        codebook_levels=(3,) * 4,
    )
    return TrainedParts(
        flow=random_flow(flow),
        vocoder=random_vocoder(kind),
        tokenizer=random_tokenizer(tokenizer),
        speaker=random_speaker(20, flow.spk_embed_dim),
        mel=VoiceMel(
            sample_rate=RATE, num_mels=BANDS, window=4 * HOP, hop=HOP, highest_hz=RATE / 2
        ),
    )


PUBLIC_YAML = """
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
    input_size: 24
    output_size: 80
    spk_embed_dim: 192
    output_type: 'mel'
    vocab_size: 6561
    encoder: !new:cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2
        input_size: !ref <flow.input_size>
        output_size: 24
        num_blocks: 1
        num_up_blocks: 1
        attention_heads: 2
        linear_units: 32
    decoder: !new:cosyvoice2.flow.flow_matching.CausalConditionalCFM
        inference_cfg_rate: 0.7
        estimator: !new:cosyvoice2.flow.decoder_dit.DiT
            in_channels: 320
            out_channels: 80
            depth: 1
            num_heads: 2
            head_dim: 8
            hidden_size: 16
"""


def write_public_folder(folder: Path, config: FlowConfig) -> None:
    """Write the five public files: the sizes that the public layout fixes, else small ones.

    Args:
        folder: where to.
        config: what `PUBLIC_YAML` says.
    """
    (folder / "flow.yaml").write_text(PUBLIC_YAML)
    torch.save(random_flow(config).state_dict(), folder / "flow.pt")
    torch.manual_seed(9)
    vocoder = HiftVocoder(HiftConfig()).state_dict()
    torch.save(
        {f"generator.{name}": tensor for name, tensor in vocoder.items()}, folder / "hift.pt"
    )
    tokenizer = S3Config(n_audio_state=16, n_audio_head=2, n_audio_layer=1, fsmn_kernel=5)
    export_tokenizer(random_tokenizer(tokenizer), folder / "speech_tokenizer_v2_25hz.onnx")
    export_speaker(random_speaker(80, 192), folder / "campplus.onnx")
