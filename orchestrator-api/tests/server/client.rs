//! A client of a server that may be killed at any moment.

use std::net::SocketAddr;

use axum::http::{HeaderMap, Method, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

#[derive(Clone)]
pub(crate) struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    pub(crate) address: SocketAddr,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// The server went away before it had answered.
#[derive(Debug)]
pub(crate) struct Gone;

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            http: Http::builder(TokioExecutor::new()).build_http(),
            address,
        }
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Gone> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::from(body)).expect("a request");
        self.http.request(request).await.map_err(|_| Gone)
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, Gone> {
        let (parts, body) = self.open(method, path, headers, body).await?.into_parts();
        let body = body.collect().await.map_err(|_| Gone)?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::String(text)),
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Reply, Gone> {
        self.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Reply, Gone> {
        self.send(Method::POST, path, &[], Some(&body)).await
    }

    /// An event stream.
    pub(crate) async fn stream(&self, path: &str) -> Result<Stream, Gone> {
        let headers = [("accept", "text/event-stream")];
        let response = self.open(Method::GET, path, &headers, None).await?;
        assert_eq!(response.status(), 200, "{path}");
        Ok(Stream {
            body: response.into_body(),
            text: String::new(),
        })
    }

    /// All rows of a list.
    pub(crate) async fn all(&self, path: &str, rows: &str) -> Result<Vec<Value>, Gone> {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?page_size=1000{token}")).await?;
            let page = page.is(200);
            all.extend(page[rows].as_array().expect("rows").iter().cloned());
            match page["next_page_token"].as_str() {
                Some(next) => token = format!("&page_token={next}"),
                None => return Ok(all),
            }
        }
    }
}

impl Reply {
    /// What it says, if this is its status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }
}

pub(crate) struct Stream {
    body: Incoming,
    text: String,
}

impl Stream {
    /// The data of the next event; `None` at the end, however it came.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data:"));
                let data = data.map(|data| serde_json::from_str(data).expect("JSON"));
                self.text = rest.to_owned();
                if data.is_some() {
                    return data;
                }
                // A comment.
                continue;
            }
            let frame = self.body.frame().await?.ok()?;
            let data = frame.into_data().unwrap_or_default();
            self.text += std::str::from_utf8(&data).expect("text");
        }
    }
}
