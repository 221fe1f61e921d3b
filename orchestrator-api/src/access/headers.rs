//! What the headers of a request say of who makes it.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::denied::Denied;
use super::token::{self, NoToken, Token};

/// Longer than any name with a token needs.
const AUTHORIZATION_BYTES_MAX: usize = 1024;
/// The longest name of a request that is taken over from who makes it.
pub(crate) const REQUEST_BYTES_MAX: usize = 128;
/// The name of a request.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A token that a request shows.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) token: Token,
    pub(super) via: Via,
}

/// How it is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Via {
    Nothing,
    Basic,
    Bearer,
}

impl Via {
    /// Whether a browser sends it of its own accord, with what the page of another site asks for.
    pub(super) const fn is_ambient(self) -> bool {
        match self {
            Self::Nothing | Self::Basic => true,
            Self::Bearer => false,
        }
    }
}

pub(super) fn given(headers: &HeaderMap) -> Result<Option<Given>, Denied> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(Denied::Header("there is more than one"));
    }
    if value.len() > AUTHORIZATION_BYTES_MAX {
        return Err(Denied::Header("it is too long"));
    }
    let text = value
        .to_str()
        .map_err(|_| Denied::Header("it is not plain ASCII"))?;
    let (scheme, rest) = text.trim().split_once(' ').ok_or(Denied::Header(
        "it is neither \"Bearer\" nor \"Basic\" with something after it",
    ))?;
    let rest = rest.trim_start();
    let (token, via) = if scheme.eq_ignore_ascii_case("bearer") {
        (Token::read(rest), Via::Bearer)
    } else if scheme.eq_ignore_ascii_case("basic") {
        (password(rest)?, Via::Basic)
    } else {
        return Err(Denied::Header("its scheme is neither Bearer nor Basic"));
    };
    Ok(Some(Given { token: token?, via }))
}

/// The token within the credentials of HTTP Basic. The name beside it says nothing.
fn password(text: &str) -> Result<Result<Token, NoToken>, Denied> {
    let broken = Denied::Header("it is not the base64 of a name, a colon and a token");
    let Ok(decoded) = BASE64_STANDARD.decode(text) else {
        return Err(broken);
    };
    match std::str::from_utf8(&decoded).map(|text| text.split_once(':')) {
        Ok(Some((_, password))) => Ok(Token::read(password)),
        _ => Err(broken),
    }
}

/// The name of the request: what was said before it came here, or a new one.
pub(super) fn request(headers: &HeaderMap) -> HeaderValue {
    let sound =
        |id: &&HeaderValue| (1..=REQUEST_BYTES_MAX).contains(&id.len()) && id.to_str().is_ok();
    match headers.get(&X_REQUEST_ID).filter(sound) {
        Some(id) => id.clone(),
        None => {
            // Without randomness it has no name: nobody depends on it.
            let letters = token::letters::<16>().unwrap_or_default();
            HeaderValue::try_from(letters).expect("letters are ASCII")
        }
    }
}

/// The name as a text.
pub(super) fn text(name: &HeaderValue) -> &str {
    name.to_str().unwrap_or_default()
}

