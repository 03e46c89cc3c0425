//! One HTTP request of a registry, and the proof that it was authenticated.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;

use crate::auth::Verifier;

/// A delivery as it came in. Nothing of it may be believed.
pub struct Delivery {
    /// The request's headers.
    pub headers: HeaderMap,
    /// What stood behind the source's name in the path.
    pub path_token: Option<String>,
    /// The raw body, as long as the limits allow.
    pub body: Bytes,
    /// When it came in.
    pub received_at: Timestamp,
}

impl Delivery {
    /// Whether it carries something in the place of a bearer token.
    pub fn has_bearer(&self) -> bool {
        let value = self.headers.get(header::AUTHORIZATION);
        value.is_some_and(|it| {
            let scheme = it.as_bytes().split_at_checked(7).map(|(scheme, _)| scheme);
            scheme.is_some_and(|it| it.eq_ignore_ascii_case(b"bearer "))
        })
    }
}

/// Joins the values of a repeated header by commas, as API Gateway does before a function sees them, so that a delivery
/// is read alike in whichever way it comes. A credential that is sent twice is thereby a wrong one.
pub fn join_repeated(headers: HeaderMap) -> HeaderMap {
    if headers.len() == headers.keys_len() {
        return headers;
    }
    let joined = headers.keys().map(|name| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let value = HeaderValue::from_bytes(&values.join(b",".as_slice()));
        (name.clone(), value.unwrap_or(HeaderValue::from_static("")))
    });
    joined.collect()
}

/// A delivery that carried one of its source's credentials.
///
/// **Invariant**: only [`verify`] makes one.
pub struct VerifiedDelivery {
    headers: HeaderMap,
    body: Bytes,
    entry: usize,
}

/// No credential of the source was there, or it was wrong. Which of both is nobody's business. The delivery is given
/// back: its credential may be right for a secret that was changed a moment ago.
#[derive(thiserror::Error)]
#[error("no valid credential")]
pub struct Unauthorized(pub Box<Delivery>);

impl fmt::Debug for Unauthorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unauthorized")
    }
}

/// Checks a delivery against a source's credentials, of which any one suffices.
pub fn verify(
    delivery: Delivery,
    verifiers: &[Verifier],
) -> Result<VerifiedDelivery, Unauthorized> {
    match verifiers.iter().position(|it| it.accepts(&delivery)) {
        Some(entry) => Ok(VerifiedDelivery {
            headers: delivery.headers,
            body: delivery.body,
            entry,
        }),
        None => Err(Unauthorized(Box::new(delivery))),
    }
}

impl VerifiedDelivery {
    /// The raw body, over which a signature was made if there was one. A byte order mark before it, which a reader of JSON
    /// may pass over (RFC 8259, section 8.1), is left out.
    pub fn body(&self) -> &[u8] {
        self.body
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(&self.body)
    }

