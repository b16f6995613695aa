"""JWTs: which ones count, what the others are refused with, and keys that change."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from mainspring.authentication import Authenticator
from mainspring.callers import Caller, Role
from mainspring.errors import SettingsError, UnauthenticatedError
from mainspring.settings import CoordinatorSettings

RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
KEYS: dict[str, Any] = {
    "RS256": RSA_KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
WRITERS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
NOW = int(time.time_ns() // 1_000_000_000)
CLAIMS: dict[str, Any] = {
    "sub": "billing",
    "iss": "https://id",
    "aud": "mainspring",
    "exp": NOW + 86_400,
    "role": "client",
}


def jwk(algorithm: str, key: Any = None, **more: str) -> dict[str, Any]:
    public = (key or KEYS[algorithm]).public_key()
    written: dict[str, Any] = json.loads(WRITERS[algorithm].to_jwk(public))
    return {**written, "kid": algorithm, **more}


def write(path: Path, *keys: dict[str, Any]) -> None:
    path.write_text(json.dumps({"keys": keys}))


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    write(path, *(jwk(name) for name in KEYS))
    return path


def authenticator(jwks: Path, **more: str) -> Authenticator:
    return Authenticator(
        CoordinatorSettings.of(
            AUTH_JWKS=str(jwks), AUTH_JWT_ISSUER="https://id", AUTH_JWT_AUDIENCE="mainspring", **more
        )
    )


def bearer(algorithm: str = "ES256", key: Any = None, kid: str | None = None, **claims: Any) -> str:
    payload = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    headers = {"kid": kid or algorithm}
    return "Bearer " + jwt.encode(payload, key or KEYS[algorithm], algorithm=algorithm, headers=headers)


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_that_a_key_of_the_file_has_signed_counts(jwks: Path, algorithm: str) -> None:
    told = authenticator(jwks)
    for _ in range(2):
        assert told.caller(bearer(algorithm)) == Caller("billing", Role.CLIENT)


STRANGER = ec.generate_private_key(ec.SECP256R1())
PUBLIC = "x" * 64
BAD: list[tuple[str, str]] = [
    (bearer(exp=NOW - 60), "Signature has expired"),
    (bearer(exp=None), 'missing the "exp" claim'),
    (bearer(nbf=NOW + 80_000), "not yet valid"),
    (bearer(iss="https://other"), "Invalid issuer"),
    (bearer(aud="other"), "Audience doesn't match"),
    (bearer(aud=None), 'missing the "aud" claim'),
    (bearer(sub=None), 'missing the "sub" claim'),
    (bearer(sub=""), "`sub` is not 1 to 128 bytes"),
    (bearer(sub="half \ud83d"), "of printable text"),
    (bearer(sub="\x1b[2J"), "of printable text"),
    (bearer(key=STRANGER), "Signature verification failed"),
    (bearer(kid="other"), "`kid` is not among the keys"),
    (bearer("HS256", PUBLIC, kid="ES256"), "alg value is not allowed"),
    (bearer("RS256", kid="ES256"), "alg value is not allowed"),
    (f"{bearer().rpartition('.')[0]}.", "does not count"),
    ("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", "not among the keys"),
    ("Bearer ..", "does not count"),
    (bearer(role=None), "no roles in the claim 'role'"),
    (bearer(role="king"), "no roles in the claim"),
    (bearer(role=["client", "admin"]), "2 roles in the claim"),
    (bearer(role={"client": 1}), "no roles in the claim"),
    (bearer(role=[{"client": 1}, 7]), "no roles in the claim"),
]


@pytest.mark.parametrize(("authorization", "told"), BAD, ids=[told for _, told in BAD])
def test_a_token_that_does_not_count_is_told_why_and_not_repeated(jwks: Path, authorization: str, told: str) -> None:
    with pytest.raises(UnauthenticatedError, match=told) as refused:
        authenticator(jwks).caller(authorization)
    assert authorization[len("Bearer ") :] not in str(refused.value)


def test_json_that_is_nested_too_deep_is_no_header_whatever_the_library_says(
    jwks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nested(token: str) -> None:
        raise RecursionError("maximum recursion depth exceeded while decoding a JSON array")

    monkeypatch.setattr(jwt, "get_unverified_header", nested)
    with pytest.raises(UnauthenticatedError, match="does not count"):
        authenticator(jwks).caller(bearer())


def test_none_is_no_algorithm_even_where_one_key_is_all_there_is(jwks: Path) -> None:
    write(jwks, jwk("ES256"))
    unsigned = jwt.encode(CLAIMS, "", algorithm="none")
    with pytest.raises(UnauthenticatedError, match="does not count"):
        authenticator(jwks).caller(f"Bearer {unsigned}")


def test_the_role_may_stand_deeper_and_among_others(jwks: Path) -> None:
    told = authenticator(jwks, AUTH_JWT_ROLE_CLAIM="realm_access.roles")
    among = bearer(realm_access={"roles": ["offline_access", "read-only"]})
    assert told.caller(among) == Caller("billing", Role.READ_ONLY)
    with pytest.raises(UnauthenticatedError, match=r"no roles in the claim 'realm_access\.roles'"):
        told.caller(bearer())


def test_keys_are_read_again_when_their_file_changes(jwks: Path) -> None:
    told = authenticator(jwks)
    token = bearer()
    assert told.caller(token).name == "billing"
    write(jwks, jwk("RS256"), jwk("EdDSA"))
    with pytest.raises(UnauthenticatedError, match="not among the keys"):
        told.caller(token)
    jwks.write_text("{")
    assert told.caller(bearer("RS256")).name == "billing", "a file that cannot be read leaves the keys as they were"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no set of keys"),
        ("[]", "is no set of keys"),
        ('{"keys": [1]}', "is no set of keys"),
        ('{"keys": []}', "has no key for ES256, EdDSA, RS256"),
        ('{"keys": [{"kty": "oct", "k": "aHVzaA", "kid": "a"}]}', "has no key for"),
        ('{"keys": [{"kty": "EC", "kid": "a"}]}', "is no set of keys"),
    ],
)
def test_a_bad_file_of_keys_is_refused(jwks: Path, text: str, told: str) -> None:
    jwks.write_text(text)
    with pytest.raises(SettingsError, match=told):
        authenticator(jwks)
