import pytest

from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.transcript import Transcript, join_texts


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["one"], "one"),
        (["one", "", "two", "three"], "one two three"),
        (["你好", "世界"], "你好世界"),
        (["你好。", "世界", "hello", "再见"], "你好。世界 hello 再见"),
    ],
)
def test_join_texts(texts, joined):
    assert join_texts(texts) == joined


def test_rtf_counts_reading_and_model():
    stats = GenerationStats(encode_s=0.5, prefill_s=0.25, decode_s=1.0)
    transcript = Transcript("a", (), duration_s=10.0, stats=stats, read_s=0.25)
    assert transcript.work_s == pytest.approx(2.0)
    assert transcript.rtf == pytest.approx(0.2)
