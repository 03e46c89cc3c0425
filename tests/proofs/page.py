#!/usr/bin/env python3
"""The local page in Chromium, for what only a browser shows: it asks nobody else for anything, its policy holds, hostile names stay text
and make it no wider, it can be read in light, in dark and on a narrow screen, and what can be clicked does what it says.

What it shows, and to whom, is tested in `local/tests/it/page.rs`. That a violation would be noticed is shown too: elements that ask
another origin are put into the page, and the policy's refusal is seen. `--pictures DIR` keeps what the page looks like.
`tests/proofs/run page` installs Chromium and playwright, and builds scanhook.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from any_registry import new_digest, proxy
from deliveries import HARBOR, harbor_push
from harness import Proof, Workshop, base_environment, http, require_binaries, require_programs, run_proof, serving, until
from playwright.sync_api import Page, sync_playwright
from serve import DEAD_LETTERS, SCANHOOK, Server, link_stand_in, start_server
from stage import API_TOKEN, TOKENS

CONFIG = """
registries: { harbor.example.com: { insecure: true } }
sources:
  harbor: { kind: harbor, registry: harbor.example.com, auth: [{ type: token, secret: "env:PROOF_HARBOR" }] }
scanner: { api_token: "env:PROOF_API_TOKEN", api_url: "http://127.0.0.1:1", timeout: 1m, concurrency: 4 }
retry: { attempts: 5, base: 1m, cap: 1m }
"""
SCANNED = ["pass", "fail", "pass-clean", "accepted", "no-policy", "unsupported"] * 6
"""Repositories that are scanned; the stand-in CLI does what their names say."""
OUTSIDE = "outside.example"
"""Where nothing may be asked for."""
HOSTILE = f"</td><script>alert('1')</script><img src=http://{OUTSIDE}/a onerror=alert(2)><style>*{{background:url(//{OUTSIDE}/b)}}</style>" + "W" * 3000
SIZES = {"light": (1200, "light"), "dark": (1200, "dark"), "narrow": (390, "light")}

CONTRAST = """() => {
    const parts = it => it.match(/[\\d.]+/g).slice(0, 3).map(it => it / 255).map(it => it <= .04045 ? it / 12.92 : ((it + .055) / 1.055) ** 2.4);
    const light = it => { const [r, g, b] = parts(it); return .2126 * r + .7152 * g + .0722 * b };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const texts = [...document.querySelectorAll('a, h1, h2, td, th, dt, dd, p, li, span')];
    return Math.min(...texts.map(it => { const ink = light(getComputedStyle(it).color);
        return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05) })) }"""
"""The least contrast of a text to the page, as WCAG 2 counts it."""
OVER = """() => [...document.querySelectorAll('td.long *, td.long')]
    .filter(it => it.scrollWidth > it.clientWidth + 1 && getComputedStyle(it).display !== 'inline').length"""
"""How many texts run over the next cell's."""


def filled_server(shop: Workshop) -> Server:
    """A server with scans of the last day, of which some run, some failed and some are dead letters."""
    env = base_environment(**TOKENS, **API_TOKEN, **proxy())
    env["PATH"] = f"{link_stand_in(shop.directory / 'cli').parent}:{env['PATH']}"

    def deliver(server: Server, name: str, **headers: str) -> None:
        http("POST", f"{server.url}/webhooks/harbor", {**HARBOR, **headers}, harbor_push(f"prod/{name}", new_digest()))

    server = start_server(shop, CONFIG, env=env)
    for name in SCANNED:
        deliver(server, name)
    until("all are scanned", lambda: sum(it["state"] in ("done", "dead_letter") for it in server.scans()) == len(SCANNED))
    server.process.terminate()
    with sqlite3.connect(server.data / "ledger.sqlite") as ledger:
        for number, (scan_id, text) in enumerate(ledger.execute("SELECT scan_id, record FROM scan").fetchall()):
            record = json.loads(text)
            back = timedelta(minutes=(number * number * 7) % (23 * 60))
            times = {it: (datetime.fromisoformat(record[it]) - back).isoformat() for it in ("received_at", "started_at", "finished_at")}
            ledger.execute("UPDATE scan SET record = ? WHERE scan_id = ?", (json.dumps(record | times), scan_id))
    server = start_server(shop, CONFIG, env=env)
    for name in ["hang", "hang-ignoring-term", "network", "fail", "fail/" * 20 + "of-a-long-name"]:
        deliver(server, name)
    deliver(server, "pass", Authorization="fake-wrong-token-0123456789")
    until("the last ones are scanned", lambda: sum(it["state"] == "retrying" for it in server.scans()) == 1)
    return server


def add_hostile_names(server: Server) -> None:
    """Adds a dead letter and a scan with names as no registry has them; what lies in a queue may come from elsewhere."""
    letter = {f"scanhook.{it}": {"DataType": "String", "StringValue": HOSTILE} for it in ("reason", "detail", "scan_id")}
    server.sqs.call("SendMessage", QueueUrl=server.sqs.queue_url(DEAD_LETTERS), MessageBody=HOSTILE, MessageAttributes=letter)
    with sqlite3.connect(server.data / "ledger.sqlite") as ledger:
        scan_id, text = ledger.execute("SELECT scan_id, record FROM scan LIMIT 1").fetchone()
        record = json.loads(text) | {"image": HOSTILE, "reason": HOSTILE, "policies_failed": [HOSTILE], "result_url": "javascript:alert(3)"}
        ledger.execute("UPDATE scan SET record = ? WHERE scan_id = ?", (json.dumps(record), scan_id))


