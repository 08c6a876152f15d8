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
    """A page that must not log an error but for refusals and lost connections, nor ask another address."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000)
    page = context.new_page()
    errors: list[str] = []
    asked: set[str] = set()

    def heard(message: Any) -> None:
        if message.type == "error" and not re.search("status of 4|net::ERR_FAILED", message.text):
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
    while page.locator("#texts textarea").count() > len(texts):
        page.get_by_role("button", name=re.compile("Remove text")).last.click()
    while page.locator("#texts textarea").count() < len(texts):
        page.get_by_role("button", name="Add a text").click()
    for index, text in enumerate(texts):
        page.get_by_label(f"Text {index + 1}", exact=True).fill(text)
    page.get_by_role("button", name="Embed").click()
    page.get_by_text(re.compile(f"^Done: {len(texts)} texts?,")).wait_for()


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
    assert page.locator("#texts textarea").nth(1).evaluate("e => getComputedStyle(e).direction") == "rtl"

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


def start(server: Process, page: Any) -> None:
    page.goto(server.url)
    page.get_by_text("Done:").wait_for()


def faulty(page: Any) -> list[str]:
    return page.locator("[aria-invalid=true]").evaluate_all("all => all.map(e => e.id)")


def test_a_text_s_fault_is_told_at_its_field_and_beside_the_button(server: Process, page: Any):
    """By the text's number on the page, also where an empty field before it was not sent."""
    start(server, page)
    page.get_by_label("Text 1", exact=True).fill("")
    page.get_by_label("Text 4", exact=True).evaluate("e => e.value = 'half a pair \\ud800'")
    for section, button in (("#embedding", "Embed"), ("#reranking", "Rank the texts")):
        page.get_by_role("button", name=button).click()
        told = page.locator(section).get_by_role("alert")
        told.get_by_text("Text 4: lone surrogate U+D800 at character 12").wait_for()
        below = told.bounding_box()["y"] - page.get_by_role("button", name=button).bounding_box()["y"]
        assert 0 < below < 120
        assert faulty(page) == ["text-4"]
        assert page.locator("#facts-4").inner_text() == told.inner_text()
    page.get_by_label("Text 4", exact=True).fill("whole")
    page.get_by_role("button", name="Embed").click()
    page.get_by_text("Done: 5 texts").wait_for()
    assert faulty(page) == []
    assert page.locator("#embedding").get_by_role("alert").is_hidden()


def test_an_empty_field_fails_nobody(server: Process, page: Any):
    """It is left out and told of, in both parts; numbers stay those of the fields."""
    start(server, page)
    page.get_by_label("Text 2", exact=True).fill("")
    page.get_by_label("Text 5", exact=True).fill("")
    page.get_by_role("button", name="Embed").click()
    page.get_by_text("; 2 empty fields were left out.").wait_for()
    assert page.locator("#embedding .status").inner_text().startswith("Done: 4 texts, ")
    assert faulty(page) == []
    assert page.locator("#heat thead th").all_inner_texts() == ["1", "3", "4", "6"]
    assert page.locator(".weights").nth(2).text_content() == "北京"
    assert page.locator(".weights").nth(1).is_hidden()
    page.get_by_label("Text 5", exact=True).fill("x")
    page.get_by_role("button", name="Rank the texts").click()
    page.get_by_text("; 1 empty field was left out.").wait_for()
    assert "Text 2" not in page.locator("#ranks li .quiet").all_inner_texts()
    for area in page.locator("#texts textarea").all():
        area.fill("")
    for section, button in (("#embedding", "Embed"), ("#reranking", "Rank the texts")):
        page.get_by_role("button", name=button).click()
        page.locator(section).get_by_text("Every text is empty. Type one first.").wait_for()


def test_the_mark_of_a_word_s_beginning_colours_nothing(server: Process, page: Any):
    """The token `▁` before Chinese has no character: the word is one mark, not its last half."""
    page.goto(server.url)
    embed(page, "北京")
    pieces = server.post("/v1/encode", {"input": "北京", "tokens": True}).json()["data"][0]["token_weights"]
    want = [f"{piece['text']} {piece['weight']:.3f}" for piece in pieces if piece["text"] in ("北", "京")]
    marks = page.locator(".weights mark").evaluate_all("all => all.map(e => e.title)")
    assert marks == [title for title in want if not title.endswith(" 0.000")]
    assert [pieces[1][name] for name in ("text", "start", "stop")] == ["", 0, 0]


