//! What a registry wants to see before it answers: the `WWW-Authenticate` header.
//!
//! Source: RFC 9110, section 11.6.1; the distribution project's token authentication specification.

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

/// Reads the challenges of a header; what is not understood is left out.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let Some(mut rest) = header.get(..header.len().min(MAX_HEADER)) else {
        return Vec::new();
    };
    let mut challenges = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let scheme = token(rest);
        if scheme.is_empty() {
            return challenges;
        }
        rest = rest.get(scheme.len()..).unwrap_or_default();
        let (parameters, after) = parameters(rest);
        rest = after;
        let get = |name: &str| {
            let found = parameters
                .iter()
                .find(|(it, _)| it.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            let service = get("service");
            challenges.push(Challenge::Bearer { realm, service });
        }
    }
}

/// Reads `name=value` pairs up to the next scheme or the end, and tells what comes then.
fn parameters(mut text: &str) -> (Vec<(&str, String)>, &str) {
    let mut parameters = Vec::new();
    loop {
        let start = text.trim_start_matches([' ', '\t', ',']);
        let name = token(start);
        let after = start.get(name.len()..).unwrap_or_default().trim_start();
        let Some(value) = after.strip_prefix('=').filter(|_| !name.is_empty()) else {
            return (parameters, start);
        };
        let (value, after) = value_of(value.trim_start());
        parameters.push((name, value));
        text = after;
    }
}

fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, after) = text.split_at_checked(end).unwrap_or((text, ""));
        return (value.to_owned(), after);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, it)| it)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn token(text: &str) -> &str {
    let is_token = |it: char| it.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(it);
    let end = text.find(|it| !is_token(it)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
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
        ] {
            assert_eq!(parse(header), [], "{header:?}");
        }
        assert_eq!(parse("Bearer realm=\"unclosed"), [bearer("unclosed", None)]);
        assert_eq!(
            parse(&format!("Bearer realm=\"{}\"", "x".repeat(9000))).len(),
            1
        );
    }
}
