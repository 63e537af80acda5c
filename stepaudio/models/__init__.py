"""Model classes; importing this package registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from stepaudio.models.hf_config import MODEL_TYPE, StepAudioConfig
from stepaudio.models.processor import StepAudioProcessor
from stepaudio.models.step_audio import StepAudio2ForCausalLM

AutoConfig.register(MODEL_TYPE, StepAudioConfig, exist_ok=True)
AutoModelForCausalLM.register(StepAudioConfig, StepAudio2ForCausalLM, exist_ok=True)
AutoProcessor.register(StepAudioConfig, StepAudioProcessor, exist_ok=True)

__all__ = ["StepAudio2ForCausalLM", "StepAudioConfig", "StepAudioProcessor"]
