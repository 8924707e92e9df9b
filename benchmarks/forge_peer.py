"""distilabel on the rows of ``benchmarks/forge.py``, run by the Python of its own environment.

    python forge_peer.py DIR URL COUNT

It reads ``DIR/prompts.jsonl``, asks the endpoint for each with up to 64 at once, and must have every answer.
"""

import json
import sys
from pathlib import Path

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

if __name__ == "__main__":
    folder, url, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    with Pipeline("peer", cache_dir=folder / "peer") as pipeline:
        load = LoadDataFromDicts(data=[json.loads(line) for line in lines], batch_size=64)
        llm = OpenAILLM(base_url=url, api_key="none", model="m", generation_kwargs={"max_new_tokens": 256})
        load >> TextGeneration(llm=llm, input_batch_size=64)
    rows = pipeline.run(use_cache=False)["default"]["train"]
    assert len(rows) == count
    assert all(rows["generation"])