class Seen:
    """What a page asked for and complained of, and what got out of the machine."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("request", lambda it: self.requests.append(it.url))
        page.on("console", lambda it: self.complaints.append(it.text))
        page.on("pageerror", lambda it: self.complaints.append(str(it)))
        page.on("dialog", lambda it: (self.complaints.append(it.message), it.accept()))


@contextmanager
def browser() -> Iterator[tuple[Page, Seen]]:
    """A page of Chromium, for which whatever is not loopback is a server of ours that answers nothing."""
    asked: list[str] = []

    def answer(_method: str, _path: str, _query: object, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        asked.append(headers["Host"])
        return 404, {}, b""

    with serving(answer) as address, sync_playwright() as playwright:
        # Its sandbox does not work for root; what is shown to it is ours.
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            chromium_sandbox=os.geteuid() != 0,
            proxy={"server": f"http://{address}", "bypass": "127.0.0.1"},
        )
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        seen = Seen(page)
        seen.outside = asked
        yield page, seen
        chromium.close()


def what_can_be_clicked_does_what_it_says(proof: Proof, page: Page, server: Server) -> None:
    proof.part("what can be clicked")
    page.goto(f"{server.url}/")
    links = page.eval_on_selector_all("a", "all => all.map(it => it.getAttribute('href'))")
    proof.equal("links lead within the page", [it for it in links if it[0] not in "#?"], [])
    others = page.locator("button, input, form, iframe, script, object, embed, [onclick], area").count()
    proof.equal("and there is nothing to send, run or embed", others, 0)
    with page.expect_navigation(timeout=15_000):
        pass
    proof.true("the page loads itself again", True)
    page.click("a.refresh")
    page.wait_for_url("**/?still")
    page.evaluate("window.isTheSame = true")
    page.wait_for_timeout(7_000)
    proof.true("a click has it stand still", page.evaluate("window.isTheSame"))
    for part in ("running", "deliveries", "verdicts", "dead-letters"):
        page.click(f"nav a[href='#{part}']")
        proof.true(f"a click leads to {part}", page.url.endswith(f"#{part}"), page.url)
    details = page.locator("#verdicts + .table details").first
    for is_open in (True, False):
        page.locator("#verdicts + .table summary").first.click()
        proof.equal(f"a click has a scan's details {'shown' if is_open else 'hidden'}", details.evaluate("it => it.open"), is_open)
    bars = page.eval_on_selector_all("svg rect", "all => all.map(it => [it.className.baseVal, getComputedStyle(it).fill])")
    proof.equal("each class of bars has its colour", len({it[1] for it in bars}), len({it[0] for it in bars}))
    page.click("a.refresh")
    page.wait_for_url(f"{server.url}/")
    proof.true("and a click has it go on", True)


def it_can_be_read(proof: Proof, page: Page, server: Server, pictures: Path | None) -> None:
    for name, (width, scheme) in SIZES.items():
        proof.part(name)
        page.set_viewport_size({"width": width, "height": 1000})
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{server.url}/?still")
        least = page.evaluate(CONTRAST)
        # Source: WCAG 2.2, success criterion 1.4.3.
        proof.true("every text has a contrast of 4.5 at least", least >= 4.5, least)
        if pictures:
            page.screenshot(path=pictures / f"{name}.png")


def hostile_names_stay_text(proof: Proof, page: Page, server: Server) -> None:
    proof.part("hostile names")
    add_hostile_names(server)
    page.goto(f"{server.url}/?still")
    proof.true("they are shown as they are", page.inner_text("body").count("<script>alert('1')") >= 2)
    proof.equal("and make no element", page.locator("body script, body img, body style").count(), 0)
    page.eval_on_selector_all("details", "all => all.forEach(it => it.open = true)")
    for name, (width, _) in SIZES.items():
        page.set_viewport_size({"width": width, "height": 1000})
        wide = page.evaluate("document.documentElement.scrollWidth")
        proof.equal(f"{name}: the page is no wider than its window, and no text runs over", (wide, page.evaluate(OVER)), (width, 0))


def nobody_else_is_asked(proof: Proof, page: Page, seen: Seen, server: Server) -> None:
    proof.part("what it asked for, in all of that")
    asked = {(urlsplit(it).netloc, urlsplit(it).path) for it in seen.requests}
    proof.equal("the page and its style, and nothing else", asked, {(urlsplit(server.url).netloc, it) for it in ("/", "/page.css")})
    proof.equal("its policy was not violated, and nothing ran", seen.complaints, [])
    page.evaluate(f"document.body.insertAdjacentHTML('beforeend', '<img src=http://{OUTSIDE}/c><p style=color:red>')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    page.wait_for_timeout(1_000)
    for what in ("img", "style", "script"):
        proof.true(f"of another {what}, were there one, the policy would complain", any(what in it for it in seen.complaints), seen.complaints)
    proof.equal("it would not run", page.evaluate("typeof window.ran"), "undefined")
    proof.equal("and nothing got out", [it for it in seen.outside if OUTSIDE in it], [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="where to keep what it looks like")
    pictures = parser.parse_args().pictures
    require_programs(chromium="chromium")
    require_binaries(SCANHOOK)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)

    def prove(proof: Proof, shop: Workshop) -> None:
        server = filled_server(shop)
        with browser() as (page, seen):
            what_can_be_clicked_does_what_it_says(proof, page, server)
            it_can_be_read(proof, page, server, pictures)
            hostile_names_stay_text(proof, page, server)
            nobody_else_is_asked(proof, page, seen, server)

    return run_proof("the local page, in Chromium", prove)


if __name__ == "__main__":
    sys.exit(main())
