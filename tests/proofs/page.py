#!/usr/bin/env python3
"""The local page in a real Chromium: what it shows, what can be clicked, and that it asks nobody else for anything.

Chromium (Debian's package `chromium`) is driven by its DevTools protocol, which tells each request that the page makes and
each violation of its policy. That this would be noticed is shown too: an element that asks another origin is put into the
page, and the policy's refusal is seen.

`--pictures DIR` keeps what the page looks like: in light, in dark, and on a narrow screen.
"""

from __future__ import annotations

import argparse
import json
import socket
import sqlite3
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from any_registry import new_digest, proxy
from browser import Outside, Page, browser
from deliveries import HARBOR, harbor_push
from harness import Proof, Workshop, base_environment, http, require_binaries, require_programs, run_proof, until
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

Sizes = list[tuple[str, int, int, str]]
SIZES: Sizes = [("light", 1200, 1000, "light"), ("dark", 1200, 1000, "dark"), ("narrow", 390, 1000, "light")]


def deliver(server: Server, name: str, **headers: str) -> int:
    push = harbor_push(f"prod/{name}", new_digest())
    return http("POST", f"{server.url}/webhooks/harbor", {**HARBOR, **headers}, push).status


def filled_server(shop: Workshop) -> Server:
    """A server with scans of the last day, of which some run, some failed and some are dead letters."""
    env = base_environment(**TOKENS, **API_TOKEN, **proxy())
    env["PATH"] = f"{link_stand_in(shop.directory / 'cli').parent}:{env['PATH']}"
    server = start_server(shop, CONFIG, env=env)
    for name in SCANNED:
        deliver(server, name)
    until("all are scanned", lambda: sum(it["state"] in ("done", "dead_letter") for it in server.scans()) == len(SCANNED))
    server.process.terminate()
    spread_over_a_day(server.data / "ledger.sqlite")
    server = start_server(shop, CONFIG, env=env)
    for name in ["hang", "hang-ignoring-term", "network", "fail", "fail/" * 20 + "of-a-long-name"]:
        deliver(server, name)
    deliver(server, "pass", Authorization="fake-wrong-token-0123456789")
    http("POST", f"{server.url}/webhooks/nobody", HARBOR, b"{}")
    until("the last ones are scanned", lambda: sum(it["state"] == "retrying" for it in server.scans()) == 1)
    return server


def spread_over_a_day(ledger: Path) -> None:
    """Has scans be ended some time in the last 23 hours."""
    database = sqlite3.connect(ledger)
    rows = database.execute("SELECT scan_id, record FROM scan").fetchall()
    for number, (scan_id, text) in enumerate(rows):
        record = json.loads(text)
        back = timedelta(minutes=(number * number * 7) % (23 * 60))
        for name in ("received_at", "started_at", "finished_at"):
            record[name] = (datetime.fromisoformat(record[name]) - back).isoformat()
        database.execute("UPDATE scan SET record = ? WHERE scan_id = ?", (json.dumps(record), scan_id))
    database.commit()
    database.close()


def add_hostile_names(server: Server) -> None:
    """Adds a dead letter and a scan with names as no registry has them; what lies in a queue may come from elsewhere."""
    letter = {f"scanhook.{it}": {"DataType": "String", "StringValue": HOSTILE} for it in ("reason", "detail", "scan_id")}
    server.sqs.call("SendMessage", QueueUrl=server.sqs.queue_url(DEAD_LETTERS), MessageBody=HOSTILE, MessageAttributes=letter)
    database = sqlite3.connect(server.data / "ledger.sqlite")
    scan_id, text = database.execute("SELECT scan_id, record FROM scan LIMIT 1").fetchone()
    record = json.loads(text)
    record |= {"image": HOSTILE, "reason": HOSTILE, "policies_failed": [HOSTILE], "result_url": "javascript:alert(3)"}
    database.execute("UPDATE scan SET record = ? WHERE scan_id = ?", (json.dumps(record), scan_id))
    database.commit()
    database.close()


