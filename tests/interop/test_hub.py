"""tools.push speaks to a hub: a server on this machine that answers as huggingface_hub's own requests expect."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.interop import hub
from tests import process

# huggingface_hub sends a large file so where the hub is not given hf_xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


class Hub(ThreadingHTTPServer):
    """Repositories: name -> whether it is private, and its files. Large files come by Git LFS, the others inline."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.private, self.files, self.stored = {}, {}, {}
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def body(self):
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, record, code=200):
        content = json.dumps(record).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self):
        content = self.body()
        self.server.stored[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_GET(self):
        repo = self.path.removeprefix("/api/models/")
        if repo in self.server.private:
            self.answer({"id": repo, "private": self.server.private[repo], "tags": [], "siblings": []})
        else:
            self.answer({"error": "Not found"}, 404)

    def do_POST(self):
        content, server = self.body(), self.server
        if self.headers["Authorization"] != "Bearer hf_me":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(content)
            repo = f"{asked['organization']}/{asked['name']}"
            there = repo in server.private
            server.private.setdefault(repo, asked["visibility"] == "private")
            self.answer({"url": f"{server.address}/{repo}"}, 409 if there else 200)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(content)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(".safetensors") else "regular" for file in asked}
            self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            upload = [{"actions": {"upload": {"href": f"{server.address}/{each['oid']}"}}} for each in objects]
            self.answer({"objects": [each | actions for each, actions in zip(objects, upload, strict=True)]})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            lines = [json.loads(line) for line in content.splitlines()]
            files = {line["value"]["path"]: line["value"] for line in lines if line["key"] != "header"}
            server.files[found[1]] = {
                name: base64.b64decode(file["content"]) if "content" in file else server.stored[file["oid"]]
                for name, file in files.items()
            }
            self.answer({"commitUrl": f"{server.address}/{found[1]}/commit/1", "commitOid": "1"})


@pytest.fixture
def server():
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def push(server, exported, monkeypatch):
    """Push from this process, whose huggingface_hub has read its environment long ago."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    return lambda repo, public=False: hub.push(exported, repo, public)


def test_every_file_arrives_as_it_is_in_a_private_repository(server, push, exported):
    environment = {"HF_ENDPOINT": server.address, "HF_TOKEN": "hf_me", "HF_HUB_DISABLE_XET": "1"}
    pushed = process.run("tools.push", exported, "--repo=me/bridge", env=environment)
    assert (pushed.returncode, pushed.stdout) == (0, f"{server.address}/me/bridge/commit/1\n"), pushed.stderr
    assert server.private == {"me/bridge": True}
    assert server.files["me/bridge"] == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert push("me/bridge") == f"{server.address}/me/bridge/commit/1"  # now the repository is there


def test_a_public_repository_is_written_only_when_it_is_said(server, push):
    server.private["me/open"] = False
    with pytest.raises(ConfigError, match=r"^me/open is a public repository; expected a private one: add --public"):
        push("me/open")
    assert server.files == {}
    push("me/open", public=True)
    push("me/new", public=True)
    assert server.private == {"me/open": False, "me/new": False}
    assert server.files.keys() == server.private.keys()


def test_a_dry_run_asks_nobody_and_lists_what_would_go(exported):
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    listed = process.run("tools.push", exported, "--repo=me/bridge", "--dry_run", env=nobody)
    assert listed.returncode == 0, listed.stderr
    *files, total = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    sizes = {path.name: path.stat().st_size for path in exported.iterdir()}
    assert {name: int(size.replace(",", "")) for size, name in files} == sizes
    assert total == [f"{sum(sizes.values()):,}", f"bytes in {len(sizes)} files would go to me/bridge, private"]


def test_what_the_hub_refuses_is_one_line(push, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ConfigError, match=r"^me/bridge was not written: .*401.*Invalid username or password\.$"):
        push("me/bridge")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^me/bridge was not written: .*Connection refused"):
        push("me/bridge")


def test_a_folder_that_is_no_export_is_named(exported, tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}/none: no such folder"):
        hub.files(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"has no config\.json, model\.safetensors, tokenizer\.json, README\.md"):
        hub.files(tmp_path)
    tower = tmp_path / "tower"
    shutil.copytree(exported, tower)
    (tower / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="model_type is 'vit'; expected 'bridge'"):
        hub.files(tower)
    (tower / "config.json").write_bytes((exported / "config.json").read_bytes())
    (tower / ".env").write_text("a secret")
    assert [file.name for file in hub.files(tower)] == sorted(path.name for path in exported.iterdir())


@pytest.mark.parametrize(
    ("repo", "says"), [("bridge", "'bridge' has no owner"), ("a/b/c", "a/b/c"), ("a/b c", "a/b c")]
)
def test_a_name_that_is_none_is_refused(repo, says):
    with pytest.raises(ConfigError, match=f"^--repo: .*{says}"):
        hub.check_repo(repo)


def test_the_card_tells_the_hub_the_numbers(exported):
    card = huggingface_hub.ModelCard.load(exported / "README.md").data
    (result,) = [each for each in card.eval_results if each.metric_name == "rerank/image_to_text/r@1"]
    assert (result.dataset_name, result.dataset_split, result.metric_value) == ("shapes", "val", 71.42)
    assert {each.metric_name.rpartition("/")[2] for each in card.eval_results} == {"r@1", "r@5", "r@10"}
