"""Size and time of rollout files by form, of a run and of 2 000-token responses: `measure_rollouts.py [RUN]`.

The long responses are texts of docs/, in the shipped model's tokens, with numbers spread as those of a trained model:
half of the log-probs near 0, the trainer's within 0.01 of the engine's.
"""

import json
import math
import random
import sys
import time
from io import BytesIO
from pathlib import Path

import pyarrow
import zstandard
from pyarrow import parquet
from transformers import AutoTokenizer

from mmhicra.core.resources import asset_path
from mmhicra.core.rollout_files import rollout_line, rollout_steps
from mmhicra.hicra.spans import token_spans

RESPONSES, TOKENS, GROUP = 64, 2000, 8
DOCS = Path(__file__).parents[2] / "docs"


def long_records():
    """64 responses of 2 000 tokens, eight to a problem."""
    tokenizer, rng = AutoTokenizer.from_pretrained(asset_path("tiny_vlm")), random.Random(0)
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")))
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    for number in range(RESPONSES):
        start = rng.randrange(len(ids) - TOKENS)
        own = ids[start : start + TOKENS]
        decoded, spans = token_spans(own, tokenizer)
        engine = [-round(min(20.0, math.exp(rng.gauss(-2.5, 2.2))), 5) for _ in own]
        yield {
            "step": 1, "kept": True, "completion": number % GROUP, "prompt": f"p/{number // GROUP}", "task": "made",
            "source": "made", "images": [], "question": "How many?", "choices": [], "response": decoded, "ids": own,
            "finish_reason": "stop", "planning": [], "reward": {"verdict": "right", "total": 1.0}, "advantage": 0.5,
            "decoded": decoded, "token_spans": spans.tolist(), "grams": [],
            "advantages": [round(rng.gauss(0, 1), 5)] * TOKENS, "engine_logprobs": engine,
            "old_logprobs": [round(min(0.0, value + rng.gauss(0, 0.01)), 5) for value in engine],
            "entropy": [round(max(0.0, -1.3 * value + rng.gauss(0, 0.02)), 5) for value in engine],
        }  # fmt: skip


def as_table(records):
    """Columns as parquet has them: numbers in 32 bits, a token by where it ends, what is nested as JSON."""
    rows = []
    for record in records:
        row = dict(record) | {name: json.dumps(record.get(name)) for name in ("reward", "grams", "choices", "planning")}
        row["ends"] = [end for _, end in row.pop("token_spans")]
        rows.append(row)
    table = pyarrow.Table.from_pylist(rows)
    for place, name in enumerate(table.schema.names):
        kind = table.schema.field(place).type
        if pyarrow.types.is_list(kind) and kind.value_type in (pyarrow.float64(), pyarrow.int64()):
            narrow = pyarrow.float32() if kind.value_type == pyarrow.float64() else pyarrow.int32()
            table = table.set_column(place, name, table.column(place).cast(pyarrow.list_(narrow)))
    return table


def timed(make):
    """The best of three times, and what was made."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        made = make()
        times.append(time.perf_counter() - started)
    return min(times), made


def parquet_bytes(records):
    """A parquet file, compressed by zstd."""
    buffer = BytesIO()
    parquet.write_table(as_table(records), buffer, compression="zstd", compression_level=9)
    return buffer.getvalue()


def compare(name, records):
    """Print bytes a token, seconds to write and to read, of every form."""
    tokens = sum(len(record["ids"]) for record in records)

    def say(form, size, write, read):
        print(f"{name:6} {form:12} {size / tokens:6.1f} B a token, {size / 1e6:6.2f} MB, {write:.2f} s, {read:.2f} s")

    encode, text = timed(lambda: b"".join(map(rollout_line, records)))
    decode, _ = timed(lambda: [json.loads(line) for line in text.splitlines()])
    say("JSON lines", len(text), encode, decode)
    for level in (3, 9, 19):
        pack, frame = timed(lambda level=level: zstandard.ZstdCompressor(level=level).compress(text))
        unpack, _ = timed(lambda frame=frame: zstandard.ZstdDecompressor().decompress(frame))
        say(f"zstd {level}", len(frame), encode + pack, decode + unpack)
    write, file = timed(lambda: parquet_bytes(records))
    read, _ = timed(lambda: parquet.read_table(BytesIO(file)).to_pylist())
    say("parquet", len(file), write, read)


def main():
    """Measure the first step of a run, if one is named, and the long responses."""
    if len(sys.argv) > 1:
        compare("run", list(rollout_steps(Path(sys.argv[1]) / "rollouts")[0].lines()))
    compare("long", list(long_records()))


if __name__ == "__main__":
    main()