def it_shows_what_there_is(proof: Proof, page: Page, server: Server) -> None:
    proof.part("what it shows")
    page.go(f"{server.url}/?still")
    proof.equal("its title", page.tell("document.title"), "scanhook")
    heads = page.tell("[...document.querySelectorAll('h2')].map(it => it.textContent)")
    proof.equal("its parts", heads[1:], ["Running", "Deliveries", "Verdicts", "Dead letters"])
    facts = dict(page.tell("[...document.querySelectorAll('dl.facts div')].map(it => [it.children[0].textContent, it.children[1].textContent])"))
    dead = SCANNED.count("unsupported")
    proof.equal("how many run, wait and are dead", [facts[it] for it in ("running", "to be tried again", "dead letters")], ["2", "1", str(dead)])
    rows = lambda id: page.tell(  # noqa: E731
        f"[...document.querySelector('#{id}').nextElementSibling.querySelectorAll('tr')].slice(1).map(it => [...it.children].map(it => it.innerText.trim()))")
    proof.equal("the running scans", sorted(it[2] for it in rows("running")),
        ["harbor.example.com/prod/hang-ignoring-term:1.0", "harbor.example.com/prod/hang:1.0"])
    answers = [it[1:] for it in rows("deliveries")]
    proof.equal("the latest deliveries, with what became of them", answers[:3],
        [["(no such source)", "404", "No such resource"], ["harbor", "401", "No valid credential"], ["harbor", "202", "1 queued"]])
    verdicts = {(it[2].rsplit("/", 1)[1], it[3], it[4]) for it in rows("verdicts") if it[2].startswith("harbor")}
    expected = {("fail:1.0", "failed", "Sysdig Best Practices"), ("no-policy:1.0", "passed", "no_policy"),
        ("unsupported:1.0", "error", "unsupported_image"), ("network:1.0", "error, tried again", "network")}
    proof.true("verdicts, with why", expected <= verdicts, verdicts)
    counts = {tuple(it[5:]) for it in rows("verdicts") if it[2].endswith("/fail:1.0")}
    proof.equal("and how many findings of each severity", counts, {("2", "2", "2", "1", "1")})
    reasons = [it[2] for it in rows("dead-letters")]
    proof.equal("dead letters, with their reasons", reasons.count("unsupported_image"), SCANNED.count("unsupported"))


def the_plot_has_a_column_an_hour(proof: Proof, page: Page, server: Server) -> None:
    proof.part("the plot")
    page.go(f"{server.url}/?still")
    bars = page.tell("[...document.querySelectorAll('svg rect')].map(it => [it.x.baseVal.value, it.className.baseVal, parseInt(it.textContent)])")
    proof.true("there are bars in many of the hours", len({it[0] for it in bars}) > 10, bars)
    ended = [it for it in server.scans() if it["state"] in ("done", "dead_letter")]
    proof.equal("they are as many scans as have ended", sum(it[2] for it in bars), len(ended))
    classes = {it[1] for it in bars}
    proof.equal("by the worst that was found", classes, {"critical", "high", "clean", "error"})
    key = page.tell("[...document.querySelectorAll('ul.key li')].map(it => it.textContent)")
    told = {name: sum(it[2] for it in bars if it[1] == name) for name in [it.rsplit(" ", 1)[0] for it in key]}
    proof.equal("the key tells the same", key, [f"{name} {count}" for name, count in told.items()])
    fills = page.tell("[...document.querySelectorAll('svg rect')].map(it => getComputedStyle(it).fill)")
    proof.equal("each has its colour", len(set(fills)), len(classes))


