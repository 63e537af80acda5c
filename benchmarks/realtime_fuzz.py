"""64 k wrong messages to the realtime server over a socket, while another session goes on.

    python benchmarks/realtime_fuzz.py --messages 65536

The server runs in this process, with the scripted engine of the tests behind it. The sessions that
are fuzzed must stay open and answer, every event must fit the types of OpenAI's SDK, the session
beside them must be answered all the time, and the log must hold no traceback.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.streaming.fuzz import MessageFuzzer
from tests.streaming.serving import receive, receive_until, send, serving
from tests.streaming.sessions import check_wire

BATCH = 64
PER_SESSION = 4096  # a conversation holds a limited number of items


class Tracebacks(logging.Handler):
    """Counts what was logged with a traceback."""

    number = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a record."""
        self.number += record.exc_info is not None


def fuzz(server: object, fuzzer: MessageFuzzer, number: int, counts: Counter[str]) -> None:
    """One session."""
    with server.connect() as client, server.connect() as other:  # type: ignore[attr-defined]
        receive(client), receive(other)
        for batch in range(number // BATCH):
            for message in fuzzer.batch(BATCH):
                client.send(message)
            marker = f"end-{batch}"
            send(client, "conversation.item.retrieve", item_id="-", event_id=marker)
            while True:
                event = receive(client)
                check_wire(event)
                counts[event["type"]] += 1
                if event["type"] == "error" and event["error"]["event_id"] == marker:
                    break
            if batch % 8 == 0:
                send(other, "response.create", response={"conversation": "none"})
                done = receive_until(other, "response.done")[-1]
                assert done["response"]["status"] == "completed"
                counts["answers beside it"] += 1


def main() -> None:
    """Send, check, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1 << 16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tracebacks = Tracebacks()
    for name in ("", "uvicorn"):
        logging.getLogger(name).addHandler(tracebacks)
    counts: Counter[str] = Counter()
    started, fuzzer = time.monotonic(), MessageFuzzer(args.seed)
    memory = []
    with serving() as server:
        for _ in range(args.messages // PER_SESSION):
            fuzz(server, fuzzer, PER_SESSION, counts)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    print(json.dumps(counts.most_common(), indent=1))
    print(
        f"{args.messages} messages in {time.monotonic() - started:.0f} s, {tracebacks.number} "
        f"tracebacks, peak memory {memory[0]} MB behind the first session, {memory[-1]} MB at "
        "the end"
    )
    assert not tracebacks.number


if __name__ == "__main__":
    main()
