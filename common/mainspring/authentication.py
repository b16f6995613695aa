"""From what a call brings with it to who calls: a static token, a JWT, or the name in a client's certificate."""

from collections.abc import Collection
from typing import Final

from mainspring.callers import Caller, anonymous
from mainspring.channels import bearer
from mainspring.clock import calendar_now
from mainspring.errors import UnauthenticatedError
from mainspring.jwt_tokens import JwtVerifier, looks_like_jwt
from mainspring.limits import token_bytes_max
from mainspring.settings_security import Serving
from mainspring.tokens import TokenBook, read_tokens
from mainspring.watched import Watched

how_to_call: Final = "set MAINSPRING_TOKEN or MAINSPRING_TOKEN_FILE (docs/security.md)"


class Authenticator:
    """Tells who calls; where nothing is configured, everybody is `anonymous`."""

    def __init__(self, settings: Serving) -> None:
        """Read the files of the settings. Raises `SettingsError`."""
        path = settings.auth_tokens
        self._tokens = Watched((path,), lambda: read_tokens(path)) if path is not None else None
        self._jwt = JwtVerifier(settings) if settings.auth_jwks is not None else None

    @property
    def on(self) -> bool:
        """Tell whether callers must prove who they are."""
        return self._tokens is not None or self._jwt is not None

    def caller(
        self, authorization: str | None, certificate_names: Collection[str] = (), how: str = how_to_call
    ) -> Caller:
        """Return who calls; a token goes before a certificate.

        `UnauthenticatedError` says what is missing, never the token; `how` is what it says to do about it.
        """
        if not self.on:
            return anonymous
        book = self._tokens.get() if self._tokens is not None else TokenBook({}, {})
        now = calendar_now()
        if authorization is None:
            if (found := book.by_names(certificate_names, now)) is not None:
                return found
            if certificate_names:
                shown = ", ".join(repr(name) for name in list(certificate_names)[:3])
                raise UnauthenticatedError(
                    f"the certificate's names ({shown}) are not among those of AUTH_TOKENS, and the call has no token; {how}"
                )
            raise UnauthenticatedError(f"the call has no token; {how}")
        token = authorization[len(bearer) :].strip()
        if authorization[: len(bearer)].lower() != bearer.lower() or not 0 < len(token) <= token_bytes_max:
            raise UnauthenticatedError(f"the authorization is not `Bearer TOKEN`; {how}")
        if self._jwt is not None and looks_like_jwt(token):
            return self._jwt.caller(token)
        return book.by_token(token, now)
