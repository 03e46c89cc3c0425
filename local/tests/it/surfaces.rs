//! Whom page, metrics, readiness and SQS endpoint answer: by the requested host, by the requesting site, and through proxies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::world::{Answer, Place, Serve, exchange};

/// A route of a listener, with its answer to admitted requests.
struct Surface {
    listener: &'static str,
    port: u16,
    method: &'static str,
    path: &'static str,
    /// The operation of SQS.
    target: &'static str,
    admitted: u16,
}

/// How a request reaches a surface.
struct Way<'a> {
    what: &'a str,
    to: IpAddr,
    version: &'a str,
    headers: &'a str,
}

/// By HTTP/1.1 to 127.0.0.1.
fn way<'a>(what: &'a str, headers: &'a str) -> Way<'a> {
    Way {
        what,
        to: Ipv4Addr::LOCALHOST.into(),
        version: "1.1",
        headers,
    }
}

impl Surface {
    fn ask(&self, way: &Way) -> Answer {
        let body = match self.target {
            "ListQueues" => r"{}",
            _ => r#"{"QueueUrl":"/000000000000/scanhook","MessageBody":"forged"}"#,
        };
        let body = if self.method == "POST" { body } else { "" };
        let head = format!(
            "{} {} HTTP/{}\r\n{}Connection: close\r\nX-Amz-Target: AmazonSQS.{}\r\nContent-Length: {}\r\n\r\n",
            self.method,
            self.path,
            way.version,
            way.headers,
            self.target,
            body.len()
        );
        let address = SocketAddr::new(way.to, self.port);
        exchange(address, &head, body.as_bytes())
            .unwrap_or_else(|err| panic!("{} {} {}: {err}", self.listener, self.path, way.what))
    }

    fn is_page(&self) -> bool {
        self.path == "/page.css" || self.path == "/" && self.method == "GET"
    }
}

/// All routes of `serve` and `work` that are for this machine only.
fn surfaces(serve: &Serve, work: &Serve) -> Vec<Surface> {
    let get = |listener, address: SocketAddr, path| Surface {
        listener,
        port: address.port(),
        method: "GET",
        path,
        target: "",
        admitted: 200,
    };
    let mut surfaces = vec![
        get("serve", serve.address, "/"),
        get("serve", serve.address, "/page.css"),
        get("SQS", serve.sqs_address, "/000000000000/scanhook"),
    ];
    for (listener, address) in [
        ("serve", serve.address),
        ("health of serve", serve.health_address()),
        ("work", work.address),
        ("health of work", work.health_address()),
    ] {
        surfaces.push(get(listener, address, "/readyz"));
        surfaces.push(get(listener, address, "/metrics"));
    }
    surfaces.push(Surface {
        method: "POST",
        target: "ListQueues",
        ..get("SQS", serve.sqs_address, "/")
    });
    surfaces
}

/// The operations that a hostile page would use.
fn forbidden_operations(serve: &Serve) -> impl Iterator<Item = Surface> {
    ["SendMessage", "PurgeQueue", "DeleteQueue"]
        .map(|target| Surface {
            listener: "SQS",
            port: serve.sqs_address.port(),
            method: "POST",
            path: "/",
            target,
            admitted: 200,
        })
        .into_iter()
}

/// The routes for everybody, with their answers.
fn open_to_all(serve: &Serve, work: &Serve) -> Vec<Surface> {
    let get = |listener, address: SocketAddr, path, admitted| Surface {
        listener,
        port: address.port(),
        method: "GET",
        path,
        target: "",
        admitted,
    };
    vec![
        get("serve", serve.address, "/healthz", 200),
        get("serve", serve.address, "/webhooks/harbor", 405),
        get("health of serve", serve.health_address(), "/healthz", 200),
        get("work", work.address, "/healthz", 200),
        get("health of work", work.health_address(), "/healthz", 200),
    ]
}

/// A server and a worker on all addresses, so that another loopback address can be a pod's.
fn started(place: &Place, more: &[&str]) -> (Serve, Place, Serve) {
    let on_all = ["--listen=0.0.0.0:0", "--health-listen=0.0.0.0:0"];
    let serve_on = [&on_all[..], &["--sqs-listen=0.0.0.0:0", "--no-scan"], more].concat();
    let serve = place.serve(&serve_on);
    let mut workers = Place::new();
    workers.use_sqs(serve.sqs_address);
    let work = workers.work(serve.sqs_address, &[&on_all[..], more].concat());
    (serve, workers, work)
}

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn to_the_pod<'a>(what: &'a str, headers: &'a str) -> Way<'a> {
    Way {
        to: POD,
        ..way(what, headers)
    }
}

