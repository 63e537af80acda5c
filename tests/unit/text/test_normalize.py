import pytest

from stepaudio.errors import ConfigError
from stepaudio.text.chinese import ChineseNormalizer
from stepaudio.text.english import EnglishNormalizer
from stepaudio.text.normalize import get_normalizer


@pytest.mark.parametrize("code", ["en", "EN", "en-US", "en_GB"])
def test_english_codes(code: str) -> None:
    assert isinstance(get_normalizer(code), EnglishNormalizer)


@pytest.mark.parametrize("code", ["zh", "zh-CN", "zh_TW"])
def test_chinese_codes(code: str) -> None:
    assert isinstance(get_normalizer(code), ChineseNormalizer)


@pytest.mark.parametrize("code", ["de", "", "english"])
def test_unknown_language_names_the_known_ones(code: str) -> None:
    with pytest.raises(ConfigError, match="known are en, zh"):
        get_normalizer(code)