def what_can_be_clicked_does_what_it_says(proof: Proof, page: Page, server: Server) -> None:
    proof.part("what can be clicked")
    page.go(f"{server.url}/")
    proof.equal("links lead within the page and nowhere else", page.tell("[...document.querySelectorAll('a')].map(it => it.getAttribute('href'))"),
        ["#running", "#deliveries", "#verdicts", "#dead-letters", "?still"])
    others = page.tell("document.querySelectorAll('button, input, form, iframe, script, object, embed, [onclick], area').length")
    proof.equal("and there is nothing to send, run or embed", others, 0)
    page.reloaded(patience=15)
    proof.true("the page loads itself again", True)
    page.follow("a.refresh")
    proof.equal("`Stop` leads to one that stands still", page.tell("location.search"), "?still")
    proof.equal("  as it does for seven seconds", page.wait(7), 0)
    for part in ("running", "deliveries", "verdicts", "dead-letters"):
        page.click(f"nav a[href='#{part}']")
        proof.equal(f"a click leads to {part}", page.tell("location.hash"), f"#{part}")
    details = page.tell("document.querySelectorAll('details').length")
    proof.true("scans and dead letters can be opened", details > len(SCANNED), details)
    closed = "document.querySelector('#verdicts').nextElementSibling.querySelector('details')"
    proof.equal("  they are closed at first", page.tell(f"{closed}.open"), False)
    page.click("#verdicts + .table summary")
    proof.equal("  a click opens one", page.tell(f"{closed}.open"), True)
    shown = page.tell(f"{closed}.innerText")
    proof.true("  and shows scan, digest, attempts and times", all(it in shown for it in ("scan\n", "digest\nsha256:", "attempts\n", "ended\n")), shown)
    page.click("#verdicts + .table summary")
    proof.equal("  another one closes it", page.tell(f"{closed}.open"), False)
    for number in range(page.tell("document.querySelectorAll('summary').length")):
        page.tell(f"document.querySelectorAll('summary')[{number}].click()")
    proof.equal("all of them can be opened", page.tell("document.querySelectorAll('details[open]').length"), details)
    page.follow("a.refresh")
    proof.equal("`Go on` leads back", page.tell("location.pathname + location.search"), "/")


def hostile_names_stay_text(proof: Proof, page: Page, server: Server) -> None:
    proof.part("hostile names")
    add_hostile_names(server)
    page.go(f"{server.url}/?still")
    times = page.tell(f"document.body.textContent.split({json.dumps(HOSTILE)}).length - 1")
    proof.true("they are shown as they are", times >= 4, times)
    elements = page.tell("document.querySelectorAll('body script, body img, body style').length")
    proof.equal("and make no element", elements, 0)
    proof.equal("nothing of them runs", page.dialogs, [])
    page.tell("document.querySelectorAll('details').forEach(it => it.open = true)")
    for name, width, height, scheme in SIZES:
        page.look(width, height, scheme)
        wide = page.tell("document.documentElement.scrollWidth")
        proof.equal(f"{name}: the page is no wider than its window, with all of it open", wide, width)
        over = page.tell("""[...document.querySelectorAll('td.long *, td.long')].filter(it => it.scrollWidth > it.clientWidth + 1
            && getComputedStyle(it).display !== 'inline').length""")
        proof.equal("  and no text runs over the next cell's", over, 0)


def contrast(page: Page) -> float:
    """The least contrast of a text to the page, as WCAG 2 counts it."""
    return page.tell("""(() => {
        const parts = it => it.match(/[\\d.]+/g).slice(0, 3).map(it => it / 255)
            .map(it => it <= .04045 ? it / 12.92 : ((it + .055) / 1.055) ** 2.4);
        const light = it => { const [r, g, b] = parts(it); return .2126 * r + .7152 * g + .0722 * b };
        const paper = light(getComputedStyle(document.body).backgroundColor);
        const texts = [...document.querySelectorAll('a, h1, h2, td, th, dt, dd, p, li, span')];
        return Math.min(...texts.map(it => { const ink = light(getComputedStyle(it).color);
            return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05) })) })()""")


def it_can_be_read(proof: Proof, page: Page, server: Server, pictures: Path | None) -> None:
    proof.part("light, dark and narrow")
    for name, width, height, scheme in SIZES:
        page.look(width, height, scheme)
        page.go(f"{server.url}/?still")
        least = contrast(page)
        # Source: WCAG 2.2, success criterion 1.4.3.
        proof.true(f"{name}: every text has a contrast of 4.5 at least", least >= 4.5, least)
        if pictures:
            (pictures / f"{name}.png").write_bytes(page.picture())


