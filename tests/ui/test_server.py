"""The server gives out clips of its folder and nothing else."""

from __future__ import annotations

import json
import os

import lazy_loader
import pytest
from starlette.testclient import TestClient

from pyramid_seed.ui import uploads
from pyramid_seed.ui.address import listen, loopback_names, url
from pyramid_seed.ui.studio import Studio

server = lazy_loader.load("pyramid_seed.ui.server")  # as in test_app


@pytest.fixture(scope="module")
def studio(tmp_path_factory, short):
    studio = Studio(tmp_path_factory.mktemp("studio") / "clips", [short])
    yield studio
    studio.queue.close()


@pytest.fixture(scope="module")
def client(studio, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with TestClient(server.build_server(studio, "127.0.0.1"), base_url="http://127.0.0.1") as client:
            yield client


@pytest.fixture(scope="module", autouse=True)
def secrets(studio):
    (studio.folder.parent / "secret").write_text("secret")
    (studio.folder / "secret.mp4").symlink_to(studio.folder.parent / "secret")
    (studio.folder / "notes.txt").write_text("secret")


def test_the_page_loads_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False


def test_clips_of_the_folder_are_served_in_parts(client, studio):
    (studio.folder / "clip.mp4").write_bytes(b"0123456789")
    answer = client.get("/clips/clip.mp4", headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"234")
    assert answer.headers["content-type"] == "video/mp4"


def test_nothing_else_is(client):
    paths = (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/proxy=http://example.com/",
        "/file=/etc/passwd",
        "/clips/..%2f..%2fetc%2fpasswd",
        "/clips/%2fetc%2fpasswd",
        "/clips/secret.mp4",
        "/clips/notes.txt",
    )
    served = {}
    for path in paths:
        answer = client.get(path)
        text = answer.text.replace("secret.mp4", "")
        if answer.status_code not in (403, 404) or "secret" in text or "root:" in text:
            served[path] = (answer.status_code, answer.text)
    assert served == {}


def test_files_of_the_output_folder_are_not_to_be_had_by_path(client, studio):
    assert client.get(f"/gradio_api/file={studio.folder / 'notes.txt'}").status_code == 403


def test_an_image_must_have_been_uploaded(client, studio):
    """A hand-made request that names a file of the server as the first frame reads nothing."""
    config = client.get("/config").json()
    fn = next(fn for fn in config["dependencies"] if fn["api_name"] == "on_run")
    image = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    values = ["a red circle", "short", 5, 64, 64, "1", True, image, [], "", "", "1", "1", "2", "1.5"]
    body = {"data": values, "fn_index": fn["id"], "session_hash": "test", "trigger_id": None}
    assert client.post("/gradio_api/queue/join", json=body).status_code in (200, 400, 403, 422)
    events = client.get("/gradio_api/queue/data", params={"session_hash": "test"}).text
    messages = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line]
    (ended,) = [message for message in messages if message["msg"] == "process_completed"]
    assert ended["success"] is False
    assert studio.queue.num_finished == 0


def test_a_site_of_another_name_is_refused(client):
    assert client.get("/", headers={"Host": "example.com"}).status_code == 400


def test_every_address_of_this_machine_alone_has_its_names():
    names = {
        "127.0.0.1": {"127.0.0.1", "localhost"},
        "localhost": {"127.0.0.1", "localhost"},
        "127.0.0.2": {"127.0.0.2", "localhost"},
        "127.1": {"127.1", "127.0.0.1", "localhost"},
        "::1": {"::1", "[::1]", "localhost"},
        "0:0:0:0:0:0:0:1": {"0:0:0:0:0:0:0:1", "[::1]", "localhost"},
        **{host: set() for host in ("0.0.0.0", "", "::", "10.0.0.1", "2001:db8::1")},
    }
    assert {host: set(loopback_names(host)) for host in names} == names


def test_the_address_is_known_and_held_before_there_is_a_page():
    with listen("127.0.0.1", 0) as listener:
        address = url("127.0.0.1", listener)
        port = listener.getsockname()[1]
        assert address == f"http://127.0.0.1:{port}"
        assert url("::1", listener) == f"http://[::1]:{port}"
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port)


def test_on_any_loopback_address_a_site_of_another_name_is_refused(studio):
    statuses = {}
    for host, name in (("::1", "[::1]:7860"), ("127.0.0.2", "127.0.0.2:7860"), ("0.0.0.0", "example.com")):
        with TestClient(server.build_server(studio, host), base_url="http://127.0.0.9") as client:
            statuses[host] = [
                client.get("/config", headers={"Host": sent}).status_code for sent in (name, "example.com")
            ]
    assert statuses == {"::1": [200, 400], "127.0.0.2": [200, 400], "0.0.0.0": [200, 200]}


def test_what_a_request_says_of_proxies_is_ignored(client):
    names = ("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For", "X-Forwarded-Prefix", "Forwarded")
    for name in (*names, "X-Gradio-Server"):
        for path in ("/", "/config"):
            value = "https" if name.endswith("Proto") else "http://evil.example"
            text = client.get(path, headers={name: value}).text
            assert "evil.example" not in text, name
            assert "https://127.0.0.1" not in text, name


def test_a_page_of_another_site_can_send_nothing(client):
    files = {"files": ("a.png", b"image")}
    answers = {
        origin: client.post("/gradio_api/upload", files=files, headers={"Origin": origin}).status_code
        for origin in ("http://127.0.0.1", "http://example.com", "null", "http://127.0.0.1:99")
    }
    assert answers.pop("http://127.0.0.1") == 200
    assert set(answers.values()) == {403}
    refusal = client.get("/", headers={"Origin": "http://example.com"})
    assert (refusal.status_code, refusal.text) == (403, "Requests from other sites are refused.")
    assert refusal.headers["x-content-type-options"] == "nosniff"


def test_uploads_are_limited(client):
    files = {"files": ("big.png", bytes(33 * 2**20))}
    assert client.post("/gradio_api/upload", files=files).status_code == 413


def test_uploads_are_limited_in_all_and_in_number(studio, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(uploads, "MAX_TOTAL", 3000)
    with TestClient(server.build_server(studio, "127.0.0.1"), base_url="http://127.0.0.1") as client:

        def upload(number: int) -> int:
            files = {"files": ("a.png", bytes([number]) * 1100)}
            return client.post("/gradio_api/upload", files=files).status_code

        assert [upload(number) for number in (1, 2, 3)] == [200, 200, 413]
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        assert upload(3) == 200
        assert [len(list(tmp_path.rglob(name))) for name in ("a.png", "dice.svg")] == [1, 1]
        monkeypatch.setattr(uploads, "MAX_NUMBER", 1)
        refusal = client.post("/gradio_api/upload", files={"files": ("a.png", b"1")})
        assert refusal.text.startswith("there is no room for another picture: this page keeps at most 100")


def test_other_requests_are_short_and_say_how_long_they_are(client):
    answer = client.post("/gradio_api/queue/join", json={"data": ["x" * 20 * 2**20]})
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith("a request must be at most 1048576 bytes, got 209")
    assert client.post("/gradio_api/queue/join", content=iter([b"{}"])).status_code == 411
