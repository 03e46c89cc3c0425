//! What a registry wants to see before it answers: the `WWW-Authenticate` header.
//!
//! Source: RFC 9110, section 11.6.1; the distribution project's token authentication specification.

use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;

/// A way to authenticate that is understood here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By name and password.
    Basic,
    /// By a token that is had at the realm.
    Bearer {
        /// Its URL.
        realm: String,
        /// For whom the token is to be.
        service: Option<String>,
    },
}

/// The longest header that is read.
const MAX_HEADER: usize = 8 * 1024;

/// Reads the challenges of a header up to its first mistake; what is not understood is left out.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    if header.len() > MAX_HEADER {
        return Vec::new();
    }
    let challenges = ChallengeParser::new(header).map_while(Result::ok);
    challenges.filter_map(|it| understood(&it)).collect()
}

fn understood(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    let get = |name: &str| {
        let mut parameters = challenge.params.iter();
        let (_, value) = parameters.find(|(it, _)| it.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped())
    };
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        Some(Challenge::Basic)
    } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
        Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
        })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read_in_every_notation_and_order() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let expected = bearer("https://auth.docker.io/token", Some("registry.docker.io"));
        assert_eq!(parse(hub), std::slice::from_ref(&expected));
        assert_eq!(parse("Basic realm=\"Registry\""), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse(&format!("Negotiate, Basic realm=x, {hub}")),
            [Challenge::Basic, expected]
        );
        assert_eq!(
            parse(r#"bearer realm="a\"b" , service=c"#),
            [bearer("a\"b", Some("c"))]
        );
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for header in [
            "",
            ",,,",
            "Bearer",
            "Bearer service=x",
            "=",
            "\"",
            "Digest realm=\"x",
            "é",
            "Bearer realm=\"unclosed",
            "Bearer realm=\"a\nb\"",
            "Bearer realm=https://unquoted.example.com/token",
            "Negotiate dG9rZW42OA==",
        ] {
            assert_eq!(parse(header), [], "{header:?}");
        }
        let long = format!("Bearer realm=\"{}\"", "x".repeat(MAX_HEADER));
        assert_eq!(parse(&long), []);
    }

    #[test]
    fn what_comes_before_a_mistake_counts() {
        let header = "Basic realm=\"r\", Bearer realm=\"https://a.example.com/t\", Bearer realm=\"";
        let bearer = bearer("https://a.example.com/t", None);
        assert_eq!(parse(header), [Challenge::Basic, bearer]);
    }
}
