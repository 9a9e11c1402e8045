"""Asks an OpenAI server, by OpenAI's own client: run in .venv-serve, with questions as JSON on standard input.

{"url", "prompts", "max_tokens", "text"} -> {"answers": [{"text", "tokens"}], "prompt": token ids, "logprobs": of
each in `text` given those before it}.
"""

import json
import sys

from openai import OpenAI

asked = json.load(sys.stdin)
client = OpenAI(base_url=f"{asked['url']}/v1", api_key="none", timeout=120)
ids = {"return_token_ids": True}
answers = client.completions.create(
    model="run", prompt=asked["prompts"], max_tokens=asked["max_tokens"], temperature=0, extra_body=ids
)
read = client.completions.create(
    model="run", prompt=asked["text"], max_tokens=1, temperature=0, logprobs=0, echo=True, extra_body=ids
).choices[0]
prompt = read.prompt_token_ids
told = {
    "answers": [{"text": choice.text, "tokens": choice.token_ids} for choice in answers.choices],
    "prompt": prompt,
    "logprobs": read.logprobs.token_logprobs[: len(prompt)],
}
print(json.dumps(told))