/// Whether a browser made the request for the page of another site.
pub(super) fn is_of_another_site(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://"));
    match (origin, host(uri, headers)) {
        (Some((_, origin)), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// Whether the request was made to this machine by a name that only this machine has. A page of another site can
/// have its own name lead here, and then reads the answers.
pub(super) fn is_for_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    // No browser leaves it out.
    let Some(host) = host(uri, headers) else {
        return !headers.contains_key(HOST);
    };
    let name = without_port(host);
    let ip = name.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    if let Ok(ip) = ip.unwrap_or(name).parse::<IpAddr>() {
        return ip.to_canonical().is_loopback();
    }
    // With a dot at its end it is the same name.
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// As the request says it: a name or an address, and perhaps a port.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority().map(Authority::as_str) {
        // What is before an @ says who asks, and not where.
        Some(said) => Some(said.rsplit_once('@').map_or(said, |(_, host)| host)),
        None => headers.get(HOST)?.to_str().ok(),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, Uri, header};

    use super::*;

    fn with(values: &[&[u8]]) -> HeaderMap {
        let value = |bytes: &&[u8]| HeaderValue::from_bytes(bytes).expect("a header");
        values
            .iter()
            .map(|bytes| (AUTHORIZATION, value(bytes)))
            .collect()
    }

    #[test]
    fn hostile_headers_are_refused_without_a_panic() {
        let long = [b"Bearer ".as_slice(), &b"x".repeat(100_000)].concat();
        let many = vec![b"Bearer x".as_slice(); 500];
        let hostile: [&[&[u8]]; 12] = [
            &[b""],
            &[b"Bearer"],
            &[b"Bearer "],
            &[b"Bearer orc_"],
            &[b"Bearer \xff\xfe"],
            &[b"Negotiate abc"],
            &[b"Basic !!!"],
            &[b"Basic "],
            // "no colon", and bytes that are not UTF-8.
            &[b"Basic bm8gY29sb24="],
            &[b"Basic /zr/"],
            &[&long],
            &many,
        ];
        for values in hostile {
            assert!(given(&with(values)).is_err(), "{:?}", values[0]);
        }
        assert!(given(&HeaderMap::new()).expect("nothing").is_none());
    }

    #[test]
    fn pages_of_other_sites_are_told_from_our_own() {
        let request = |host: &'static str, origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            headers
        };
        let uri = Uri::from_static("/v1/jobs");
        for (host, origin, other, loopback) in [
            ("localhost:7400", "http://localhost:7400", false, true),
            ("127.0.0.1:7400", "http://127.0.0.1:7400", false, true),
            ("[::1]:7400", "http://[::1]:7400", false, true),
            ("localhost:7400", "http://localhost:3000", true, true),
            ("localhost:7400", "https://evil.example", true, true),
            ("localhost:7400", "null", true, true),
            (
                "evil.example:7400",
                "http://evil.example:7400",
                false,
                false,
            ),
            ("localhost.evil.example", "http://x", true, false),
            ("localhost", "http://localhost", false, true),
            ("[::1]", "http://[::1]", false, true),
            ("[2001:db8::1]:7400", "http://x", true, false),
            ("127.0.0.1.evil.example", "http://x", true, false),
            ("127.0.0.1@evil.example", "http://x", true, false),
            ("evil.example:localhost", "http://x", true, false),
            ("", "http://x", true, false),
            ("localhost.", "http://localhost.", false, true),
            ("localhost.:7400", "http://localhost.:7400", false, true),
            ("app.localhost.", "http://app.localhost.", false, true),
            ("localhost..", "http://x", true, false),
            (".", "http://x", true, false),
            ("evil.example.", "http://evil.example.", false, false),
            ("localhost.evil.example.", "http://x", true, false),
            ("me@localhost", "http://x", true, false),
        ] {
            let headers = request(host, origin);
            assert_eq!(is_of_another_site(&uri, &headers), other, "{host} {origin}");
            assert_eq!(is_for_loopback(&uri, &headers), loopback, "{host}");
        }
        assert!(!is_of_another_site(&uri, &HeaderMap::new()));
    }

    /// The whole URI on HTTP/1.1, and `:authority` on HTTP/2.
    #[test]
    fn what_a_uri_says_of_the_host_counts_more_than_the_header() {
        for (authority, origin, other, loopback) in [
            ("localhost", "http://localhost", false, true),
            ("LocalHost.:7400", "http://localhost.:7400", false, true),
            ("127.0.0.1:7400", "http://127.0.0.1:7400", false, true),
            ("127.1.2.3", "http://127.1.2.3", false, true),
            ("[::1]", "http://[::1]", false, true),
            ("[::1]:7400", "https://[::1]:7400", false, true),
            ("[::ffff:127.0.0.1]:7400", "http://x", true, true),
            (
                "[2001:db8::1]:7400",
                "http://[2001:db8::1]:7400",
                false,
                false,
            ),
            ("[2001:db8::1]", "http://x", true, false),
            ("localhost:7400", "http://localhost:3000", true, true),
            ("evil.example", "http://evil.example", false, false),
            ("evil.example:7400", "http://localhost:7400", true, false),
            // What comes before the host.
            ("me@localhost:7400", "http://localhost:7400", false, true),
            ("me:pw@127.0.0.1", "http://127.0.0.1", false, true),
            ("evil.example@[::1]:7400", "http://[::1]:7400", false, true),
            ("localhost@evil.example", "http://localhost", true, false),
            (
                "localhost:80@evil.example:80",
                "http://localhost:80",
                true,
                false,
            ),
            (
                "127.0.0.1@evil.example",
                "http://evil.example",
                false,
                false,
            ),
            ("[::1]:7400@evil.example", "http://[::1]:7400", true, false),
        ] {
            let uri = format!("http://{authority}/v1/jobs");
            let uri: Uri = uri.parse().expect("a URI");
            for header in ["localhost:7400", "evil.example:7400"] {
                let mut headers = HeaderMap::new();
                headers.insert(header::HOST, HeaderValue::from_static(header));
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
                let name = format!("{authority} {origin} {header}");
                assert_eq!(is_of_another_site(&uri, &headers), other, "{name}");
                assert_eq!(is_for_loopback(&uri, &headers), loopback, "{name}");
            }
            assert_eq!(is_for_loopback(&uri, &HeaderMap::new()), loopback);
        }
    }
}