def nobody_else_is_asked(proof: Proof, page: Page, outside: Outside, server: Server) -> None:
    proof.part("what it asked for, in all of that")
    origin = urlsplit(server.url).netloc
    origins = {urlsplit(it).netloc for it in page.requests}
    proof.equal(f"each of {len(page.requests)} requests was the page's own origin", origins, {origin})
    paths = {urlsplit(it).path for it in page.requests}
    proof.equal("for the page and its style, and nothing else", paths - {"/favicon.ico"}, {"/", "/page.css"})
    proof.equal("its policy was not violated, and the console is empty", page.complaints, [])
    proof.equal("no host outside was looked for", [it for it in outside.attempts if OUTSIDE in it], [])
    page.tell(f"document.body.insertAdjacentHTML('beforeend', '<img src=http://{OUTSIDE}/c><p style=color:red>')")
    page.tell("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    page.wait(1)
    proof.true("an image from elsewhere, were there one, would be refused and noticed",
        any("img-src" in it or "default-src" in it for it in page.complaints), page.complaints)
    proof.true("so would a style and a script", sum("inline s" in it for it in page.complaints) >= 2, page.complaints)
    proof.equal("nothing ran", page.tell("typeof window.ran"), "undefined")
    proof.equal("and nothing got out", [it for it in outside.attempts if OUTSIDE in it], [])


def only_this_machine_gets_it(proof: Proof, shop: Workshop, server: Server) -> None:
    proof.part("who gets it")
    port = urlsplit(server.url).port
    proof.equal("this machine, by its address", http("GET", f"{server.url}/").status, 200)
    refused = [("not by another name", {"host": "rebound.example"}, 403), ("not through a proxy", {"x-forwarded-for": "203.0.113.9"}, 404)]
    for claim, headers, status in refused:
        proof.equal(claim, http("GET", f"{server.url}/", headers).status, status)
    elsewhere = address_of_this_machine()
    with socket.socket() as probe:
        proof.true("not from elsewhere: nothing listens there", elsewhere is None or probe.connect_ex((elsewhere, port)) != 0)
    if elsewhere is None:
        return
    open_place = shop.directory / "open"
    open_place.mkdir()
    for flags, status in [((), 404), (("--open-page",), 200)]:
        served = start_server(Workshop(open_place, shop.processes), CONFIG, "--no-scan", *flags, env=server.env, listen="0.0.0.0:0")
        port = urlsplit(served.url).port
        answer = http("GET", f"http://{elsewhere}:{port}/").status
        proof.equal(f"listening to all, {flags[0] if flags else 'without --open-page'}: {status} for who is not on loopback", answer, status)
        served.process.terminate()


def address_of_this_machine() -> str | None:
    """An address of its own that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def prove_with(pictures: Path | None) -> Callable[[Proof, Workshop], None]:
    def prove(proof: Proof, shop: Workshop) -> None:
        server = filled_server(shop)
        with browser(shop.directory / "chromium") as (page, outside):
            page.look(*SIZES[0][1:])
            it_shows_what_there_is(proof, page, server)
            the_plot_has_a_column_an_hour(proof, page, server)
            what_can_be_clicked_does_what_it_says(proof, page, server)
            it_can_be_read(proof, page, server, pictures)
            hostile_names_stay_text(proof, page, server)
            nobody_else_is_asked(proof, page, outside, server)
        only_this_machine_gets_it(proof, shop, server)

    return prove


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pictures", type=Path, help="where to keep what it looks like")
    given = arguments.parse_args()
    require_programs(chromium="chromium")
    require_binaries(SCANHOOK)
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    return run_proof("The local page, in Chromium", prove_with(given.pictures))


if __name__ == "__main__":
    sys.exit(main())
