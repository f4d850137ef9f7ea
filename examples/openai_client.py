"""The official OpenAI client against `latticework serve`: JSON Schema output, and a stream.

Start a server first: latticework serve --port 8000
"""

import sys

from openai import OpenAI

SCHEMA = {
    "type": "object",
    "properties": {
        "capital": {"type": "string", "maxLength": 20},
        "continent": {"enum": ["Africa", "America", "Asia", "Europe"]},
    },
    "required": ["capital", "continent"],
    "additionalProperties": False,
}


def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    client = OpenAI(base_url=base_url, api_key="none")
    reply = client.chat.completions.create(
        model="smollm2",
        messages=[
            {"role": "user", "content": "Where is Japan?"},
            {"role": "assistant", "content": '{"capital":"Tokyo","continent":"Asia"}'},
            {"role": "user", "content": "Where is Italy?"},
        ],
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}},
        temperature=0,
        max_tokens=60,
    )
    print(reply.choices[0].message.content)
    stream = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Count from one to five."}],
        temperature=0,
        max_tokens=30,
        stream=True,
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