    /// A header's value, if it is there and visible ASCII. Headers are not signed: they may only agree with the body.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|it| it.to_str().ok())
    }

    /// Which entry of the source's `auth` was used, from 0.
    pub fn entry(&self) -> usize {
        self.entry
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::SecretString;

    use super::*;
    use crate::auth::{Algorithm, Credential, Encoding, HmacScheme, Presented, Scheme};

    const SECRET: &str = "fake-secret-of-a-test";

    fn github() -> Scheme {
        Scheme::Hmac(HmacScheme {
            header: HeaderName::from_static("x-hub-signature-256"),
            algorithm: Algorithm::Sha256,
            encoding: Encoding::Hex,
            prefix: "sha256=".to_owned(),
        })
    }

    fn accepts(
        scheme: Scheme,
        secret: &str,
        headers: &[(&str, &[u8])],
        path_token: Option<&str>,
        body: &str,
    ) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        let delivery = Delivery {
            headers: map,
            path_token: path_token.map(str::to_owned),
            body: Bytes::copy_from_slice(body.as_bytes()),
            received_at: Timestamp::UNIX_EPOCH,
        };
        verify(
            delivery,
            &[Credential {
                scheme,
                secret: SecretString::from(secret),
            }
            .verifier()],
        )
        .is_ok()
    }

    /// The vector of docs.github.com, "Validating webhook deliveries".
    const VECTOR: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn accepts_signature(value: &str) -> bool {
        let headers = [("X-Hub-Signature-256", value.as_bytes())];
        accepts(
            github(),
            "It's a Secret to Everybody",
            &headers,
            None,
            "Hello, World!",
        )
    }

    #[test]
    fn the_published_vector_of_github_is_accepted() {
        assert!(accepts_signature(&format!("sha256={VECTOR}")));
    }

    #[test]
    fn a_signature_that_is_not_exactly_the_right_one_is_refused() {
        for value in [
            String::new(),
            "sha256=".to_owned(),
            VECTOR.to_owned(),
            format!("sha1={VECTOR}"),
            format!("SHA256={VECTOR}"),
            format!("sha256={}", VECTOR.to_uppercase()),
            format!("sha256={}", VECTOR.get(..62).unwrap()),
            format!("sha256={}", VECTOR.get(..63).unwrap()),
            format!("sha256={VECTOR}00"),
            format!("sha256={VECTOR}{VECTOR}"),
            format!("sha256={VECTOR},sha256={VECTOR}"),
            format!("sha256= {VECTOR}"),
            format!("sha256={}zz", VECTOR.get(..62).unwrap()),
            format!("sha256={}", VECTOR.replace("757", "756")),
        ] {
            assert!(!accepts_signature(&value), "{value}");
        }
        let right = format!("sha256={VECTOR}");
        let twice = [
            ("X-Hub-Signature-256", right.as_bytes()),
            ("X-Hub-Signature-256", right.as_bytes()),
        ];
        assert!(!accepts(
            github(),
            "It's a Secret to Everybody",
            &twice,
            None,
            "Hello, World!"
        ));
    }

    /// The text with each of its bits changed in turn; the eighth stays zero, so that it is still text.
    fn flips(text: &str) -> impl Iterator<Item = String> {
        let bytes = text.as_bytes().to_vec();
        (0..bytes.len() * 7).map(move |bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 7] ^= 1 << (bit % 7);
            String::from_utf8(bytes).unwrap()
        })
    }

    /// How each kind signs, and Cloudsmith; then how secrets are sent as they are.
    fn schemes() -> Vec<Scheme> {
        let presets = crate::kinds::ALL.iter().filter_map(|it| it.hmac);
        let signed = presets.map(|it| Scheme::Hmac(it.scheme()));
        let cloudsmith = Scheme::Hmac(HmacScheme {
            header: HeaderName::from_static("x-cloudsmith-signature"),
            algorithm: Algorithm::Sha1,
            encoding: Encoding::Hex,
            prefix: "sha1=".to_owned(),
        });
        let base64 = Scheme::Hmac(HmacScheme {
            header: HeaderName::from_static("x-signature"),
            algorithm: Algorithm::Sha512,
            encoding: Encoding::Base64,
            prefix: String::new(),
        });
        let token = Scheme::Token(HeaderName::from_static("x-token"));
        let basic = Scheme::Basic("robot$ci".to_owned());
        signed
            .chain([cloudsmith, base64, token, Scheme::Bearer, basic])
            .collect()
    }

    #[test]
    fn every_scheme_is_called_by_its_word_in_the_configuration() {
        let words: std::collections::BTreeSet<_> = schemes().iter().map(Scheme::as_str).collect();
        assert_eq!(
            words.into_iter().collect::<Vec<_>>(),
            ["basic", "bearer", "hmac", "token"]
        );
        assert_eq!(Scheme::PathToken.as_str(), "path_token");
    }

    #[test]
    fn every_one_bit_change_of_secret_body_or_header_is_refused() {
        let (secret, body) = ("fake-secret-of-a-test", "Hello, World!");
        let schemes = schemes();
        assert!(schemes.len() >= 4 + 5, "four kinds sign");
        for scheme in schemes {
            let credential = Credential {
                scheme: scheme.clone(),
                secret: SecretString::from(secret),
            };
            let Some(Presented::Header(name, value)) = credential.present(body.as_bytes()) else {
                panic!("{scheme:?} is not in a header")
            };
            let is_taken = |secret: &str, header: &str, value: &str, body: &str| {
                let (Ok(name), Ok(value)) =
                    (HeaderName::try_from(header), HeaderValue::try_from(value))
                else {
                    return false;
                };
                accepts(
                    scheme.clone(),
                    secret,
                    &[(name.as_str(), value.as_bytes())],
                    None,
                    body,
                )
            };
            let (name, value) = (name.as_str(), value.to_str().unwrap());
            assert!(is_taken(secret, name, value, body), "{scheme:?}");
            assert!(
                flips(secret).all(|it| !is_taken(&it, name, value, body)),
                "{scheme:?}"
            );
            // A header's name and the word `Bearer` or `Basic` are the same in another case.
            let other_value = flips(value).filter(|it| {
                let is_authorization = matches!(scheme, Scheme::Bearer | Scheme::Basic(_));
                !(is_authorization
                    && it.eq_ignore_ascii_case(value)
                    && it.split(' ').nth(1) == value.split(' ').nth(1))
            });
            assert!(
                other_value
                    .into_iter()
                    .all(|it| !is_taken(secret, name, &it, body)),
                "{scheme:?}"
            );
            let other_name = flips(name).filter(|it| !it.eq_ignore_ascii_case(name));
            assert!(
                other_name
                    .into_iter()
                    .all(|it| !is_taken(secret, &it, value, body)),
                "{scheme:?}"
            );
            let is_signed = matches!(scheme, Scheme::Hmac(_));
            assert!(
                flips(body).all(|it| is_taken(secret, name, value, &it) != is_signed),
                "{scheme:?}"
            );
        }
    }

    #[test]
    fn tokens_must_be_equal_to_the_last_byte_and_stand_alone() {
        let token = |value: &str| {
            accepts(
                Scheme::Token(http::header::AUTHORIZATION),
                SECRET,
                &[("Authorization", value.as_bytes())],
                None,
                "",
            )
        };
        assert!(token(SECRET));
        for wrong in [
            "",
            "fake-secret-of-a-tes",
            "fake-secret-of-a-tesT",
            "fake-secret-of-a-test ",
            "Bearer fake-secret-of-a-test",
        ] {
            assert!(!token(wrong), "{wrong:?}");
        }
        let right = SECRET.as_bytes();
        for values in [[right, b"wrong"], [b"wrong", right], [right, right]] {
            let headers = [("Authorization", values[0]), ("Authorization", values[1])];
            assert!(!accepts(
                Scheme::Token(http::header::AUTHORIZATION),
                SECRET,
                &headers,
                None,
                ""
            ));
        }
        let joined = format!("{SECRET},wrong");
        assert!(!token(&joined));
    }

    #[test]
    fn bearer_wants_its_scheme_in_any_case_and_one_space() {
        let bearer = |value: &str| {
            accepts(
                Scheme::Bearer,
                SECRET,
                &[("Authorization", value.as_bytes())],
                None,
                "",
            )
        };
        assert!(bearer(&format!("Bearer {SECRET}")));
        assert!(bearer(&format!("bearer {SECRET}")));
        for wrong in [
            SECRET.to_owned(),
            format!("Bearer  {SECRET}"),
            format!("Basic {SECRET}"),
            "Bearer ".to_owned(),
            "Bearer".to_owned(),
        ] {
            assert!(!bearer(&wrong), "{wrong:?}");
        }
    }

    #[test]
    fn basic_takes_a_colon_in_the_password_and_nothing_malformed() {
        use base64::Engine as _;
        let encode = |it: &[u8]| base64::engine::general_purpose::STANDARD.encode(it);
        let secret = "fake:password:with:colons";
        let basic = |value: String| {
            accepts(
                Scheme::Basic("robot$ci".to_owned()),
                secret,
                &[("Authorization", value.as_bytes())],
                None,
                "",
            )
        };
        assert!(basic(format!(
            "Basic {}",
            encode(format!("robot$ci:{secret}").as_bytes())
        )));
        for wrong in [
            format!("Basic {}", encode(b"robot$ci")),
            format!("Basic {}", encode(b"robot$ci:fake")),
            format!("Basic {}", encode(b"other:fake:password:with:colons")),
            format!("Basic {}", encode(b"\xff\xfe:x")),
            "Basic !!!".to_owned(),
            "Basic ".to_owned(),
        ] {
            assert!(!basic(wrong.clone()), "{wrong:?}");
        }
    }

    #[test]
    fn a_path_token_counts_only_in_the_path() {
        assert!(accepts(Scheme::PathToken, SECRET, &[], Some(SECRET), ""));
        assert!(!accepts(
            Scheme::PathToken,
            SECRET,
            &[],
            Some("fake-secret-of-a-tes"),
            ""
        ));
        assert!(!accepts(Scheme::PathToken, SECRET, &[], None, ""));
        assert!(!accepts(
            Scheme::PathToken,
            SECRET,
            &[("Authorization", SECRET.as_bytes())],
            None,
            ""
        ));
        assert!(!accepts(
            Scheme::Token(http::header::AUTHORIZATION),
            SECRET,
            &[],
            Some(SECRET),
            ""
        ));
    }

    #[test]
    fn either_of_two_secrets_is_accepted_and_told_apart() {
        let old = Credential {
            scheme: Scheme::Bearer,
            secret: SecretString::from("fake-old-secret-value"),
        };
        let new = Credential {
            scheme: Scheme::Bearer,
            secret: SecretString::from("fake-new-secret-value"),
        };
        let verifiers = [old.verifier(), new.verifier()];
        for (entry, credential) in [old, new].iter().enumerate() {
            let Some(Presented::Header(name, value)) = credential.present(b"") else {
                panic!("not a header")
            };
            let headers = HeaderMap::from_iter([(name, value)]);
            let verified = verify(
                Delivery {
                    headers,
                    path_token: None,
                    body: Bytes::new(),
                    received_at: Timestamp::UNIX_EPOCH,
                },
                &verifiers,
            )
            .unwrap();
            assert_eq!(verified.entry(), entry);
        }
    }

    #[test]
    fn repeated_headers_are_joined_as_api_gateway_does() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("b", "x"), ("a", "2, 3"), ("a", "")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let joined = join_repeated(headers);
        assert_eq!(
            (joined.len(), &joined["a"], &joined["b"]),
            (
                2,
                &HeaderValue::from_static("1,2, 3,"),
                &HeaderValue::from_static("x")
            )
        );
    }

    proptest! {
        #[test]
        fn what_a_sender_signs_is_accepted_whatever_the_body(body: Vec<u8>, which in 0usize..6) {
            let hmac = |algorithm, encoding| Scheme::Hmac(HmacScheme {
                header: HeaderName::from_static("x-signature"), algorithm, encoding, prefix: "v=".to_owned(),
            });
            let scheme = match which {
                0 => hmac(Algorithm::Sha1, Encoding::Hex),
                1 => hmac(Algorithm::Sha256, Encoding::Base64),
                2 => hmac(Algorithm::Sha512, Encoding::Hex),
                3 => Scheme::Bearer,
                4 => Scheme::Basic("user".to_owned()),
                _ => Scheme::Token(HeaderName::from_static("x-token")),
            };
            let credential = Credential { scheme, secret: SecretString::from(SECRET) };
            let Some(Presented::Header(name, value)) = credential.present(&body) else { panic!("not a header") };
            let headers = HeaderMap::from_iter([(name, value)]);
            let delivery = Delivery { headers, path_token: None, body: Bytes::from(body), received_at: Timestamp::UNIX_EPOCH };
            prop_assert!(verify(delivery, &[credential.verifier()]).is_ok());
        }

        #[test]
        fn no_header_value_makes_a_verifier_panic_or_accept(value: Vec<u8>, body: Vec<u8>) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            for scheme in [github(), Scheme::Bearer, Scheme::Basic("u".to_owned()), Scheme::Token(http::header::AUTHORIZATION)] {
                let verifier = Credential { scheme, secret: SecretString::from(SECRET) }.verifier();
                let mut headers = HeaderMap::new();
                headers.insert("x-hub-signature-256", value.clone());
                headers.insert("authorization", value.clone());
                let delivery = Delivery { headers, path_token: None, body: Bytes::from(body.clone()), received_at: Timestamp::UNIX_EPOCH };
                prop_assert!(verify(delivery, &[verifier]).is_err());
            }
        }
    }
}
