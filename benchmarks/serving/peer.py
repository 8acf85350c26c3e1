"""The peer of the load test: a plain FastAPI handler around ONNX Runtime, as one would write it in ten minutes.

It runs an exported file that takes squares uint8 [N, S, S, 3] and has the same net and views in it. Each request is one
call of `session.run`, in FastAPI's own threads, with ONNX Runtime's own settings. Requests and answers have the same
bytes as those of `alexnet-infer serve`, except that it reads only what the load test sends.

    MODEL=alexnet-64-0.onnx uvicorn benchmarks.serving.peer:app
"""

import json
import os
from typing import Annotated

import numpy as np
import onnxruntime
from fastapi import Body, FastAPI, Header, Response

app = FastAPI()
session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])


@app.post("/v2/models/{name}/infer")
def infer(
    name: str,
    body: Annotated[bytes, Body(media_type="application/octet-stream")],
    inference_header_content_length: Annotated[int, Header()],
) -> Response:
    request = json.loads(body[:inference_header_content_length])
    tensor = request["inputs"][0]
    images = np.frombuffer(body, np.uint8, offset=inference_header_content_length).reshape(tensor["shape"])
    (probabilities,) = session.run(None, {"images": images})
    output = {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": list(probabilities.shape),
        "parameters": {"binary_data_size": probabilities.nbytes},
    }
    head = json.dumps({"model_name": name, "model_version": "1", "outputs": [output]}).encode()
    return Response(
        head + probabilities.tobytes(),
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
