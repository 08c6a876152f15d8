"""The page at `/` in a real browser: the server's answers, with and without a key, by keyboard, in dark."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Process

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
KEY = "a-key-of-the-tests"
ARABIC = "بكين هي عاصمة الصين."
MIXED = "👩‍🚀 quick sort, schnelle Sortierung"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The shipped model behind a key."""
    folder = tmp_path_factory.mktemp("playground")
    (folder / "keys").write_text(KEY)
    process = Process(folder, "--threads", "2", "--api-key-file", str(folder / "keys"))
    yield process
    assert process.stop() == 0
    assert KEY not in process.log_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not log an error, except for refusals, nor send requests to another address."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000)
    page = context.new_page()
    errors: list[str] = []
    asked: set[str] = set()

    def heard(message: Any) -> None:
        if message.type == "error" and "status of 4" not in message.text:
            errors.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.add(re.sub(r"^(\w+:(//[^/]*)?).*", r"\1", request.url)))
    yield page
    context.close()
    assert errors == []
    assert {origin for origin in asked if not origin.startswith(("http://127.0.0.1:", "data:"))} == set()


def embed(page: Any, *texts: str) -> None:
    """Type texts in place of the examples, and embed them."""
    while page.locator("textarea").count() > len(texts):
        page.get_by_role("button", name=re.compile("Remove text")).last.click()
    while page.locator("textarea").count() < len(texts):
        page.get_by_role("button", name="Add a text").click()
    for index, text in enumerate(texts):
        page.get_by_label(f"Text {index + 1}", exact=True).fill(text)
    page.get_by_role("button", name="Embed").click()
    page.get_by_text(f"Done: {len(texts)} texts").wait_for()


def cells(page: Any) -> np.ndarray:
    return np.array(
        [
            [float(c) for c in row.locator("td").all_inner_texts()]
            for row in page.locator("#heat tbody tr").all()
        ]
    )


