//! What backfill learns from a registry: its lists to their end or an error, and what tags name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use scanhook_core::image::{Image, Registry, Repository, Tag};
use serde_json::{Value, json};

use crate::registry::{Answer, Asked, Content, FakeRegistry, answer_json, status, with};
use crate::world::{REGISTRY, Setup, World};

async fn world(registry: &FakeRegistry) -> World {
    let setup = Setup {
        registries: format!(
            r#"  {REGISTRY}: {{ insecure: true, credentials: {{ type: basic, username: robot, password: "env:PASSWORD" }} }}"#
        ),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    World::set_up(setup).await
}

/// The tags of a registry that answers so, or what is wrong.
async fn tags(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> String {
    let registry = FakeRegistry::start(answer).await;
    let (world, host) = (world(&registry).await, Registry::parse(REGISTRY).unwrap());
    let repository = Repository::parse("demo/pass").unwrap();
    let tags = world.scanner.registries.tags(&host, &repository).await;
    match tags {
        Ok(tags) => {
            let tags: Vec<_> = tags.iter().map(Tag::as_str).collect();
            tags.join(" ")
        }
        Err(err) => format!("{}: {err}", err.reason.as_str()),
    }
}

/// A page of tags with a link.
fn page(tags: &[&str], link: &str) -> Answer {
    let body = json!({ "tags": tags }).to_string().into_bytes();
    Answer::Full(200, vec![("link", link.to_owned())], body)
}

fn is_second(asked: &Asked) -> bool {
    asked.path.ends_with("?last=b")
}

#[tokio::test]
async fn every_page_of_a_list_is_read_in_each_notation_of_its_link() {
    for link in [
        r#"</v2/demo/pass/tags/list?last=b>; rel="next""#,
        "<?last=b>;rel=next",
        "<http://registry.example.com/v2/demo/pass/tags/list?last=b>; rel=\"next\"; title=\"a, b\"",
        "</v2/?last=0>; rel=prev, <list?last=b>; rel=\"NEXT\"",
    ] {
        let told = tags(move |asked| {
            if is_second(asked) {
                answer_json(&json!({"tags": ["c"]}))
            } else {
                page(&["a", "b"], link)
            }
        });
        assert_eq!(told.await, "a b c", "{link}");
    }
}

#[tokio::test]
async fn a_list_whose_end_is_in_doubt_is_an_error() {
    let mut told = String::new();
    for (name, first, second) in [
        (
            "no brackets",
            page(&["a"], "/v2/?last=b; rel=\"next\""),
            status(500),
        ),
        ("no relation", page(&["a"], "<?last=b>"), status(500)),
        (
            "no query",
            page(&["a"], "</v2/page/2>; rel=next"),
            status(500),
        ),
        ("itself", page(&["a"], "<?n=1000>; rel=next"), status(500)),
        (
            "back",
            page(&["a"], "<?last=b>; rel=next"),
            page(&["b"], "<?n=1000>; rel=next"),
        ),
        (
            "round",
            page(&["a"], "<?last=b>; rel=next"),
            page(&["b"], "<?last=b>; rel=next"),
        ),
        ("404", page(&["a"], "<?last=b>; rel=next"), status(404)),
        (
            "no list",
            answer_json(&json!({"message": "try later"})),
            status(500),
        ),
        (
            "second no list",
            page(&["a"], "<?last=b>; rel=next"),
            answer_json(&json!({})),
        ),
        (
            "no json",
            with(200, "content-type", "text/html"),
            status(500),
        ),
        (
            "no texts",
            answer_json(&json!({"tags": ["a", 1]})),
            status(500),
        ),
    ] {
        let outcome = tags(move |asked| {
            if is_second(asked) {
                second.clone()
            } else {
                first.clone()
            }
        });
        writeln!(told, "{name}: {}", outcome.await).unwrap();
    }
    insta::assert_snapshot!(told, @"
    no brackets: network: registry.example.com sends a Link header that can't be read
    no relation: network: registry.example.com sends a Link header that can't be read
    no query: network: registry.example.com links to a next page without a query
    itself: network: registry.example.com links back to a page of the list that was already read
    back: network: registry.example.com links back to a page of the list that was already read
    round: network: registry.example.com links back to a page of the list that was already read
    404: network: registry.example.com has no page 2 of a list
    no list: network: registry.example.com sent something other than a list
    second no list: network: registry.example.com sent something other than a list
    no json: network: registry.example.com sent something other than a list
    no texts: network: registry.example.com sent something other than a list
    ");
}

#[tokio::test]
async fn a_list_that_is_empty_or_null_has_ended() {
    for list in [json!([]), Value::Null] {
        assert_eq!(tags(move |_| answer_json(&json!({"tags": list}))).await, "");
    }
}

#[tokio::test]
async fn a_full_page_without_a_link_is_followed_by_another_question() {
    let names: Vec<String> = (0..1500).map(|it| format!("t{it:04}")).collect();
    for knows_last in [true, false] {
        // A registry that ignores `last` sends the same thousand again: the list has ended.
        let shown = if knows_last { 1500 } else { 1000 };
        let names: Vec<String> = names[..shown].to_vec();
        let expected = names.join(" ");
        let told = tags(move |asked| {
            let last = asked.path.split_once("&last=").map_or("", |(_, last)| last);
            let rest = names.iter().filter(|it| !knows_last || it.as_str() > last);
            let some: Vec<_> = rest.take(1000).collect();
            answer_json(&json!({ "tags": some }))
        });
        assert_eq!(told.await, expected);
    }
}

#[tokio::test]
async fn a_link_elsewhere_is_not_followed_and_takes_no_credentials_there() {
    let elsewhere = FakeRegistry::start(|_| status(404)).await;
    let link = format!("<http://{}/v2/?last=b>; rel=next", elsewhere.address);
    let told = tags(move |asked| match &asked.authorization {
        None => with(401, "www-authenticate", "Basic realm=\"r\""),
        Some(_) if is_second(asked) => answer_json(&json!({"tags": ["c"]})),
        Some(_) => page(&["a", "b"], &link),
    });
    assert_eq!(told.await, "a b c");
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn the_catalog_is_read_as_a_list_of_tags_is() {
    let mut told = BTreeMap::new();
    for (name, link) in [
        ("good", "</v2/_catalog?last=b>; rel=\"next\""),
        ("bad", "/v2/_catalog?last=b"),
    ] {
        let registry = FakeRegistry::start(move |asked| {
            let names = if is_second(asked) { ["c/d"] } else { ["a/b"] };
            let body = json!({ "repositories": names }).to_string().into_bytes();
            let links = (!is_second(asked)).then(|| ("link", link.to_owned()));
            Answer::Full(200, links.into_iter().collect(), body)
        })
        .await;
        let world = world(&registry).await;
        let host = Registry::parse(REGISTRY).unwrap();
        let repositories = world.scanner.registries.repositories(&host).await;
        let names = repositories.map(|it| it.iter().map(ToString::to_string).collect());
        told.insert(name, names.unwrap_or_else(|err| vec![err.to_string()]));
    }
    assert_eq!(told["good"], ["a/b", "c/d"]);
    assert_eq!(
        told["bad"],
        ["registry.example.com sends a Link header that can't be read"]
    );
}

#[tokio::test]
async fn the_digest_of_a_tag_is_learned_without_its_header() {
    let mut content = Content::default();
    let digest = content.image("demo/pass", Some("1.0"), "a");
    let registry = FakeRegistry::start(move |asked| match content.answer(asked) {
        Answer::Full(status, _, body) => Answer::Full(status, Vec::new(), body),
        other => other,
    })
    .await;
    let world = world(&registry).await;
    let image = Image::parse(&format!("{REGISTRY}/demo/pass:1.0")).unwrap();
    let found = world.scanner.registries.digest(&image).await.unwrap();
    assert_eq!(found.as_str(), digest);
}
