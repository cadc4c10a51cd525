"""What an editor shows of a piece of code: the answers of pyright's language server, which VS Code and others ask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class LanguageServer:
    """A server for one text, asked at the place of a word in it."""

    def __init__(self, root: Path, text: str) -> None:
        self.text, self.uri = text, (root / "shown.py").as_uri()
        command = [sys.executable, "-m", "pyright.langserver", "--stdio"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        capabilities = {
            "workspace": {"configuration": True},
            "textDocument": {"hover": {"contentFormat": ["plaintext"]}, "signatureHelp": {}},
        }
        self._ask("initialize", processId=None, rootUri=root.as_uri(), capabilities=capabilities)
        self._tell("initialized")
        item = {"uri": self.uri, "languageId": "python", "version": 1, "text": text}
        self._tell("textDocument/didOpen", textDocument=item)

    def __enter__(self) -> LanguageServer:
        return self

    def __exit__(self, *raised: object) -> None:
        self._ask("shutdown")
        self._tell("exit")
        self.process.communicate(timeout=60)

    def hover(self, word: str) -> str:
        """What is shown where the pointer is over a word."""
        found: str = self._ask("textDocument/hover", **self._at(self.text.index(word)))["contents"]["value"]
        return found

    def signatures(self, call: str) -> list[str]:
        """What is shown while a call is written, after the part of it that is given."""
        place = self.text.index(call) + len(call)
        return [each["label"] for each in self._ask("textDocument/signatureHelp", **self._at(place))["signatures"]]

    def _at(self, place: int) -> dict[str, Any]:
        *lines, last = self.text[:place].split("\n")
        return {"textDocument": {"uri": self.uri}, "position": {"line": len(lines), "character": len(last)}}

    def _tell(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def _ask(self, method: str, **params: Any) -> Any:
        self._send({"id": method, "method": method, "params": params})
        while True:
            message = self._receive()
            if "method" not in message and message["id"] == method:
                return message["result"]
            if "method" in message and "id" in message:  # it asks back, for which Python to look through
                items = message.get("params", {}).get("items", [])
                self._send({"id": message["id"], "result": [{"pythonPath": sys.executable} for _ in items]})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        length = 0
        while header := self.process.stdout.readline().strip():
            name, value = header.split(b":")
            length = int(value) if name == b"Content-Length" else length
        message: dict[str, Any] = json.loads(self.process.stdout.read(length))
        return message