/// Requests that are admitted.
fn ways_in() -> Vec<Way<'static>> {
    vec![
        way("by its name", "Host: localhost\r\n"),
        way("by its address", "Host: 127.0.0.1:9324\r\n"),
        way(
            "by an address in IPv6's form",
            "Host: [::ffff:127.0.0.1]\r\n",
        ),
        way("through a port-forward", "Host: localhost:18080\r\n"),
        to_the_pod(
            "a pod's probe",
            "Host: 127.0.0.2:8080\r\nUser-Agent: kube-probe/1.37\r\n",
        ),
        way(
            "its own page",
            "Host: localhost:1\r\nOrigin: http://localhost:1\r\nSec-Fetch-Site: same-origin\r\n",
        ),
        way(
            "typed by a person",
            "Host: localhost\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
        ),
    ]
}

/// Requests of hostile pages in a browser on this machine, and of names that are not allowed.
fn ways_out() -> Vec<Way<'static>> {
    vec![
        way("a rebound name", "Host: rebound.example:9324\r\n"),
        way(
            "a rebound name, as its page asks",
            "Host: rebound.example:9324\r\nOrigin: http://rebound.example:9324\r\nSec-Fetch-Site: same-origin\r\n",
        ),
        way(
            "a rebound name, as a link",
            "Host: rebound.example\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
        ),
        way(
            "a name of this machine that is not allowed",
            "Host: scanhook:9324\r\n",
        ),
        way("another address of this machine", "Host: 127.0.0.2\r\n"),
        to_the_pod("the address of another interface", "Host: 127.0.0.1\r\n"),
        way("all addresses", "Host: 0.0.0.0:9324\r\n"),
        Way {
            version: "1.0",
            ..way("HTTP/1.0 without a host", "")
        },
        way(
            "a script of another site",
            "Host: localhost\r\nOrigin: http://rebound.example\r\n",
        ),
        way(
            "a script of another port",
            "Host: localhost:9324\r\nSec-Fetch-Site: same-site\r\n",
        ),
        way(
            "a file, or a frame in a sandbox",
            "Host: localhost\r\nOrigin: null\r\n",
        ),
        way(
            "a picture of another site",
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
        ),
        way(
            "a frame of another site",
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
        ),
    ]
}

#[test]
fn local_surfaces_answer_this_machine_and_no_foreign_page() {
    let place = Place::new();
    let (serve, _workers, work) = started(&place, &[]);
    for surface in surfaces(&serve, &work) {
        for way in &ways_in() {
            let answer = surface.ask(way);
            let (listener, path, what) = (surface.listener, surface.path, way.what);
            assert_eq!(
                answer.status, surface.admitted,
                "{listener} {path}, {what}: {}",
                answer.body
            );
        }
    }
    for surface in surfaces(&serve, &work)
        .into_iter()
        .chain(forbidden_operations(&serve))
    {
        for way in &ways_out() {
            let answer = surface.ask(way);
            let (listener, path, what) = (surface.listener, surface.path, way.what);
            assert_eq!(
                answer.status, 403,
                "{listener} {path} {}, {what}: {}",
                surface.target, answer.body
            );
            assert!(answer.body.contains("--allow-host"), "{}", answer.body);
        }
    }
    for surface in open_to_all(&serve, &work) {
        for way in ways_in().iter().chain(&ways_out()) {
            let answer = surface.ask(way);
            let (listener, path, what) = (surface.listener, surface.path, way.what);
            assert_eq!(
                answer.status, surface.admitted,
                "{listener} {path}, {what}: {}",
                answer.body
            );
        }
    }
    let queues = serve.sqs("ListQueues", "{}");
    assert_eq!(queues["QueueUrls"].as_array().unwrap().len(), 2, "{queues}");
}

