"""Check the contents of a built wheel: `python check_wheel.py dist/stepaudio-*.whl`."""

import sys
import zipfile

PACKAGES = {
    "stepaudio",
    "stepaudio_recipes",
    "stepaudio_eval",
    "stepaudio_streaming",
    "stepaudio_webui",
}
NEEDED = (
    "stepaudio/py.typed",
    "stepaudio/voices/kathleen.ogg",
    "stepaudio/voices/emodb03.ogg",
    "stepaudio/voices/voices.json",
    "stepaudio/weights/nano/config.json",
    "stepaudio/weights/nano/tokenizer.json",
    "stepaudio/weights/nano/model.safetensors.index.json",
    "stepaudio/weights/nano/words.safetensors",
    "stepaudio/weights/nano/words.LICENSE",
    "stepaudio/weights/nano/mtp.safetensors",
    "stepaudio/weights/nano/adapters/tts/adapter_model.safetensors",
    "stepaudio/weights/nano/adapters/chat/adapter_model.safetensors",
    "stepaudio/weights/nano/token2wav/token2wav.json",
    "stepaudio/weights/nano/token2wav/flow.safetensors",
    "stepaudio_recipes/configs/pretrain/nano.yaml",
    "stepaudio_recipes/configs/pretrain/tiny.yaml",
    "stepaudio_webui/static/voice.js",
    "stepaudio_webui/static/worklets.js",
)
MAX_SHARD_BYTES = 15 * 2**20
MAX_WHEEL_BYTES = 45 * 2**20


def problems(wheel: str) -> list[str]:
    """What is wrong with the wheel, one line each."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    tops = {name.split("/")[0] for name in sizes}
    found = [f"unexpected top-level name {t}" for t in tops - PACKAGES if ".dist-info" not in t]
    found += [f"missing package {p}" for p in PACKAGES - tops]
    found += [f"missing file {name}" for name in NEEDED if name not in sizes]
    shards = [name for name in sizes if name.endswith(".safetensors")]
    found += [f"{s} is larger than 15 MiB" for s in shards if sizes[s] > MAX_SHARD_BYTES]
    if not shards:
        found.append("no weights")
    if sum(sizes.values()) > MAX_WHEEL_BYTES:
        found.append(f"wheel holds {sum(sizes.values())} bytes, more than {MAX_WHEEL_BYTES}")
    return found


if __name__ == "__main__":
    found = [line for wheel in sys.argv[1:] for line in problems(wheel)]
    print("\n".join(found) or "wheel contents as expected")
    sys.exit(1 if found or len(sys.argv) < 2 else 0)