def slide(page: Any, name: str, value: float) -> None:
    """As a hand does: the value, then the event."""
    page.get_by_label(name).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def test_its_policy_allows_only_itself(server: Process):
    """The hashes are those of the only script and the only style; nothing is inline beyond them."""
    answer = server.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert (
        policy["default-src"]
        == policy["base-uri"]
        == policy["form-action"]
        == policy["frame-ancestors"]
        == "'none'"
    )
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        (source,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"
        assert len(source) > 1000
    assert not re.search(r"\son\w+=|\sstyle=|https?://(?!www\.w3\.org)", answer.text)


def test_it_shows_what_the_server_says(server: Process, page: Any):
    """Marks, counts, and every cell of the three heat maps, against the server's own answers."""
    texts = [
        "What is the capital of China?",
        ARABIC,
        MIXED,
        "capital of China",
        "<b>&amp;</b> <script>alert(1)</script>",
    ]
    page.goto(server.url)
    embed(page, *texts)
    answer = server.post(
        "/v1/encode", {"input": texts, "sparse": True, "sparse_format": "tokens", "tokens": True}
    ).json()["data"]
    for index, text in enumerate(texts):
        shown = page.locator(".weights").nth(index)
        assert shown.text_content() == text
        weighing = [t for t in answer[index]["token_weights"] if t["weight"] > 0]
        spans = {text[t["start"] : t["stop"]] for t in weighing}
        # Tokens may overlap by a character; each is then shown once.
        assert all(any(mark in span for span in spans) for mark in shown.locator("mark").all_text_contents())
        assert shown.locator("mark").count() > 0
        assert page.locator(".facts").nth(index).inner_text() == f"{answer[index]['tokens']} tokens"
    assert page.locator(".weights").nth(1).evaluate("e => getComputedStyle(e).direction") == "rtl"
    assert page.locator("textarea").nth(1).evaluate("e => getComputedStyle(e).direction") == "rtl"

    width = len(answer[0]["embedding"])
    half = width // 2
    settings = [
        ("hybrid", 1.0, 0.1, width),
        ("hybrid", 0.5, 0.85, half),
        ("dense", 1.0, 0.0, half),
        ("sparse", 0.0, 1.0, width),
    ]
    for kind, dense, sparse, dim in settings:
        page.get_by_label(kind, exact=True).check()
        if kind == "hybrid":
            slide(page, "Dense weight", dense)
            slide(page, "Sparse weight", sparse)
        if kind != "sparse":
            slide(page, "Dimension", dim)
        want = []
        for text in texts:
            body = {
                "queries": text,
                "documents": texts,
                "dense_weight": dense,
                "sparse_weight": sparse,
                "dimensions": dim,
            }
            want.append([item["score"] for item in server.post("/v1/score", body).json()["data"]])
        np.testing.assert_allclose(cells(page), want, atol=6e-4, err_msg=f"{kind} {dense} {sparse} {dim}")
    total = page.locator("#timings div", has_text="server in all").locator("dd").inner_text()
    assert float(total.removesuffix(" ms")) > 0


def test_a_key_is_asked_for_and_kept_nowhere(guarded: Process, page: Any):
    """Without the key the page says so; with it, it works; a reload has forgotten it."""
    page.goto(guarded.url)
    page.get_by_text("This server asks for a key").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("The server does not know this key.").wait_for()
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_text("Done: 6 texts").wait_for()
    assert page.get_by_role("alert").is_hidden()
    assert KEY not in page.locator("#curl").text_content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    page.get_by_text("This server asks for a key").wait_for()
    assert page.get_by_label("API key").input_value() == ""


def test_by_keyboard_alone(server: Process, page: Any):
    """Tab reaches every control; Ctrl+Enter embeds; arrows move sliders and choices."""
    page.goto(server.url)
    page.get_by_text("Done:").wait_for()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.value || e.className)(document.activeElement)"))
    wanted = {
        "model",
        "key",
        "text-1",
        "text-6",
        "run",
        "add",
        "hybrid",
        "dense-weight",
        "sparse-weight",
        "dimension",
        "heat-scroll",
    }
    assert wanted <= set(reached)
    page.locator("#text-1").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("北京是首都")
    page.keyboard.press("Control+Enter")
    page.locator(".weights", has_text="北京是首都").wait_for()
    before = cells(page)
    page.get_by_label("Sparse weight").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#sparse-weight-value").inner_text() == "0.15"
    assert not np.array_equal(before, cells(page))
    page.locator("[value=hybrid]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("[value=sparse]").is_checked()
    nameless = "all => all.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length"
    assert page.locator("input, select, textarea, button").evaluate_all(nameless) == 0


def test_a_refusal_points_at_its_text(server: Process, page: Any):
    page.goto(server.url)
    page.get_by_text("Done:").wait_for()
    page.get_by_label("Text 3", exact=True).fill("")
    page.get_by_role("button", name="Embed").click()
    page.get_by_text("input[2] is an empty string").wait_for()  # beside the text; others have vectors
    assert page.get_by_role("alert").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(guarded: Process, browser: Any, tmp_path: Path, scheme: str):
    """Contrast of text on page, marks and cells is 4.5 or more; nothing overflows, even on a telephone."""
    with browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(guarded.url)
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_text("Done: 6 texts").wait_for(timeout=30_000)
        for selector in ("h1", ".quiet", "#run", "mark", "#heat td:not(.corner)", "a", "#heat tbody th"):
            assert min(page.locator(selector).evaluate_all(CONTRAST)) >= 4.5, selector
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert (
                page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                <= 0
            )


CONTRAST = """all => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const over = (colours) => { // painted one over the other, whatever colour space they are in
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return all.filter(e => e.getClientRects().length).map(e => {
    const behind = [];
    for (let at = e; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const [a, b] = [light(over(behind)), light(over([...behind, getComputedStyle(e).color]))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}"""