#[test]
fn a_person_may_follow_a_link_to_the_page_and_no_form_may_post() {
    let place = Place::new();
    let (serve, _workers, work) = started(&place, &[]);
    let link = way(
        "a link",
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
    );
    for surface in surfaces(&serve, &work) {
        let is_page = surface.method == "GET" && surface.path == "/";
        let expected = if is_page { 200 } else { 403 };
        let answer = surface.ask(&link);
        assert_eq!(
            answer.status, expected,
            "{} {}",
            surface.listener, surface.path
        );
    }
}

#[test]
fn an_allowed_host_reaches_every_surface() {
    let place = Place::new();
    let (serve, _workers, work) = started(
        &place,
        &["--allow-host=scanhook", "--allow-host=metrics.example.com"],
    );
    for surface in surfaces(&serve, &work) {
        for way in [
            way("a compose service", "Host: scanhook:9324\r\n"),
            way("an ingress", "Host: Metrics.example.com\r\n"),
        ] {
            let answer = surface.ask(&way);
            assert_eq!(answer.status, 200, "{} {}", surface.listener, surface.path);
        }
        let other = surface.ask(&way("another name", "Host: x.scanhook\r\n"));
        assert_eq!(other.status, 403, "{} {}", surface.listener, surface.path);
    }
    // The queue's URL has the host that the caller used.
    let queues = surfaces(&serve, &work)
        .pop()
        .unwrap()
        .ask(&way("a compose service", "Host: scanhook:9324\r\n"));
    assert!(
        queues
            .body
            .contains("http://scanhook:9324/000000000000/scanhook"),
        "{}",
        queues.body
    );
    for wrong in ["scanhook:9324", "http://scanhook", "", "a b", "a,b/c"] {
        let ran = place.run(&["serve", "--allow-host", wrong]);
        assert_eq!(ran.code, Some(2), "{wrong}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("a host without a port"),
            "{}",
            ran.stderr
        );
    }
}

/// What proxies send, in front of a `serve` on loopback. Sources: nginx, `proxy_http_version`, whose default was 1.0 before 1.29.7; RFC 9110,
/// section 7.6.3 (`Via`); RFC 7239. A newer nginx can't be recognised by default.
#[test]
fn the_page_is_not_for_what_a_proxy_forwards() {
    let place = Place::new();
    let (serve, _workers, work) = started(&place, &[]);
    let nginx = Way {
        version: "1.0",
        ..way("nginx's default", "Host: 127.0.0.1:8080\r\n")
    };
    let local = "Host: 127.0.0.1:8080\r\n";
    let headers = [
        "X-Real-IP: 203.0.113.9",
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "Forwarded: for=203.0.113.9",
        "Via: 1.1 caddy",
    ];
    let headers = headers.map(|it| format!("{local}{it}\r\n"));
    let marked = headers.iter().map(|it| way("marked", it));
    for way in std::iter::once(nginx).chain(marked) {
        for surface in surfaces(&serve, &work) {
            let expected = if surface.is_page() {
                404
            } else {
                surface.admitted
            };
            let answer = surface.ask(&way);
            assert_eq!(
                answer.status, expected,
                "{} {}, {}",
                surface.listener, surface.path, way.headers
            );
        }
    }
}

#[test]
fn refusals_of_local_surfaces_are_counted_and_logged() {
    let place = Place::new();
    let (serve, _workers, work) = started(&place, &[]);
    let on_serve = || {
        surfaces(&serve, &work)
            .into_iter()
            .filter(|it| it.listener.ends_with("serve"))
    };
    let count = on_serve().count();
    for surface in on_serve() {
        surface.ask(&way("a rebound name", "Host: rebound.example\r\n"));
        let posted = Surface {
            method: "POST",
            ..surface
        };
        assert_eq!(
            posted.ask(&way("a form", "Host: localhost\r\n")).status,
            405
        );
    }
    assert_eq!(serve.refused("-", "forbidden"), count);
    assert_eq!(serve.refused("-", "method_not_allowed"), count);
    let nowhere = Surface {
        path: "/nowhere",
        ..on_serve().next_back().unwrap()
    };
    assert_eq!(
        nowhere.ask(&way("a probe", "Host: localhost\r\n")).status,
        404
    );
    assert_eq!(serve.refused("-", "not_found"), 1);
}

