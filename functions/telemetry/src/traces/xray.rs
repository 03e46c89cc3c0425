//! Requests to X-Ray's own OTLP endpoint, signed with the keys in the environment, as Lambda sets them.
//!
//! Source: AWS X-Ray developer guide, "Using the OpenTelemetry Protocol (OTLP) endpoint".

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::identity::Identity;
use bytes::Bytes;
use http::{Request, Uri};
use scanhook_config::Environment;

/// Signs requests to the endpoint of a region.
pub(super) struct Signer {
    region: String,
    identity: Identity,
}

impl Signer {
    /// `None` if the collector isn't X-Ray's endpoint, or there are no keys.
    pub(super) fn for_collector(url: &Uri, environment: &Environment) -> Option<Self> {
        let region = url.host()?.strip_prefix("xray.")?;
        let region = region.strip_suffix(".amazonaws.com")?.to_owned();
        let id = environment("AWS_ACCESS_KEY_ID")?;
        let secret = environment("AWS_SECRET_ACCESS_KEY")?;
        let token = environment("AWS_SESSION_TOKEN").filter(|it| !it.is_empty());
        let identity = Credentials::new(id, secret, token, None, "environment").into();
        Some(Self { region, identity })
    }

    /// Adds the signature of `now`; `None` if the request can't be signed.
    pub(super) fn sign(&self, request: Request<Bytes>, now: SystemTime) -> Option<Request<Bytes>> {
        let params = SigningParams::builder()
            .identity(&self.identity)
            .region(&self.region)
            .name("xray")
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .ok()?
            .into();
        let headers = request.headers().iter();
        let headers =
            headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let body = SignableBody::Bytes(request.body());
        let uri = request.uri().to_string();
        let signable = SignableRequest::new("POST", uri, headers, body).ok()?;
        let (instructions, _) = sign(signable, &params).ok()?.into_parts();
        let mut signed = request;
        instructions.apply_to_request_http1x(&mut signed);
        Some(signed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn environment() -> Environment {
        Arc::new(|name| match name {
            "AWS_ACCESS_KEY_ID" => Some("FAKEACCESSKEY".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("fake-secret-access-key".to_owned()),
            "AWS_SESSION_TOKEN" => Some("fake-session-token".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn only_requests_to_xray_are_signed() {
        for (url, is_signed) in [
            ("https://xray.eu-west-1.amazonaws.com/v1/traces", true),
            ("https://otel.example.com/v1/traces", false),
            ("https://xray.eu-west-1.amazonaws.com.example.com/", false),
        ] {
            let url = url.parse().unwrap();
            assert_eq!(
                Signer::for_collector(&url, &environment()).is_some(),
                is_signed,
                "{url}"
            );
        }
    }

    #[test]
    fn a_signature_names_the_region_and_the_service() {
        let url: Uri = "https://xray.eu-west-1.amazonaws.com/v1/traces"
            .parse()
            .unwrap();
        let signer = Signer::for_collector(&url, &environment()).unwrap();
        let request = Request::post(url).header("content-type", "application/x-protobuf");
        let request = request.body(Bytes::from_static(b"spans")).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
        let request = signer.sign(request, now).unwrap();
        let authorization = request.headers()["authorization"].to_str().unwrap();
        let scope =
            "AWS4-HMAC-SHA256 Credential=FAKEACCESSKEY/19700102/eu-west-1/xray/aws4_request, ";
        assert!(authorization.starts_with(scope), "{authorization}");
        assert!(!authorization.contains("fake-secret"), "{authorization}");
        assert_eq!(
            request.headers()["x-amz-security-token"],
            "fake-session-token"
        );
        assert_eq!(request.body(), "spans");
    }
}
