"""The record of what a generation cost."""

from stepaudio.generation.stats import GenerationStats


def test_sums_and_ratios() -> None:
    total = GenerationStats()
    assert (total.rtf, total.ms_per_pass, total.tokens_per_pass) == (0.0, 0.0, 0.0)
    one = GenerationStats(
        audio_s=10, encode_s=0.1, prefill_s=0.1, decode_s=0.3, tokens=31, passes=30
    )
    total.add(one)
    total.add(one)
    assert total.audio_s == 20
    assert total.rtf == 0.05
    assert round(total.ms_per_pass, 6) == 10
    assert one.tokens_per_pass == 1
