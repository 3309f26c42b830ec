"""One visitor's page and what it looks like."""

import io
from pathlib import Path

from PIL import Image

from tests.ui.serving import wait_until

DONE, FAILED = ".g-status[data-state=done]", ".g-status[data-state=failed]"
REFUSED = ".g-status[data-state=refused]"
RUNNING = ".g-status[data-state=running]"
PROMPT, VIEWER = "#prompt textarea", "#viewer canvas"


class Visit:
    """One visitor's page, with what it asked of which host and what it complained about."""

    def __init__(self, browser, server, width: int = 1280, **context) -> None:
        self.server, self.foreign, self.errors, self.dialogs = server, [], [], []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("request", lambda request: self._request(request.url))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.goto(server.url)
        self.page.wait_for_selector(PROMPT)
        self.settle("body")  # listeners are attached shortly after the first paint

    def _request(self, url: str) -> None:
        if not url.startswith((self.server.url + "/", "data:", "blob:")):
            self.foreign.append(url)

    def _console(self, message) -> None:
        # Without a graphics card the viewer says that it falls back to WebGL; refused requests are the test's own.
        harmless = "WebGPU" in message.text or "status of 422" in message.text
        if message.type == "error" and not harmless:
            self.errors.append(message.text)

    def settle(self, selector: str) -> None:
        """Wait until gradio has built what belongs into an element: nothing comes or goes for 300 ms."""
        self.page.evaluate(
            "(selector) => new Promise(done => {"
            "let timer = setTimeout(done, 300);"
            "new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, 300); })"
            ".observe(document.querySelector(selector), {childList: true, subtree: true})})",
            selector,
        )

    def open_settings(self) -> None:
        """Unfold the settings, which gradio builds only then."""
        self.page.click("#advanced button")
        self.page.wait_for_selector("#set-roughness")
        self.settle("#advanced")

    def type(self, selector: str, words: str) -> None:
        """Fill a field, and again where gradio was still building it and puts its own value back."""
        field = self.page.locator(selector)

        def stays() -> bool:
            field.fill(words)
            self.page.wait_for_timeout(200)
            return field.input_value() == words

        wait_until(stays)

    def type_setting(self, name: str, words: str) -> None:
        """Fill the field of a setting."""
        self.type(f"#set-{name} textarea, #set-{name} input", words)

    def attach(self, place: str, *paths: Path) -> None:
        """Choose files for a list of files, and wait until they are listed.

        Their names are also shown while they are sent, which may be over before anyone looks.
        """
        self.page.set_input_files(f"{place} input[type=file]", paths)
        for path in paths:
            self.page.wait_for_selector(f"{place} td[aria-label='{path.name}']")

    def generate(self, prompt: str | None = None, until: str = DONE) -> None:
        """Type, press Generate and wait for the end of the run."""
        if prompt is not None:
            self.type(PROMPT, prompt)
        # Gradio drops a click that comes before it has put a refused one away.
        self.page.wait_for_function("() => !document.querySelector('.pending')")
        self.page.evaluate("() => document.querySelector('.g-status').setAttribute('data-former', '')")
        self.page.click("#generate")
        self.page.wait_for_selector(".g-status:not([data-former])")  # the former run may have ended as this one will
        self.page.wait_for_selector(until)

    def line(self) -> str:
        """What the progress card says."""
        return self.page.inner_text(".g-line")

    def boxes(self) -> dict:
        """Place and size of the result's parts on the whole page."""
        return self.page.evaluate(
            "() => Object.fromEntries(['#viewer', '#status', '#tiles', '#download-glb'].map(name => {"
            "const box = document.querySelector(name).getBoundingClientRect();"
            "return [name, [box.left, box.top + scrollY, box.width, box.height].map(Math.round)]}))"
        )

    def viewer(self) -> Image.Image:
        """The viewer as it is seen, without its label and buttons."""
        picture = Image.open(io.BytesIO(self.page.locator("#viewer").screenshot())).convert("RGB")
        return picture.crop((4, 34, picture.width - 4, picture.height - 4))

    def viewer_is_drawn(self) -> bool:
        """Whether there is more than a plain ground."""
        return len(self.viewer().getcolors(10**6)) > 50

    def viewer_margins(self) -> list[Image.Image]:
        """Thin strips along the viewer's four sides."""
        picture = self.viewer()
        width, height = picture.size
        boxes = ((0, 0, width, 3), (0, height - 3, width, height), (0, 0, 3, height), (width - 3, 0, width, height))
        return [picture.crop(box) for box in boxes]
