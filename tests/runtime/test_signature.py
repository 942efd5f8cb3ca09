from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.bundle import MANIFEST, SIGNATURE, Bundle
from toolkit.runtime.signature import check_private_key, check_signature, sign
from toolkit.runtime.verify import verify

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


def private_pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    encryption: serialization.KeySerializationEncryption = PLAIN,
) -> bytes:
    return key.private_bytes(PEM, PKCS8, encryption)


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_keys(folder: Path, name: str, curve: ec.EllipticCurve) -> tuple[Path, Path]:
    key = ec.generate_private_key(curve)
    (folder / name).write_bytes(private_pem(key))
    (folder / f"{name}.pub").write_bytes(public_pem(key))
    return folder / name, folder / f"{name}.pub"


@pytest.fixture(params=[ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "key", request.param)


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))


@pytest.fixture
def signed(bundle: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A signed bundle and the public key."""
    private, public = write_keys(tmp_path, "key", ec.SECP256R1())
    sign(bundle, private)
    return bundle, public


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_signed_bundle_is_valid_and_as_whole_as_before(bundle: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    before = (bundle / MANIFEST).read_bytes()
    sign(bundle, private)
    assert (bundle / MANIFEST).read_bytes() == before
    signed = check_signature(bundle, public)
    listed = {name: entry.sha256 for name, entry in Bundle(bundle).manifest.files.items()}
    assert {name: digest for name, digest in signed.items() if name != MANIFEST} == listed
    assert set(signed) == {*listed, MANIFEST}
    report = verify(bundle, public_key=public)
    assert (report["passed"], report["signature"], report["problems"]) == (True, "valid", [])
    Bundle(bundle).session()


def test_a_signature_outlives_a_copy_under_another_name(signed: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, public = signed
    shutil.copytree(bundle, tmp_path / "another name")
    assert verify(tmp_path / "another name", public_key=public)["signature"] == "valid"


def test_a_path_relative_to_the_working_directory_will_do(
    signed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, public = signed
    monkeypatch.chdir(bundle)
    before = check_signature(Path(), public)
    sign(Path(), public.with_suffix(""))
    monkeypatch.chdir(bundle.parent)
    assert check_signature(Path(bundle.name), public) == before


def test_the_signature_is_one_that_model_signing_reads(signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    options = ["--signature", bundle / SIGNATURE, "--public_key", public]
    command = ["-m", "model_signing", "verify", "key", bundle, *options]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_key_nothing_is_checked(bundle: Path, tmp_path: Path) -> None:
    assert (verify(bundle)["passed"], verify(bundle)["signature"]) == (True, "absent")
    sign(bundle, write_keys(tmp_path, "key", ec.SECP256R1())[0])
    assert (verify(bundle)["passed"], verify(bundle)["signature"]) == (True, "not checked")


def test_an_absent_signature_is_a_failed_check(bundle: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(CheckFailed, match=r"signature\.json is missing"):
        check_signature(bundle, keys[1])
    report = verify(bundle, public_key=keys[1])
    assert (report["passed"], report["signature"]) == (False, "absent")
    assert report["problems"] == ["signature.json is missing: the bundle is not signed"]
    assert "max_abs_logit" not in report  # nothing was run


def test_another_key_is_a_failed_check(signed: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, _ = signed
    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        _, other = write_keys(tmp_path, "other", curve)
        report = verify(bundle, public_key=other)
        assert (report["passed"], report["signature"]) == (False, "invalid")
        assert [sentence.split()[0] for sentence in report["problems"]] == [SIGNATURE]


def test_a_flipped_byte_in_any_file_is_a_failed_check(signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    for name in [*Bundle(bundle).manifest.files, MANIFEST]:
        whole = (bundle / name).read_bytes()
        flip_a_byte(bundle / name)
        with pytest.raises(CheckFailed, match="Hash mismatch") as caught:
            check_signature(bundle, public)
        assert str(caught.value).endswith(f"Hash mismatch for {name}")
        (bundle / name).write_bytes(whole)
    check_signature(bundle, public)


def test_a_consistent_forgery_fails_by_its_signature_alone(signed: tuple[Path, Path]) -> None:
    """Another file with a fresh manifest: only the key tells."""
    bundle, public = signed
    signature = (bundle / SIGNATURE).read_bytes()
    (bundle / "MODEL_CARD.md").write_text("trust me")
    Bundle(bundle).update_manifest()
    (bundle / SIGNATURE).write_bytes(signature)
    assert verify(bundle)["passed"]
    report = verify(bundle, public_key=public)
    assert (report["passed"], report["signature"]) == (False, "invalid")


def test_no_byte_of_the_signed_content_can_change(signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    content = json.loads((bundle / SIGNATURE).read_bytes())
    for member in (content["dsseEnvelope"], content["dsseEnvelope"]["signatures"][0]):
        field = "payload" if "payload" in member else "sig"
        whole = member[field]
        changed = bytearray(base64.b64decode(whole))
        changed[len(changed) // 2] ^= 1
        member[field] = base64.b64encode(changed).decode()
        (bundle / SIGNATURE).write_text(json.dumps(content))
        assert verify(bundle, public_key=public)["signature"] == "invalid"
        member[field] = whole
    (bundle / SIGNATURE).write_text(json.dumps(content))
    assert verify(bundle, public_key=public)["signature"] == "valid"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"garbage", b"\xff\xfe", b'{"verificationMaterial": {"publicKey": {}}}', b'"text"', b"null"],
)
def test_a_malformed_signature_is_a_failed_check(content: bytes, signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    (bundle / SIGNATURE).write_bytes(content)
    report = verify(bundle, public_key=public)
    assert (report["passed"], report["signature"]) == (False, "invalid")
    assert "\n" not in report["problems"][0]


def test_a_signature_that_leaves_files_out_is_a_failed_check(bundle: Path, tmp_path: Path) -> None:
    from model_signing import hashing, signing

    private, public = write_keys(tmp_path, "key", ec.SECP256R1())
    partly = hashing.Config().set_ignored_paths(paths=[SIGNATURE, "model.onnx"], ignore_git_paths=False)
    config = signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(partly)
    config.sign(bundle, bundle / SIGNATURE)
    with pytest.raises(CheckFailed, match=r"does not cover model\.onnx"):
        check_signature(bundle, public)


def test_a_signature_that_is_a_link_is_no_signature(signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    (bundle / SIGNATURE).rename(bundle.parent / SIGNATURE)
    (bundle / SIGNATURE).symlink_to(bundle.parent / SIGNATURE)
    with pytest.raises(CheckFailed, match="missing"):
        check_signature(bundle, public)
    assert "signature.json is a link" in Bundle(bundle).differences()


def test_a_changed_bundle_loses_its_signature_and_an_unchanged_one_keeps_it(signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    opened = Bundle(bundle)
    opened.update_manifest()
    assert not opened.lost_signature
    check_signature(bundle, public)
    (bundle / "latency.json").write_text("{}")
    opened.update_manifest()
    assert opened.lost_signature
    assert not (bundle / SIGNATURE).exists()
    assert verify(bundle, public_key=public)["signature"] == "absent"


def test_signing_again_replaces_the_signature(signed: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, public = signed
    private, other = write_keys(tmp_path, "other", ec.SECP256R1())
    sign(bundle, private)
    check_signature(bundle, other)
    with pytest.raises(CheckFailed):
        check_signature(bundle, public)


@pytest.mark.parametrize("damage", ["flipped", "unlisted", "link"])
def test_no_damaged_bundle_is_signed(damage: str, bundle: Path, keys: tuple[Path, Path]) -> None:
    if damage == "flipped":
        flip_a_byte(bundle / "labels.json")
    elif damage == "unlisted":
        (bundle / "extra").write_text("")
    else:
        (bundle / "extra").symlink_to("labels.json")
    with pytest.raises(CheckFailed, match=r"labels\.json|extra"):
        sign(bundle, keys[0])
    assert not (bundle / SIGNATURE).exists()


BAD_PRIVATE_KEYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "encrypted": (
        lambda: private_pem(
            ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"password")
        ),
        "encrypted",
    ),
    "rsa": (lambda: private_pem(rsa.generate_private_key(65537, 2048)), "no private key"),
    "ed25519": (lambda: private_pem(ed25519.Ed25519PrivateKey.generate()), "no private key"),
    "other curve": (lambda: private_pem(ec.generate_private_key(ec.SECP256K1())), "no private key"),
    "public": (lambda: public_pem(ec.generate_private_key(ec.SECP256R1())), "no private key"),
    "cut": (lambda: private_pem(ec.generate_private_key(ec.SECP256R1()))[:80], "no private key"),
    "text": (lambda: b"secret", "no private key"),
    "empty": (lambda: b"", "no private key"),
}


@pytest.mark.parametrize("name", BAD_PRIVATE_KEYS)
def test_a_key_that_can_not_sign_is_said_in_one_line(name: str, bundle: Path, tmp_path: Path) -> None:
    make, says = BAD_PRIVATE_KEYS[name]
    (tmp_path / "key").write_bytes(make())
    for use in (check_private_key, lambda key: sign(bundle, key)):
        with pytest.raises(ToolkitError, match=says) as caught:
            use(tmp_path / "key")
        assert caught.value.where == str(tmp_path / "key")
        assert "openssl" in caught.value.fix
        assert "\n" not in caught.value.as_line()
    assert not (bundle / SIGNATURE).exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: private_pem(ec.generate_private_key(ec.SECP256R1())),
        lambda: public_pem(rsa.generate_private_key(65537, 2048)),
        lambda: public_pem(ec.generate_private_key(ec.SECP256K1())),
        lambda: b"text",
    ],
    ids=["private", "rsa", "other curve", "text"],
)
def test_a_key_that_can_not_check_is_said_in_one_line(
    make: Callable[[], bytes], signed: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "bad").write_bytes(make())
    with pytest.raises(ToolkitError, match="no public key") as caught:
        verify(signed[0], public_key=tmp_path / "bad")
    assert "\n" not in caught.value.as_line()


@pytest.mark.parametrize("path", ["missing", "."])
def test_a_key_that_is_not_there_is_said_in_one_line(path: str, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="can't read the key"):
        check_private_key(tmp_path / path)
    with pytest.raises(ToolkitError, match="can't read the key"):
        check_signature(bundle, tmp_path / path)


def test_a_missing_extra_is_said_with_its_name(bundle: Path, keys: tuple[Path, Path]) -> None:
    """In a process that can't import pyOpenSSL, as after pip install model-signing alone."""
    script = (
        "import sys; sys.modules['OpenSSL'] = None\n"
        "from pathlib import Path\n"
        "from toolkit.errors import ToolkitError\n"
        "from toolkit.runtime.verify import verify\n"
        "assert verify(Path(sys.argv[1]))['passed']\n"
        "try:\n    verify(Path(sys.argv[1]), public_key=Path(sys.argv[2]))\n"
        "except ToolkitError as error:\n    print(error.as_line())\n"
    )
    command = [sys.executable, "-c", script, str(bundle), str(keys[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'pip install "clip-toolkit[sign]"' in done.stdout
    assert len(done.stdout.splitlines()) == 1
