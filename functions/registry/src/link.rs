//! The `Link` header: where the next page of a list is.
//!
//! **Invariant**: a header that can't be read completely is an error. Reading it as the end of the list would hide the
//! rest.
//!
//! Source: RFC 8288, section 3.

use reqwest::header::{HeaderMap, LINK};

/// A link to another page, with its relation to this one.
struct Link<'a> {
    target: &'a str,
    relation: String,
}

/// The header isn't a list of links, a link has no relation, or there are several next pages.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a Link header that can't be read")]
pub(super) struct UnreadableLink;

/// Returns the target of the link to the next page; `None` on the last page.
pub(super) fn next(headers: &HeaderMap) -> Result<Option<&str>, UnreadableLink> {
    let mut next = None;
    for header in headers.get_all(LINK) {
        let links = header.to_str().ok().and_then(parse);
        for Link { target, relation } in links.ok_or(UnreadableLink)? {
            let mut relations = relation.split_ascii_whitespace();
            if relations.any(|it| it.eq_ignore_ascii_case("next"))
                && next.replace(target).is_some_and(|it| it != target)
            {
                return Err(UnreadableLink);
            }
        }
    }
    Ok(next)
}

fn parse(header: &str) -> Option<Vec<Link<'_>>> {
    let mut links = Vec::new();
    let mut rest = next_element(header);
    while !rest.is_empty() {
        let (target, parameters) = rest.strip_prefix('<')?.split_once('>')?;
        let (relation, after) = relation(parameters)?;
        links.push(Link { target, relation });
        rest = next_element(after);
    }
    Some(links)
}

/// Lists may have empty elements. Source: RFC 9110, section 5.6.1.
fn next_element(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', ','])
}

/// Returns the first relation among a link's parameters, and the text after the link.
fn relation(mut rest: &str) -> Option<(String, &str)> {
    let mut relation = None;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || rest.starts_with(',') {
            return Some((relation?, rest));
        }
        rest = rest.strip_prefix(';')?.trim_start();
        let end = rest.find([';', ',', '=', ' ', '\t']);
        let (name, after) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
        rest = after.trim_start();
        if let Some(text) = rest.strip_prefix('=') {
            let (value, after) = value(text.trim_start())?;
            rest = after;
            if name.eq_ignore_ascii_case("rel") {
                relation.get_or_insert(value);
            }
        }
    }
}

/// Reads a token or a quoted string, and returns the text after it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t']).unwrap_or(text.len());
        let (value, after) = text.split_at_checked(end)?;
        return Some((value.to_owned(), after));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, quoted.get(at + 1..)?)),
            (_, '\\') => value.push(characters.next()?.1),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn next_of(links: &[&str]) -> Result<Option<String>, UnreadableLink> {
        let mut headers = HeaderMap::new();
        for link in links {
            let value = HeaderValue::from_bytes(link.as_bytes()).unwrap();
            headers.append(LINK, value);
        }
        next(&headers).map(|it| it.map(str::to_owned))
    }

    #[test]
    fn a_next_page_is_found_in_every_notation() {
        for link in [
            r#"</v2/?n=2&last=a,b;c>; rel="next""#,
            r"</v2/?n=2&last=a,b;c>;rel=next",
            r#"</v2/?n=2&last=a,b;c> ; REL = "Next""#,
            r#"</v2/?n=2&last=a,b;c>; rel="prefetch next""#,
            r#"</v2/?n=2&last=a,b;c>; title="<x>; rel=\"prev\", y"; rel=next; type="application/json";"#,
            r"</v2/?n=2&last=a,b;c>; rel=next; rel=prev",
            r#"</v2/>; rel="first", </v2/?n=2&last=a,b;c>; rel="next",, </v2/?last=z>; rel="last""#,
            r#", </v2/?n=2&last=a,b;c>; crossorigin; rel="next""#,
        ] {
            let expected = Ok(Some("/v2/?n=2&last=a,b;c".to_owned()));
            assert_eq!(next_of(&[link]), expected, "{link}");
        }
        let several = ["</v2/>; rel=first", "</v2/?last=a>; rel=next"];
        assert_eq!(next_of(&several), Ok(Some("/v2/?last=a".to_owned())));
    }

    #[test]
    fn without_a_link_to_a_next_page_the_list_ends() {
        for links in [
            &[][..],
            &[""],
            &[" , "],
            &[r#"</v2/?last=0>; rel="prev""#],
            &[r#"</v2/?rel=next>; rel="first"; title="rel=next""#],
            &["</v2/>; rel=prev; rel=next"],
            &["</v2/>; rel=\"https://example.com/next\""],
        ] {
            assert_eq!(next_of(links), Ok(None), "{links:?}");
        }
    }

    #[test]
    fn a_link_that_cannot_be_read_is_an_error() {
        for links in [
            &["/v2/?last=a; rel=\"next\""][..],
            &["nonsense"],
            &["</v2/?last=a; rel=\"next\""],
            &["</v2/?last=a>"],
            &["</v2/?last=a>; title=next"],
            &["</v2/?last=a>; rel"],
            &["</v2/?last=a>; rel=\"next"],
            &["</v2/?last=a> rel=\"next\""],
            &["</v2/?last=\u{e9}>; rel=\"next\""],
            &["</v2/?last=a>; rel=\"prev\", /v2/?last=b; rel=\"next\""],
            &["</v2/?last=a>; rel=next, </v2/?last=b>; rel=next"],
            &["</v2/?last=a>; rel=next", "</v2/?last=b>; rel=next"],
        ] {
            assert_eq!(next_of(links), Err(UnreadableLink), "{links:?}");
        }
    }

    #[test]
    fn no_short_header_makes_the_parser_panic() {
        let mut headers = vec![String::new()];
        for _ in 0..5 {
            let longer = headers.iter().flat_map(|it| {
                let characters = "<>;,=\" \\a".chars();
                characters.map(move |character| format!("{it}{character}"))
            });
            headers = longer.collect();
            for header in &headers {
                let _ = parse(header);
            }
        }
    }
}
