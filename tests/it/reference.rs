//! Compares `docs/reference` with the values that it describes. Values that only a running program shows are in
//! `local/tests/it/reference.rs`.

use std::collections::BTreeSet;

use axum::response::IntoResponse as _;
use http::header;
use scanhook_core::event::SkipReason;
use scanhook_core::failure::ErrorReason;
use scanhook_core::message::QueueMessage;
use scanhook_core::record::{RecordReason, RecordVerdict, ScanRecord, State};
use scanhook_core::verdict::Identity;
use scanhook_tests::reference::Page;
use scanhook_webhook::rejection::Rejection;
use serde_json::Value;

fn set<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn every_field_of_the_message_is_described() {
    let page = Page::read("message.md");
    let example = &page.examples("The queue message, version 1")[0];
    let message = QueueMessage::parse(&example.to_string()).unwrap();
    let written: Value = serde_json::from_str(&message.to_json()).unwrap();
    assert_eq!(written, *example);
    page.check("Fields", &[written]);
}

#[test]
fn every_field_of_the_record_is_described() {
    let page = Page::read("record.md");
    let example = &page.examples("The ledger record")[0];
    let record: ScanRecord = serde_json::from_value(example.clone()).unwrap();
    let written = serde_json::to_value(&record).unwrap();
    assert_eq!(written, *example);
    page.check("Fields", &[written]);
}

#[test]
fn every_word_of_a_record_is_described() {
    let page = Page::read("record.md");
    let class = |it: &ErrorReason| {
        if it.may_pass() {
            "transient"
        } else {
            "permanent"
        }
    };
    let reasons = ErrorReason::ALL.iter();
    let reasons: BTreeSet<_> = reasons
        .map(|it| (format!("`{}`", it.as_str()), class(it)))
        .collect();
    let rows = page.rows("Error reasons");
    let described: BTreeSet<_> = rows
        .iter()
        .map(|it| (it[0].clone(), it[1].as_str()))
        .collect();
    assert_eq!(described, reasons);

    let states = [
        State::InProgress,
        State::Retrying,
        State::Done,
        State::DeadLetter,
    ];
    for state in states {
        // A new state fails to compile here until it is in the list above.
        match state {
            State::InProgress | State::Retrying | State::Done | State::DeadLetter => {}
        }
    }
    assert_eq!(page.names("States"), set(states.map(State::as_str)));

    let verdicts = [
        RecordVerdict::Passed,
        RecordVerdict::Failed,
        RecordVerdict::Skipped,
        RecordVerdict::Error,
    ];
    for verdict in &verdicts {
        // Likewise.
        match verdict {
            RecordVerdict::Passed
            | RecordVerdict::Failed
            | RecordVerdict::Skipped
            | RecordVerdict::Error
            | RecordVerdict::Other(_) => {}
        }
    }
    assert_eq!(
        page.names("Verdicts"),
        set(verdicts.iter().map(RecordVerdict::as_str))
    );

    let reasons = [
        RecordReason::NoPolicy,
        RecordReason::NotAnImage,
        RecordReason::Repeated,
    ];
    for reason in &reasons {
        // Likewise; the reasons of errors have a table of their own.
        match reason {
            RecordReason::NoPolicy
            | RecordReason::NotAnImage
            | RecordReason::Repeated
            | RecordReason::Error(_)
            | RecordReason::Other(_) => {}
        }
    }
    let words = reasons.iter().map(RecordReason::as_str);
    assert_eq!(page.names("Reasons of a verdict"), set(words));

    let identities = [Identity::Confirmed, Identity::Unconfirmed];
    let words = identities.map(|it| {
        match it {
            Identity::Confirmed | Identity::Unconfirmed => {}
        }
        serde_json::to_value(it).unwrap()
    });
    assert_eq!(
        page.names("Identity"),
        set(words.iter().map(|it| it.as_str().unwrap()))
    );
}

#[test]
fn every_skip_reason_is_described() {
    let page = Page::read("answers.md");
    let reasons = SkipReason::ALL.iter().map(|it| it.as_str());
    assert_eq!(page.names("Skip reasons"), set(reasons));
}

/// Every rejection. A new one fails to compile here until it is in the list.
fn rejections() -> [Rejection; 14] {
    let all = [
        Rejection::UnreadableBody,
        Rejection::BadHost,
        Rejection::NotAPayload,
        Rejection::TooManyImages,
        Rejection::Unauthorized,
        Rejection::Forbidden,
        Rejection::NotFound,
        Rejection::MethodNotAllowed,
        Rejection::Timeout,
        Rejection::TooLarge,
        Rejection::UnsupportedEncoding,
        Rejection::TooMany(1),
        Rejection::Internal,
        Rejection::Unavailable,
    ];
    for rejection in all {
        match rejection {
            Rejection::UnreadableBody
            | Rejection::BadHost
            | Rejection::NotAPayload
            | Rejection::TooManyImages
            | Rejection::Unauthorized
            | Rejection::Forbidden
            | Rejection::NotFound
            | Rejection::MethodNotAllowed
            | Rejection::Timeout
            | Rejection::TooLarge
            | Rejection::UnsupportedEncoding
            | Rejection::TooMany(_)
            | Rejection::Internal
            | Rejection::Unavailable => {}
        }
    }
    all
}

#[tokio::test]
async fn every_refusal_is_described_as_it_is_sent() {
    let page = Page::read("answers.md");
    let mut answered = Vec::new();
    let mut bodies = page.examples("Problems");
    for rejection in rejections() {
        let (head, body) = rejection.into_response().into_parts();
        assert_eq!(
            head.headers[header::CONTENT_TYPE],
            "application/problem+json"
        );
        let body = http_body_util::BodyExt::collect(body).await.unwrap();
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        assert_eq!(body["status"], head.status.as_u16());
        answered.push([
            format!("`{}`", rejection.as_str()),
            head.status.as_u16().to_string(),
            body["title"].as_str().unwrap().to_owned(),
        ]);
        let retries = head.headers.contains_key(header::RETRY_AFTER);
        let row = page.rows("Titles").into_iter();
        let row = row
            .into_iter()
            .find(|it| it[1..3] == answered.last().unwrap()[1..]);
        assert_eq!(row.is_some_and(|it| !it[3].is_empty()), retries, "{body}");
        bodies.push(body);
    }
    let rows = page.rows("Titles").into_iter();
    let described: Vec<_> = rows
        .map(|it| [it[0].clone(), it[1].clone(), it[2].clone()])
        .collect();
    assert_eq!(described, answered);
    page.check("Problems", &bodies);

    let statuses = answered.iter().map(|it| it[1].as_str());
    assert_eq!(page.names("Statuses"), set(statuses.chain(["200", "202"])));
}
