"""The parts of a plugin that are processes of their own: a server of models, a quantizer."""

from __future__ import annotations

from modelops_tui.cli.plugin_parts import Part

SERVING = Part(
    "modelops_tui.serving",
    '$name-server = "$module.serving:BACKEND"',
    {
        "$module/serving.py": '''\
\"\"\"A serving backend: `backend = "$name-server"` in `serve`."""

from __future__ import annotations

import sys
from typing import Any

from engine.serving.launch import Launch, LaunchRequest, ServingBackend

BACKEND = ServingBackend(
    name="$name-server",
    summary="says what it was told",
    launch="$module.serving:launch",
    check="$module.serving:check",
    api_version=$api,
)


def check(spec: Any, location: Any, paths: Any) -> list[Any]:
    """Problems that can be seen before a start: none."""
    return []


def launch(request: LaunchRequest) -> Launch:
    """How the server is started: on loopback, asking for the key it is given."""
    argv = (sys.executable, "-m", "$module.server", str(request.port), request.key, request.name)
    return Launch(argv=argv, port=request.port, key=request.key, parallel=8)
''',
        "$module/server.py": '''\
\"\"\"The server itself: replace it by a real one. It speaks as much OpenAI as it needs."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers with the last thing that was said."""

    protocol_version = "HTTP/1.1"
    key = name = ""

    def do_GET(self) -> None:
        """The models: also how the front sees that it is ready."""
        self.answer({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    def do_POST(self) -> None:
        """A chat or a text completion."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        kind = {"message": {"role": "assistant", "content": said}, "text": said}
        choice = {"index": 0, "finish_reason": "stop", **kind}
        self.answer({"id": "1", "object": "chat.completion", "choices": [choice]})

    def answer(self, value: dict[str, Any]) -> None:
        """Write JSON, or 401 without the key."""
        good = self.headers["authorization"] == f"Bearer {self.key}"
        data = json.dumps(value if good else {"error": {"message": "no key"}}).encode()
        self.send_response(200 if good else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Requests are not logged."""


if __name__ == "__main__":
    Handler.key, Handler.name = sys.argv[2], sys.argv[3]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
''',
        "tests/test_serving.py": '''\
\"\"\"The backend's server, started as a deployment starts it."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from engine.models import ModelLocation
from engine.paths import StatePaths
from engine.plugins import extensions
from engine.serving.launch import LaunchRequest, free_port
from $module.serving import launch


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": "Bearer secret"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_it_answers(tmp_path: Path) -> None:
    assert "$name-server" in extensions("serving backend").objects
    request = LaunchRequest(
        name="it",
        location=ModelLocation("hf", tmp_path, None, "it"),
        adapters={},
        paths=StatePaths(tmp_path),
        work_dir=tmp_path,
        port=free_port(),
        key="secret",
    )
    how = launch(request)
    process = subprocess.Popen(how.argv)
    try:
        url = f"http://127.0.0.1:{how.port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                assert ask(url + how.ready_path)["data"][0]["id"] == "it"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        body = {"messages": [{"role": "user", "content": "hello"}]}
        answer = ask(f"{url}/v1/chat/completions", body)
        assert answer["choices"][0]["message"]["content"] == "hello"
    finally:
        process.kill()
        process.wait()
''',
    },
)

BACKEND = Part(
    "modelops_tui.backends",
    '$name = "$module.backends"',
    {
        "$module/backends/__init__.py": '"""Quantization backends: one folder each."""\n',
        "$module/backends/on_$module/__init__.py": '"""Rounding to 8 bits."""\n',
        "$module/backends/on_$module/backend.toml": """name = "$name"
title = "$name: rounding to 8 bits, row by row"
package = "$name"
# what `format` and `backend` of `quantize` may say
formats = ["$name-w8"]
# it needs nothing that the main environment lacks; else: false, and a requirements.lock beside this
main = true
status = "experimental"
note = "round to nearest, no calibration"
probe = "import torch"
""",
        "$module/backends/on_$module/worker.py": '''\
\"\"\"The work, in a process of its own. See docs/backends.md for `request` and `tell`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.environ["MODELOPS_WIRE"])
from protocol import Tell, serve  # noqa: E402


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Round every matrix to 255 steps a row; the result stays plain safetensors."""
    import torch
    from safetensors.torch import load_file, save_file

    source, output = Path(request["source"]), Path(request["output"])
    output.mkdir(parents=True, exist_ok=True)
    files = sorted(source.iterdir())
    for number, file in enumerate(files, 1):
        if file.suffix != ".safetensors":
            if file.is_file():
                shutil.copyfile(file, output / file.name)
            continue
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.ndim == 2:
                scale = tensor.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
                tensors[name] = ((tensor.float() / scale).round() * scale).to(tensor.dtype)
        save_file(tensors, output / file.name, {"format": "pt"})
        tell({"done": number, "total": len(files), "unit": "files"})
    return {"settings": {"bits": 8}, "versions": {"torch": torch.__version__}}


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The result, ready to be measured."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
''',
        "tests/test_backend.py": '''\
\"\"\"The backend's worker, spoken to as `quantize` does."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from engine.backends.process import BackendProcess
from engine.backends.spec import find
from recipes.quantize.schema import QuantizeSpec


def test_quantize_takes_it() -> None:
    spec = QuantizeSpec(kind="quantize", model="smollm2", format="$name-w8")
    assert spec.chosen_backend == "$name"


def test_it_rounds(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    save_file({"w": weight}, source / "model.safetensors")
    with BackendProcess(find("$name"), Path(sys.executable), tmp_path / "log") as worker:
        worker.call("quantize", {"source": str(source), "output": str(output)})
    rounded = load_file(output / "model.safetensors")["w"]
    assert 0 < (rounded - weight).abs().max() < weight.abs().max() / 127
''',
    },
)
