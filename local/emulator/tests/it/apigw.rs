//! Converts HTTP requests to API Gateway events, and answers to responses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::uri::Authority;
use http::{Request, StatusCode, request};
use jiff::Timestamp;
use scanhook_emulator::apigw::{self, Arrival, EventError};
use serde_json::{Value, json};

fn arrival() -> Arrival {
    Arrival {
        request_id: "request-1".to_owned(),
        source_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        host: Authority::from_static("hooks.example.com"),
        received_at: "2026-11-21T20:00:00.123Z".parse::<Timestamp>().unwrap(),
        route_key: "POST /webhooks/{source}".to_owned(),
        path_parameters: BTreeMap::from([("source".to_owned(), "prod".to_owned())]),
    }
}

fn head(request: request::Builder) -> request::Parts {
    request.body(()).unwrap().into_parts().0
}

fn event(request: request::Builder, body: &[u8]) -> Value {
    let event = apigw::event(&head(request), body, &arrival()).unwrap();
    serde_json::from_str(&event).unwrap()
}

#[test]
fn an_event_has_everything_of_its_request() {
    let request = Request::post("/webhooks/prod?a=1&b=x%20y&a=2")
        .header("Host", "hooks.example.com")
        .header("User-Agent", "Harbor")
        .header("Content-Type", "application/json")
        .header("X-Twice", "one")
        .header("X-Twice", "two")
        .header("Cookie", "a=1; b=2")
        .header("Connection", "keep-alive")
        .header("X-Forwarded-For", "10.0.0.1");
    let event = event(request, br#"{"type":"PUSH_ARTIFACT"}"#);
    insta::assert_snapshot!(serde_json::to_string_pretty(&event).unwrap(), @r#"
    {
      "body": "{\"type\":\"PUSH_ARTIFACT\"}",
      "cookies": [
        "a=1",
        "b=2"
      ],
      "headers": {
        "content-length": "24",
        "content-type": "application/json",
        "host": "hooks.example.com",
        "user-agent": "Harbor",
        "x-forwarded-for": "10.0.0.1, 192.0.2.7",
        "x-forwarded-proto": "http",
        "x-twice": "one,two"
      },
      "isBase64Encoded": false,
      "pathParameters": {
        "source": "prod"
      },
      "queryStringParameters": {
        "a": "1,2",
        "b": "x y"
      },
      "rawPath": "/webhooks/prod",
      "rawQueryString": "a=1&b=x%20y&a=2",
      "requestContext": {
        "accountId": "000000000000",
        "apiId": "local",
        "domainName": "hooks.example.com",
        "domainPrefix": "hooks",
        "http": {
          "method": "POST",
          "path": "/webhooks/prod",
          "protocol": "HTTP/1.1",
          "sourceIp": "192.0.2.7",
          "userAgent": "Harbor"
        },
        "requestId": "request-1",
        "routeKey": "POST /webhooks/{source}",
        "stage": "$default",
        "time": "21/Nov/2026:20:00:00 +0000",
        "timeEpoch": 1795291200123
      },
      "routeKey": "POST /webhooks/{source}",
      "version": "2.0"
    }
    "#);
}

/// Checks whether a body of this content type arrives as text.
fn check(content_type: Option<&str>, body: &[u8], is_text: bool) {
    let request = Request::post("/");
    let request = match content_type {
        Some(content_type) => request.header("content-type", content_type),
        None => request,
    };
    let event = event(request, body);
    assert_eq!(
        event["isBase64Encoded"],
        json!(!is_text),
        "{content_type:?}"
    );
    let text = event["body"].as_str().unwrap();
    let bytes = if is_text {
        text.as_bytes().to_vec()
    } else {
        BASE64_STANDARD.decode(text).unwrap()
    };
    assert_eq!(bytes, body, "{content_type:?}");
}

#[test]
fn only_four_content_types_arrive_as_text() {
    for content_type in [
        "text/plain",
        "text/anything",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/xml",
        "application/javascript",
    ] {
        check(Some(content_type), "{\"ü\": 1}".as_bytes(), true);
    }
    for content_type in [
        "application/x-www-form-urlencoded",
        "application/vnd.docker.distribution.events.v2+json",
        "application/cloudevents+json",
        "application/octet-stream",
        "multipart/form-data; boundary=x",
        "",
    ] {
        check(Some(content_type), b"{}", false);
    }
    check(None, b"{}", false);
}

#[test]
fn text_that_is_not_utf_8_arrives_unchanged() {
    check(Some("application/json"), &[0xff, 0xfe, 0x00], false);
}

#[test]
fn a_request_without_a_body_has_none_in_its_event() {
    let event = event(Request::get("/healthz"), b"");
    assert_eq!(
        (event.get("body"), &event["isBase64Encoded"]),
        (None, &json!(false))
    );
    assert_eq!(event["headers"]["content-length"], "0");
    assert_eq!(event.get("queryStringParameters"), None);
    assert_eq!(event.get("cookies"), None);
}

#[test]
fn a_path_is_decoded_and_cut_off_at_a_decoded_question_mark() {
    for (path, raw_path) in [
        ("/a/b", "/a/b"),
        ("/a%20b%2Fc", "/a b/c"),
        ("/x/../y", "/x/../y"),
        ("/%C3%BC", "/ü"),
        ("/%zz%4", "/%zz%4"),
        ("/me%3Fadmin=true", "/me"),
    ] {
        let event = event(Request::get(path), b"");
        assert_eq!(event["rawPath"], raw_path, "{path}");
    }
}

#[test]
fn a_head_of_10240_bytes_passes_and_one_more_is_refused() {
    let overhead = "GET / HTTP/1.1\r\nx: \r\n".len();
    for (size, expected) in [(10_240, Ok(())), (10_241, Err(EventError::HeadTooLarge))] {
        let request = Request::get("/").header("x", "a".repeat(size - overhead));
        assert_eq!(
            apigw::event(&head(request), b"", &arrival()).map(drop),
            expected
        );
    }
    assert_eq!(EventError::HeadTooLarge.response().status(), 431);
}

#[test]
fn a_body_that_is_too_large_for_lambda_is_refused() {
    let json = || head(Request::post("/").header("content-type", "application/json"));
    let binary = || head(Request::post("/"));
    let refused = |head, size| apigw::event(&head, &vec![b'a'; size], &arrival()).err();
    assert_eq!(refused(json(), 5 << 20), None);
    assert_eq!(refused(json(), 6 << 20), Some(EventError::BodyTooLarge));
    assert_eq!(refused(binary(), 4 << 20), None);
    assert_eq!(refused(binary(), 5 << 20), Some(EventError::BodyTooLarge));
    assert_eq!(
        refused(json(), (10 << 20) + 1),
        Some(EventError::BodyTooLarge)
    );
    assert_eq!(EventError::BodyTooLarge.response().status(), 413);
}

#[test]
fn an_answer_becomes_its_response() {
    let response = apigw::response(&json!({
        "statusCode": 202,
        "headers": {"Content-Type": "application/json", "Retry-After": 5, "Content-Length": "999", "Connection": "close"},
        "cookies": ["a=1", "b=2"],
        "body": "{}",
    }));
    assert_eq!(
        (response.status(), response.body().as_ref()),
        (StatusCode::ACCEPTED, &b"{}"[..])
    );
    let headers: Vec<_> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let expected = [
        ("content-type", "application/json"),
        ("retry-after", "5"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ];
    assert_eq!(headers, expected);

    let response =
        apigw::response(&json!({"statusCode": 200, "isBase64Encoded": true, "body": "AP8="}));
    assert_eq!(response.body().as_ref(), [0, 255]);
    let response = apigw::response(
        &json!({"statusCode": 204, "body": null, "headers": null, "multiValueHeaders": {}}),
    );
    assert_eq!(
        (response.status(), response.body().len()),
        (StatusCode::NO_CONTENT, 0)
    );
}

#[test]
fn an_answer_without_a_status_is_the_body() {
    for (answer, body) in [
        (json!({"a": 1}), r#"{"a":1}"#),
        (json!("text"), "text"),
        (json!(null), "null"),
    ] {
        let response = apigw::response(&answer);
        assert_eq!(
            (response.status(), response.body().as_ref()),
            (StatusCode::OK, body.as_bytes())
        );
        assert_eq!(response.headers()["content-type"], "application/json");
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_an_internal_error() {
    for answer in [
        json!({"statusCode": "many"}),
        json!({"statusCode": 99}),
        json!({"statusCode": 200, "body": {"a": 1}}),
        json!({"statusCode": 200, "headers": {"a b": "1"}}),
        json!({"statusCode": 200, "headers": {"a": "x\ny"}}),
        json!({"statusCode": 200, "headers": {"a": ["x"]}}),
        json!({"statusCode": 200, "isBase64Encoded": true, "body": "!"}),
    ] {
        let response = apigw::response(&answer);
        assert_eq!(
            response.status(),
            StatusCode::INTERNAL_SERVER_ERROR,
            "{answer}"
        );
        assert_eq!(
            response.body().as_ref(),
            br#"{"message":"Internal Server Error"}"#
        );
    }
}
