"""Firefox, driven by its own remote protocol: what Playwright cannot do with a Firefox that it did not build."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

PATIENCE = 180  # seconds


class Firefox:
    """One headless window. Messages are JSON with their length before them: [0, number, command, arguments]."""

    def __init__(self, program: str, profile: Path) -> None:
        profile.mkdir()
        (profile / "user.js").write_text('user_pref("marionette.port", 0);\n')  # any free port
        command = [program, "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connection = socket.create_connection(("127.0.0.1", self.port(profile)))
        self.answers = self.connection.makefile("rb")
        self.number = 0
        self.read()  # Firefox introduces itself
        self.send("WebDriver:NewSession", {})
        self.send("WebDriver:SetTimeouts", {"script": 1000 * PATIENCE, "pageLoad": 1000 * PATIENCE})

    def port(self, profile: Path) -> int:
        until = time.monotonic() + PATIENCE
        while not (found := profile / "MarionetteActivePort").is_file() or not found.read_text().strip():
            if time.monotonic() > until:
                raise TimeoutError(f"Firefox did not start within {PATIENCE} seconds.")
            time.sleep(0.2)
        return int(found.read_text())

    def read(self) -> Any:
        digits = b""
        while (byte := self.answers.read(1)) != b":":
            digits += byte
        return json.loads(self.answers.read(int(digits)))

    def send(self, command: str, arguments: dict[str, Any]) -> Any:
        self.number += 1
        text = json.dumps([0, self.number, command, arguments]).encode()
        self.connection.sendall(b"%d:%s" % (len(text), text))
        _, _, error, result = self.read()
        if error:
            raise RuntimeError(error["message"])
        return result

    def open(self, address: str) -> None:
        self.send("WebDriver:Navigate", {"url": address})

    def run(self, function: str, *arguments: Any) -> Any:
        """What an asynchronous function returns; of the page it sees the global variables that are properties."""
        script = f"return ({function})(...arguments)"
        return self.send("WebDriver:ExecuteScript", {"script": script, "args": list(arguments), "sandbox": None})[
            "value"
        ]

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(PATIENCE)
