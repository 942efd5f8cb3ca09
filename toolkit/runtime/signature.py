"""Who made a bundle: a signature over all of its files by OpenSSF model-signing, with an elliptic-curve key.

``model_signing verify key BUNDLE --signature BUNDLE/signature.json --public_key KEY.pub`` reads it too.
"""

from __future__ import annotations

import base64
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import explain_os_errors, write_bytes
from toolkit.runtime.bundle import MANIFEST, SIGNATURE, Bundle
from toolkit.runtime.manifest import folder_entries
from toolkit.strict_json import read_json

MAKE_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out KEY"
MAKE_PUBLIC_KEY = "openssl ec -in KEY -pubout -out KEY.pub"


def check_private_key(private_key: Path) -> None:
    """Raise :class:`ToolkitError` unless the key can sign, so that no work is done for a key that can't."""
    _signer(private_key)


def sign(bundle: Path, private_key: Path) -> None:
    """Sign every file of a whole bundle; writes ``signature.json`` into it, atomically.

    Args:
        bundle: a folder with its manifest, in place or staged.
        private_key: PEM file with an unencrypted key on the curve P-256, P-384 or P-521.

    Raises:
        CheckFailed: a file differs from the manifest, which a signature must not cover up.
        ToolkitError: the key can't be used, the extra ``sign`` is not installed, or the folder not written.
    """
    signer = _signer(private_key)
    Bundle(bundle).check_files()
    with explain_os_errors(bundle / SIGNATURE), tempfile.TemporaryDirectory() as elsewhere:
        written = Path(elsewhere) / SIGNATURE
        signer.set_hashing_config(_all_but_the_signature()).sign(bundle, written)
        write_bytes(bundle / SIGNATURE, written.read_bytes())


def check_signature(bundle: Path, public_key: Path) -> dict[str, str]:
    """Check that the owner of a key signed just these files.

    Args:
        bundle: a bundle folder.
        public_key: PEM file with the public part of the key that signed.

    Returns:
        The SHA-256 that was signed for each file.

    Raises:
        CheckFailed: there is no signature, it is another key's, or it doesn't fit the files.
        ToolkitError: the key can't be used, or the extra ``sign`` is not installed.
    """
    verifier = _verifier(public_key)
    path = bundle / SIGNATURE
    if not path.is_file() or path.is_symlink():
        raise CheckFailed(f"{SIGNATURE} is missing: the bundle is not signed")
    try:
        # a copy, so that what was checked is what is read; model-signing prints where a signature names no key
        with tempfile.TemporaryDirectory() as elsewhere, redirect_stdout(io.StringIO()):
            copy = Path(elsewhere) / SIGNATURE
            copy.write_bytes(path.read_bytes())
            verifier.set_hashing_config(_all_but_the_signature()).verify(bundle, copy)
            signed = _signed_hashes(copy)
    except Exception as error:
        # malformed content raises a dozen unrelated classes there, and none of them may pass for a good signature
        raise CheckFailed(f"{SIGNATURE} does not fit the bundle and the key: {_reason(error)}") from error
    # a signature may itself say which files it leaves out
    left_out = (folder_entries(bundle)[0] | {MANIFEST}) - set(signed)
    if left_out:
        raise CheckFailed(f"{SIGNATURE} does not cover {', '.join(sorted(left_out))}")
    return signed


def _reason(error: Exception) -> str:
    """One line without the digests' bytes, which model-signing spells out, and without its quotes in quotes."""
    line = " ".join(str(error).partition(": Expected")[0].split())
    return re.sub(r"[\[\]'\"\\]", "", line) or type(error).__name__


def _signed_hashes(signature: Path) -> dict[str, str]:
    payload = read_json(signature.read_bytes())["dsseEnvelope"]["payload"]
    return {entry["name"]: entry["digest"] for entry in read_json(base64.b64decode(payload))["predicate"]["resources"]}


def _all_but_the_signature() -> Any:
    return _model_signing().hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _signer(key: Path) -> Any:
    config = _model_signing().signing.Config()
    with _reading(key, "no private key that can sign", MAKE_KEY):
        return config.use_elliptic_key_signer(private_key=key)


def _verifier(key: Path) -> Any:
    config = _model_signing().verifying.Config()
    with _reading(key, "no public key", MAKE_PUBLIC_KEY):
        return config.use_elliptic_key_verifier(public_key=key)


@contextmanager
def _reading(key: Path, what: str, command: str) -> Iterator[None]:
    """Say in one line why a key is of no use."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        yield
    except OSError as error:
        what = f"can't read the key: {error.strerror}"
        raise ToolkitError(what, where=key, fix="give the path of a PEM file") from error
    except TypeError as error:  # cryptography asks for a password
        fix = f"decrypt it with: openssl pkey -in {key} -out PLAIN"
        raise ToolkitError("the key is encrypted", where=key, fix=fix) from error
    except (ValueError, AttributeError, UnsupportedAlgorithm) as error:  # AttributeError: no curve, such as RSA
        what = f"{what}: a PEM file on the curve P-256, P-384 or P-521 is needed"
        raise ToolkitError(what, where=key, fix=f"make one with: {command}") from error


def _model_signing() -> Any:
    try:
        import model_signing
    except ImportError as error:
        fix = 'pip install "clip-toolkit[sign]"'
        raise ToolkitError(f"model-signing is not installed ({error})", where=sys.prefix, fix=fix) from error
    return model_signing