/// Each of them made `lambda_http` panic, or read a part of the host as the path.
#[test]
fn an_invalid_host_is_refused_before_anything_reads_it() {
    let place = Place::new();
    let (serve, _workers, work) = started(&place, &[]);
    let signed = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    let credential = signed.headers.as_str();
    let mut count = 0;
    for hosts in [
        "Host: a b\r\n",
        "Host: x/webhooks/harbor?\r\n",
        "Host: x/webhooks/harbor#\r\n",
        "Host: x\\webhooks\\harbor?\r\n",
        "Host: \r\n",
        "Host: xn--\r\n",
        "Host: 999.1\r\n",
        "Host: localhost:99999\r\n",
        "Host: user@localhost\r\n",
        "Host: [::1\r\n",
        "Host: \u{e9}\r\n",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: rebound.example\r\n",
        "",
    ] {
        for (target, method) in [
            ("/healthz", "POST"),
            ("/webhooks/harbor", "POST"),
            ("http://localhost/healthz", "GET"),
        ] {
            // An absolute target with another authority is refused too.
            let hosts = if method == "GET" && hosts.is_empty() {
                "Host: rebound.example\r\n"
            } else {
                hosts
            };
            let (length, body) = if method == "POST" {
                (signed.body.len(), &signed.body[..])
            } else {
                (0, &[][..])
            };
            let head = format!(
                "{method} {target} HTTP/1.1\r\n{hosts}Connection: close\r\n{credential}Content-Length: {length}\r\n\r\n"
            );
            for (listener, address) in [
                ("serve", serve.address),
                ("SQS", serve.sqs_address),
                ("health of serve", serve.health_address()),
                ("work", work.address),
            ] {
                let answer = exchange(address, &head, body).unwrap();
                assert_eq!(
                    answer.status, 400,
                    "{listener} {target} {hosts:?}: {}",
                    answer.body
                );
                assert!(!answer.body.contains("detail"), "{}", answer.body);
                count += usize::from(listener.ends_with("serve"));
            }
        }
    }
    let refused: usize = ["-", "harbor"]
        .iter()
        .map(|it| serve.refused(it, "bad_host"))
        .sum();
    assert_eq!(refused, count);
    assert!(!serve.stderr().contains("panicked"), "{}", serve.stderr());
    assert_eq!(serve.refused("-", "internal"), 0);
}

/// Invalid paths, which must not become a part of the host.
#[test]
fn a_target_without_a_path_has_no_route() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    for (line, host) in [
        ("OPTIONS *", "localhost:8080"),
        ("GET *", "localhost"),
        ("CONNECT localhost:80", "localhost:80"),
        ("OPTIONS http://localhost", "localhost"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = exchange(serve.address, &head, b"").unwrap();
        assert!(
            matches!(answer.status, 404 | 405),
            "{line}: {} {}",
            answer.status,
            answer.body
        );
    }
    assert!(!serve.stderr().contains("panicked"), "{}", serve.stderr());
}

#[test]
fn an_old_client_without_a_host_may_deliver() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let delivery = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    let head = delivery
        .head()
        .replace("HTTP/1.1", "HTTP/1.0")
        .replace("Host: localhost\r\n", "");
    let answer = exchange(serve.address, &head, &delivery.body).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
}

#[test]
fn a_port_alone_means_loopback() {
    let place = Place::new();
    for (listen, sqs) in [("0", ":0"), (":0", "0")] {
        let serve = place.serve(&[
            "--no-scan",
            &format!("--listen={listen}"),
            &format!("--sqs-listen={sqs}"),
            &format!("--health-listen={listen}"),
        ]);
        for address in [serve.address, serve.sqs_address, serve.health_address()] {
            assert!(
                address.ip() == Ipv4Addr::LOCALHOST && address.port() > 0,
                "{address}"
            );
        }
        serve.stop();
    }
    for wrong in ["localhost:8080", "127.0.0.1", "70000", ":", "127.0.0.1:"] {
        let ran = place.run(&["serve", "--listen", wrong]);
        assert_eq!(ran.code, Some(2), "{wrong}");
        assert!(
            ran.stderr.contains("IP:PORT, :PORT or PORT"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn commands_reach_a_queue_that_listens_on_all_addresses() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan", "--sqs-listen=0.0.0.0:0"]);
    let message = r#"{"QueueUrl":"/000000000000/scanhook-dlq","MessageBody":"unreadable"}"#;
    serve.sqs("SendMessage", message);
    let exported = place.run(&["dlq", "export"]);
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    assert!(
        exported.stdout.contains("unreadable"),
        "{}",
        exported.stdout
    );
}