@pytest.mark.parametrize(
    ("section", "button", "path"),
    [("#embedding", "Embed", "**/v1/encode"), ("#reranking", "Rank the texts", "**/v2/rerank")],
)
def test_work_is_seen_while_it_goes_on(server: Process, page: Any, section: str, button: str, path: str):
    """A bar, a sentence and a button that cannot be pressed twice, until the answer is there."""
    start(server, page)
    held: list[Any] = []
    page.route(path, lambda route: held.append(route))
    page.get_by_role("button", name=button).click()
    part = page.locator(section)
    part.get_by_text("ing 6 texts…").wait_for()
    assert part.locator("progress").is_visible()
    assert part.get_attribute("aria-busy") == "true"
    assert part.locator("[type=submit]").is_disabled()
    page.wait_for_timeout(100)
    held[0].continue_()
    part.get_by_text("Done: 6 texts").wait_for()
    assert part.locator("progress").is_hidden()
    assert part.get_attribute("aria-busy") is None
    assert part.locator("[type=submit]").is_enabled()


def test_a_server_that_is_gone_is_told_of(server: Process, page: Any):
    """Beside the button, and the page works again when the server does."""
    start(server, page)
    page.route("**/v1/encode", lambda route: route.abort())
    page.get_by_role("button", name="Embed").click()
    page.locator("#embedding").get_by_text("The server does not answer. Is it still running?").wait_for()
    page.unroute("**/v1/encode")
    page.get_by_role("button", name="Embed").click()
    page.get_by_text("Done: 6 texts").wait_for()
    assert page.locator("#embedding").get_by_role("alert").is_hidden()


def ranked(page: Any) -> list[tuple[str, str, str]]:
    """(score, name, text) as shown, best first."""
    return [
        tuple(line.locator(part).inner_text() for part in (".score", ".quiet", "bdi"))
        for line in page.locator("#ranks li").all()
    ]


def test_it_ranks_where_a_reranker_is_served(server: Process, guarded: Process, page: Any):
    """The server's order and scores, with texts by their numbers; without a reranker, no such part."""
    start(server, page)
    page.get_by_label("Query").fill("sorting")
    page.keyboard.press("Control+Enter")
    page.locator("#reranking").get_by_text("Done: 6 texts").wait_for()
    texts = page.locator("#texts textarea").evaluate_all("all => all.map(e => e.value)")
    results = server.post("/v2/rerank", {"query": "sorting", "documents": texts}).json()["results"]
    assert ranked(page) == [
        (f"{one['relevance_score']:.3f}", f"Text {one['index'] + 1}", texts[one["index"]]) for one in results
    ]
    assert "/v2/rerank" in page.locator("#curl").text_content()
    page.get_by_label("Query").fill("")
    page.get_by_role("button", name="Rank the texts").click()
    page.locator("#reranking").get_by_text("The query is empty. Type one first.").wait_for()
    page.goto(guarded.url)
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_text("Done: 6 texts").wait_for()
    assert page.locator("#reranking").is_hidden()


@pytest.mark.slow  # a server of its own
def test_a_server_with_rerankers_only(reranker_bundle: Path, page: Any, tmp_path: Path):
    """It ranks; nothing of the page asks for what there is not."""
    process = Process(tmp_path, "--model", str(reranker_bundle), "--threads", "2")
    try:
        page.goto(process.url)
        page.get_by_text("This server has no embedder. It ranks these texts.").wait_for()
        assert page.get_by_role("button", name="Embed").is_hidden()
        assert page.locator("#similarity").is_hidden()
        page.get_by_role("button", name="Rank the texts").click()
        page.locator("#reranking").get_by_text("Done: 6 texts").wait_for()
        assert len(ranked(page)) == 6
    finally:
        assert process.stop() == 0


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
        for width in (1280, 400, 360):
            page.set_viewport_size({"width": width, "height": 800})
            for wide in ("document.documentElement", "document.getElementById('heat-scroll')"):
                assert page.evaluate(f"{wide}.scrollWidth - {wide}.clientWidth") <= 0, (width, wide)


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
