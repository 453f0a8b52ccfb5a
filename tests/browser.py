"""A headless Chromium that tests drive through its DevTools protocol, on a pair of pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome")
                 if (path := shutil.which(name))), None)
"""The program, None where there is none."""


class PageLeft(AssertionError):
    """The page has gone while a command for it was under way."""


class Browser:
    """One page of a Chromium without a network.

    said: errors and warnings of its console, and uncaught exceptions. seconds: how long an answer may take.
    """

    def __init__(self, folder, seconds=60):
        self.said, self._number, self._rest, self._seconds = [], 0, b"", seconds
        (reads, self._to), (self._from, writes) = os.pipe(), os.pipe()

        def hand_over():        # Chromium reads commands from 3, and answers to 4
            low, high = os.dup(reads), os.dup(writes)
            os.dup2(low, 3)
            os.dup2(high, 4)

        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   "--remote-debugging-pipe", f"--user-data-dir={folder}/profile",
                   "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"]
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen(command, preexec_fn=hand_over, close_fds=False, stdin=nothing,
                                         stdout=nothing, stderr=nothing,
                                         env={**os.environ, "HOME": str(folder)})
        os.close(reads)
        os.close(writes)
        self._session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method, **parameters):
        """Return the result of a command of the protocol; raises AssertionError for its error."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        if "navigated" in answer.get("error", {}).get("message", ""):
            raise PageLeft(answer["error"])
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, url, width=1000, height=900):
        """Go to a page, in a window of this size, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=False)
        self.call("Page.navigate", url=str(url))
        self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    def value(self, expression):
        """Return the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def until(self, expression):
        """Return the value of an expression once it is true."""
        until = time.monotonic() + self._seconds
        while True:
            try:
                found = self.value(expression)
            except PageLeft:
                found = "a page that is left"
            else:
                if found:
                    return found
            assert time.monotonic() < until, f"{expression} is still {found}; the console: {self.said}"
            time.sleep(0.02)

    def type(self, selector, text):
        """Type into the element of a selector, as from a keyboard."""
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        for letter in text:
            self.call("Input.dispatchKeyEvent", type="keyDown", text=letter, key=letter)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)

    def picture(self):
        """Return what the window shows, a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def _note(self, event):
        method, inside = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.said.append(json.dumps(inside["exceptionDetails"]))
        elif method == "Log.entryAdded" and inside["entry"]["level"] in ("error", "warning"):
            self.said.append(inside["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and inside["type"] in ("error", "warning", "assert"):
            self.said.append(json.dumps(inside["args"]))

    def _read(self):
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], self._seconds)[0], "Chromium is silent"
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
