"""Signed clips: whose signature it is, whether it holds, and what a changed bit does to it."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys

import pytest

from pyramid_seed import extras, sign, verify
from pyramid_seed.cli import main
from pyramid_seed.media.video import read_comment
from pyramid_seed.provenance.manifest import read_manifest
from pyramid_seed.provenance.signature import is_signed, signature_step
from tests.cases import check_cases
from tests.conftest import REFERENCE

c2pa = pytest.importorskip("c2pa", reason="needs the extra `sign`")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: E402

from tests.certificates import make_identity  # noqa: E402

MODEL = str(REFERENCE / "miniflux-tiny")


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    return make_identity(tmp_path_factory.mktemp("identity") / "signer")


@pytest.fixture(scope="module")
def signed(saved, identity, tmp_path_factory):
    path = tmp_path_factory.mktemp("signed") / "signed.mp4"
    return sign(saved, cert=identity.cert, key=identity.key, output=path)


def boxes(data):
    """Kind, start and end of each top box."""
    found, start = [], 0
    while start < len(data):
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        found.append((kind, start, start + size))
        start += size
    return found


def test_verify_says_who_signed_and_makes_the_clip_again(signed, identity):
    found = verify(signed, trust=identity.authority, model=MODEL, progress=False)
    assert found.same
    assert found.steps[0].note == "holds, by Test Signer, Test Studio; trusted"
    assert [step.stage for step in found.steps] == [
        "signature", "weights", "text", "noise", "unit", "decode", "frames", "file",
    ]  # fmt: skip


def test_a_signature_is_trusted_only_if_an_authority_vouches_for_it(signed, saved, identity, tmp_path):
    stranger = make_identity(tmp_path / "stranger")
    cases = {
        (signed, None): ("equal", "not trusted: --trust FILE"),
        (signed, identity.authority): ("equal", "trusted"),
        (signed, stranger.authority): ("differs", f"no authority in {stranger.authority} vouches"),
        (saved, identity.authority): ("differs", "the file is not signed"),
    }

    def rule(path, trust):
        step = signature_step(path, trust)
        assert (step.status, cases[path, trust][1] in step.note) == (cases[path, trust][0], True)

    check_cases(list(cases), rule)
    assert signature_step(saved) is None
    with pytest.raises(ValueError, match="trust must name a file with certificates in PEM form"):
        signature_step(signed, identity.key)


def test_a_reader_of_another_maker_accepts_it_and_sees_what_it_says(signed, identity, tmp_path):
    """In a process that cannot import this package: only c2pa-python reads."""
    code = (
        "import c2pa, json, sys; path, anchors = sys.argv[1:]\n"
        "assert 'pyramid_seed' not in sys.modules\n"
        "context = c2pa.Context.from_dict({'trust': {'trust_anchors': open(anchors).read()}})\n"
        "reader = c2pa.Reader('video/mp4', open(path, 'rb'), None, context)\n"
        "print(json.dumps([reader.get_validation_state(), reader.get_active_manifest()]))"
    )
    command = [sys.executable, "-c", code, str(signed), str(identity.authority)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    state, manifest = json.loads(output)
    assert state == "Trusted"
    data = {row["label"]: row["data"] for row in manifest["assertions"]}
    (action,) = data["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    digest = hashlib.sha256(read_comment(signed).encode()).hexdigest()
    assert data["org.pyramid-seed.manifest"] == {"sha256": digest}
    assert manifest["signature_info"]["common_name"] == "Test Signer"


@pytest.mark.parametrize("stride", [97, pytest.param(5, marks=pytest.mark.slow)])
def test_a_changed_bit_is_found_wherever_it_is(signed, tmp_path, stride):
    """In every box, first and last byte included; C2PA alone misses most of `ftyp` and its own padding."""
    data = signed.read_bytes()
    copy = tmp_path / "changed.mp4"
    found = boxes(data)
    assert [kind for kind, *_ in found] == [b"ftyp", b"uuid", b"moov", b"free", b"mdat", b"free"]
    unseen = []
    for kind, start, end in found:
        size = end - start
        step = max(stride, size // 12) if kind in (b"moov", b"mdat") else min(stride, max(1, size // 8))
        for place in {*range(start, end, step), *range(start, start + 8), end - 1}:
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            copy.write_bytes(changed)
            checked = signature_step(copy)
            if checked is None or checked.status != "differs":
                unseen.append((kind, place - start))
    assert unseen == []


def test_what_was_taken_away_or_put_on_is_found(signed, tmp_path):
    data = signed.read_bytes()
    (_, start, end), (_, _, seal) = boxes(data)[1], boxes(data)[-2]
    place = data.index(b'"seed":"') + 8
    changes = {
        "the seal": data[:seal],
        "the C2PA box": data[:start] + data[end:],
        "one more byte": data + b"\0",
        "one more box": data + struct.pack(">I4s", 8, b"free"),
        "another seed": data[:place] + b"9" + data[place + 1 :],
    }
    copy = tmp_path / "changed.mp4"

    def rule(name):
        copy.write_bytes(changes[name])
        assert signature_step(copy).status == "differs"
        assert main(["verify", "--noise-only", str(copy)]) == 1

    check_cases(list(changes), rule)


def test_kinds_of_keys(saved, tmp_path):
    def rule(kind):
        signer = make_identity(tmp_path / kind, kind)
        path = sign(saved, cert=signer.cert, key=signer.key, output=tmp_path / f"{kind}.mp4")
        assert signature_step(path, signer.authority).note.endswith("trusted")

    check_cases(["p384", "p521", "ed25519", "rsa"], rule)


def test_a_function_may_hold_the_key(saved, identity, tmp_path):
    key = serialization.load_pem_private_key(identity.key.read_bytes(), None)

    def service(data):
        r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    path = sign(saved, cert=identity.cert, key=service, output=tmp_path / "a.mp4")
    assert signature_step(path, identity.authority).status == "equal"

    def broken(data):
        raise ConnectionError("the key service is away")

    with pytest.raises(ConnectionError, match="the key service is away"):
        sign(saved, cert=identity.cert, key=broken, output=tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="could not be signed"):
        sign(saved, cert=identity.cert, key=lambda data: b"x" * 64, output=tmp_path / "b.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_cannot_be_signed_is_refused_and_left_as_it_was(saved, signed, made, identity, tmp_path, capsys):
    stranger, late = make_identity(tmp_path / "stranger"), make_identity(tmp_path / "late", days=(-20, -1))
    weak = make_identity(tmp_path / "weak", "rsa1024")
    bare = made.save(tmp_path / "bare.mp4", metadata=False)
    encrypted = tmp_path / "encrypted.pem"
    key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    encrypted.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    )
    clip = tmp_path / "clip.mp4"
    shutil.copyfile(saved, clip)
    before = clip.read_bytes()
    cases = [
        ([clip, identity.cert, stranger.key], "is not that of the certificate"),
        ([clip, late.cert, late.key], "not now"),
        ([clip, weak.cert, weak.key], "RSA of at least 2048 bits"),
        ([clip, identity.authority, identity.key], "is not that of the certificate"),
        ([clip, identity.key, identity.key], "must hold certificates in PEM form"),
        ([clip, identity.cert, identity.cert], "must hold a private key in PEM form"),
        ([clip, identity.cert, encrypted], "is encrypted"),
        ([clip, tmp_path / "gone.pem", identity.key], "gone.pem does not exist"),
        ([signed, identity.cert, identity.key], "is signed already"),
        ([bare, identity.cert, identity.key], "has no manifest inside"),
        ([saved.with_suffix(".json"), identity.cert, identity.key], "a clip to sign is an .mp4"),
        ([identity.key.parent, identity.cert, identity.key], "is a folder"),
    ]

    def rule(files, message):
        path, cert, key = map(str, files)
        assert main(["sign", path, "--cert", cert, "--key", key]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error

    check_cases(cases, rule)
    with pytest.raises(TypeError, match="key must be a path"):
        sign(clip, cert=identity.cert, key=7)
    taken = [str(clip), "--cert", str(identity.cert), "--key", str(identity.key), "-o", str(bare)]
    assert main(["sign", *taken]) == 2
    assert f"{bare} already exists" in capsys.readouterr().err
    service = ["--time-stamp", "http://127.0.0.1:9/", "-o", str(tmp_path / "new.mp4")]
    assert main(["sign", *taken[:-2], *service]) == 2
    assert "could not be signed" in capsys.readouterr().err
    assert clip.read_bytes() == before
    assert not (tmp_path / "new.mp4").exists()


def test_the_commands_sign_in_place_and_show_the_signature(saved, identity, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    shutil.copyfile(saved, clip)
    assert main(["sign", str(clip), "--cert", str(identity.cert), "--key", str(identity.key)]) == 0
    assert is_signed(clip)
    assert "holds, by Test Signer" in capsys.readouterr().out
    assert main(["show", str(clip), "--trust", str(identity.authority)]) == 0
    assert "signature   holds, by Test Signer, Test Studio; trusted\n" in capsys.readouterr().out
    assert main(["show", str(clip), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("signature").startswith("equal: holds, by Test Signer")
    assert shown == read_manifest(clip)
    assert main(["verify", "--noise-only", "--json", str(clip), str(saved)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["signature"].startswith("equal: holds, by Test Signer")
    assert "signature" not in rows[1]
    changed = bytearray(clip.read_bytes())
    changed[12] ^= 1
    clip.write_bytes(changed)
    assert main(["show", str(clip)]) == 1
    assert (
        "signature   it does not hold: a byte outside the signed part has changed" in capsys.readouterr().out
    )
    assert main(["show", str(clip), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["signature"].startswith("differs: it does not hold")


def test_without_the_extra_a_signed_clip_verifies_and_says_what_to_install(
    signed, identity, monkeypatch, capsys
):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert main(["verify", "--noise-only", str(signed)]) == 0
    output = capsys.readouterr().out
    assert "signature   not compared: signed, but not checked" in output
    assert 'pip install "pyramid-seed[sign]"' in output
    for arguments in (["verify", "--noise-only"], ["show"]):
        assert main([*arguments, str(signed), "--trust", str(identity.authority)]) == 2
        assert "pyramid-seed[sign]" in capsys.readouterr().err
    assert main(["sign", str(signed), "--cert", str(identity.cert), "--key", str(identity.key)]) == 2
    assert "this needs c2pa, cryptography" in capsys.readouterr().err
