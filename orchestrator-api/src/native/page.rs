//! Pages: how long they are, and how they are written.

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;

use crate::access::Audited;
use crate::list::seal;

/// How many rows a page has, where nobody says otherwise.
pub(super) const PAGE_SIZE: u32 = 50;
/// How many it has at the most.
pub(super) const PAGE_SIZE_MAX: u32 = 1000;

/// `{"<name>":[…],"next_page_token":"…"}`, of rows that are JSON already. There is no token at the end of the list.
pub(super) fn page<T: AsRef<str>>(name: &str, rows: &[T], next: Option<String>) -> Response {
    let bytes: usize = rows.iter().map(|row| row.as_ref().len() + 1).sum();
    let mut text = String::with_capacity(bytes + name.len() + 400);
    text += &format!("{{\"{name}\":[");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text += row.as_ref();
    }
    text.push(']');
    if let Some(token) = next {
        // Of letters, digits, '-' and '_'.
        text += &format!(",\"next_page_token\":\"{token}\"");
    }
    text.push('}');
    json(text)
}

/// The first rows of a list of which one more than wanted was read; and the token of the next page, if there is one.
pub(super) fn cut<T>(
    list: &str,
    mut rows: Vec<T>,
    limit: u32,
    place: impl FnOnce(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let limit = limit as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last.map(|row| seal(list, place(row).as_bytes()));
    (rows, next)
}

/// JSON that was written before.
pub(super) fn json(text: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(text.into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// JSON.
pub(super) fn written<T: serde::Serialize>(what: &T) -> Response {
    json(serde_json::to_vec(what).expect("answers hold texts, numbers, and maps by text"))
}

/// An answer to what the audit log has already, or what changed nothing.
pub(super) fn audited(mut response: Response) -> Response {
    response.extensions_mut().insert(Audited);
    response
}
