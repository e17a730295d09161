"""A real browser for the tests: Chromium through playwright, and a server for a folder of pages."""

import contextlib
import functools
import http.server
import os
import threading

import pytest

from rnn2rag import doctor


@contextlib.contextmanager
def chromium():
    """Yield a headless Chromium: the system's, else the one that playwright has installed."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=doctor.browser_program(), args=list(doctor.BROWSER_OPTIONS)
            )
        except Error as error:
            reason = f"no Chromium ({str(error).strip().splitlines()[0]})"
            remedy = "apt-get install chromium, or playwright install chromium"
            # Continuous integration installs one, so there it is a failure; elsewhere these tests are shown as not run.
            stop = pytest.fail if os.environ.get("CI") else pytest.skip
            stop(f"not run: {reason}: {remedy}")
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder):
    """Serve a folder on this machine alone and yield its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
