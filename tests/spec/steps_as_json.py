"""Prints the steps of `methods.yaml` as JSON for clients in other languages.

Columns of a step are written out as the bytes of an Arrow stream, in base64 as in the JSON form of a message.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.spec.scenario import STEPS, arrow_of


def written(step: dict[str, Any]) -> dict[str, Any]:
    """The step without columns."""
    requests = [_request(each) for each in step.get("requests", [step.get("request")])]
    return {**step, "requests": requests}


def _request(tree: Any) -> Any:
    if not isinstance(tree, dict) or "arrow" not in tree:
        return tree
    return {"arrow": base64.b64encode(arrow_of(tree["arrow"])).decode()}


if __name__ == "__main__":
    print(json.dumps([written(step) for step in STEPS], default=str))
