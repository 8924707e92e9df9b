"""Ask a served model through the openai client. Start it first: ziya-visual serve runs/quickstart/checkpoint

python examples/ask_server.py http://127.0.0.1:8000/v1 picture.png "What is in the picture?"
"""

import base64
import mimetypes
import sys
from pathlib import Path

from openai import OpenAI


def main(base_url: str, picture: str, question: str) -> None:
    client = OpenAI(base_url=base_url, api_key="none")
    (model,) = client.models.list().data
    data = base64.b64encode(Path(picture).read_bytes()).decode()
    uri = f"data:{mimetypes.guess_type(picture)[0]};base64,{data}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": question}]
    answer = client.chat.completions.create(
        model=model.id, messages=[{"role": "user", "content": content}], max_tokens=64, temperature=0
    )
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    main(*sys.argv[1:])
