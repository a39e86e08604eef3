"""Where a chat endpoint is, and how it is reached: directly, or through the proxy that the environment names."""

from __future__ import annotations

import base64
import http.client
import ssl
import urllib.parse
import urllib.request

from crossmamba.errors import UsageError

__all__ = ["Endpoint"]


class Endpoint:
    """The chat URL of a service.

    `http://host`, `http://host/v1` and the whole URL all mean `http://host/v1/chat/completions`.

    Attributes:
        target: what the request line names: the path, or the whole URL where a proxy is asked to fetch it.
        extra: headers that the proxy wants.

    Raises:
        UsageError: no http or https URL, or one with a password in it.
    """

    def __init__(self, base_url: str) -> None:
        try:
            parts = urllib.parse.urlsplit(base_url.strip())
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{base_url!r} is no URL ({error})") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{base_url!r} is no http or https URL, such as https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                "the URL of the endpoint must have no user, password, query or fragment; keys go into the environment"
            )
        path = parts.path.rstrip("/")
        if not path.endswith("/chat/completions"):
            path += "/chat/completions" if path else "/v1/chat/completions"
        self._tls, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._place = parts.netloc
        self._path = urllib.parse.quote(path, safe="/%:@!$&'()*+,;=-._~")
        self._proxy, self._proxy_login = self._find_proxy(parts.scheme)
        through = self._proxy is not None and not self._tls
        self.target = f"http://{self._place}{self._path}" if through else self._path
        self.extra = self._proxy_login if through else {}

    @property
    def private(self) -> bool:
        """Whether nobody on the way can read what is sent: TLS, or this machine."""
        return self._tls or (self._proxy is None and self._host in ("localhost", "127.0.0.1", "::1"))

    def __str__(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._place}{self._path}"

    def _find_proxy(self, scheme: str) -> tuple[urllib.parse.SplitResult | None, dict[str, str]]:
        """The environment's proxy for this place, None if there is none, and the header that logs in there."""
        found = urllib.request.getproxies().get(scheme)
        if not found or urllib.request.proxy_bypass(self._place):
            return None, {}
        proxy = urllib.parse.urlsplit(found if "://" in found else f"http://{found}")
        if proxy.scheme != "http" or not proxy.hostname:
            raise UsageError(
                f"the proxy {proxy.scheme}://{proxy.hostname} of the environment cannot be used: only http"
            )
        if not proxy.username:
            return proxy, {}
        pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
        return proxy, {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        """A connection that is not open yet; `timeout` seconds for each single wait."""
        if self._proxy is None:
            host, port = self._host, self._port
        else:
            host, port = str(self._proxy.hostname), self._proxy.port or 80
        if not self._tls:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        if self._proxy is not None:
            connection.set_tunnel(self._host, self._port or 443, headers=self._proxy_login)
        return connection
