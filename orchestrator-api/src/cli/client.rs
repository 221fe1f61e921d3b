//! Asks one server: one request a connection, within a time, and again where it breaks.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::error::Error;
use crate::native::Problem;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A server of this machine that has just been begun listens by then.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);
const BEGINS_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The server bounds everything but a long poll to 30 s, and says so itself; a long poll takes 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Longer than any page.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The server says that a stream is alive every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Longer than any line of a stream.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Before the second and third try.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
const ROWS_PER_PAGE: usize = 1000;

/// A server, and who asks it.
pub(super) struct Client {
    address: Address,
    tls: Option<TlsConnector>,
    bearer: Option<HeaderValue>,
    answered: Cell<bool>,
}

struct Address {
    text: String,
    host: String,
    port: u16,
    authority: HeaderValue,
    /// What all paths begin with, where a proxy wants that.
    prefix: String,
}

/// One request.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<&'a Value>,
    /// Under which a command is carried out once, however often it is sent.
    key: Option<String>,
}

struct Reply {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Client {
    pub(super) fn new(
        address: &str,
        token: Option<&str>,
        ca_cert: Option<&Path>,
    ) -> Result<Self, Error> {
        let (address, secure) = Address::read(address)?;
        // A file that is named is looked at also where it is not needed: whoever names it means something by it.
        let wanted = secure || ca_cert.is_some();
        let tls = wanted.then(|| tls(ca_cert)).transpose()?;
        let bearer = token.filter(|token| !token.trim().is_empty()).map(|token| {
            let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
            let mut value = value.map_err(|_| {
                Error::Usage("the token has characters that no token has: copy it again".to_owned())
            })?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        Ok(Self {
            address,
            tls: tls.filter(|_| secure),
            bearer: bearer.transpose()?,
            answered: Cell::new(false),
        })
    }

    /// Where it is, as it was said.
    pub(super) fn address(&self) -> &str {
        &self.address.text
    }

    /// Whether it ever did: one that did not may be the wrong one.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.get()
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Error> {
        self.ask(&Ask {
            method: Method::GET,
            path,
            body: None,
            key: None,
        })
        .await
    }

    /// Says something once: it may be sent again, under the same key.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.ask(&Ask {
            method: Method::POST,
            path,
            body: Some(body),
            key: Some(uuid::Uuid::now_v7().to_string()),
        })
        .await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, Error> {
        self.ask(&Ask {
            method: Method::DELETE,
            path,
            body: None,
            key: None,
        })
        .await
    }

    /// The pages of a list as one, of at most so many rows. With `next_page_token` where there are more.
    pub(super) async fn list(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
        name: &str,
        limit: usize,
    ) -> Result<Value, Error> {
        let mut rows = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let size = (limit - rows.len()).min(ROWS_PER_PAGE);
            let own = [
                ("page_size", Some(size.to_string())),
                ("page_token", token.take()),
            ];
            let query = query.iter().cloned().chain(own).collect::<Vec<_>>();
            let mut page = self.get(&with_query(path, &query)).await?;
            if let Some(Value::Array(more)) = page.get_mut(name).map(Value::take) {
                rows.extend(more);
            }
            if let Some(Value::String(next)) = page.get_mut("next_page_token").map(Value::take) {
                token = Some(next);
            }
            if token.is_none() || rows.len() >= limit {
                break;
            }
        }
        let mut all = Map::new();
        all.insert(name.to_owned(), Value::Array(rows));
        if let Some(token) = token {
            all.insert("next_page_token".to_owned(), token.into());
        }
        Ok(Value::Object(all))
    }

    async fn ask(&self, ask: &Ask<'_>) -> Result<Value, Error> {
        let mut pauses = PAUSES.into_iter();
        let reply = loop {
            let tried = self.once(ask).await;
            let wait = match &tried {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => reply.retry_after,
                Err(Error::Broken { .. }) => Some(Duration::ZERO),
                _ => None,
            };
            // What is deleted twice is not found the second time.
            let again = wait.filter(|_| ask.method != Method::DELETE);
            let pause = again.and_then(|wait| Some(wait.max(pauses.next()?)));
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break tried?,
            }
        };
        self.answered.set(true);
        self.read(&reply)
    }

    fn read(&self, reply: &Reply) -> Result<Value, Error> {
        if reply.status.is_success() && reply.body.is_empty() {
            return Ok(Value::Null);
        }
        if reply.status.is_success() {
            let value = serde_json::from_slice(&reply.body);
            return value.map_err(|why| self.foreign(&format!("it answers no JSON: {why}")));
        }
        let problem: Problem = serde_json::from_slice(&reply.body)
            .map_err(|_| self.foreign(&format!("it answers {}", reply.status)))?;
        Err(Error::Refused {
            problem: Box::new(problem),
            with_token: self.bearer.is_some(),
        })
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Reply, Error> {
        let answered = async {
            let response = self.begin(self.request(ask)).await?;
            whole(response).await.map_err(|why| self.broken(&why))
        };
        match timeout(ANSWER_WITHIN, answered).await {
            Ok(reply) => reply,
            Err(_) => Err(self.broken("it took more than 60 s")),
        }
    }

    /// Reads a stream of events to its end, from the one after `last`, which is then the last that was taken. `begun` hears
    /// when it begins.
    pub(super) async fn events(
        &self,
        path: &str,
        last: &mut Option<String>,
        begun: impl FnOnce(),
        mut take: impl FnMut(Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut request = self.request(&Ask {
            method: Method::GET,
            path,
            body: None,
            key: None,
        });
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last {
            let last = HeaderValue::from_str(last).expect("it came as a line of a stream");
            headers.insert("last-event-id", last);
        }
        let response = timeout(ANSWER_WITHIN, self.begin(request)).await;
        let response = response.map_err(|_| self.broken("it took more than 60 s"))??;
        if response.status() != StatusCode::OK {
            let reply = timeout(ANSWER_WITHIN, whole(response)).await;
            let reply = reply.map_err(|_| self.broken("it took more than 60 s"))?;
            let reply = reply.map_err(|why| self.broken(&why))?;
            self.answered.set(true);
            self.read(&reply)?;
            return Ok(());
        }
        self.answered.set(true);
        begun();
        let mut body = response.into_body();
        let mut lines = Vec::new();
        let (mut id, mut data) = (None, None);
        loop {
            let frame = timeout(SILENCE_MAX, body.frame()).await;
            let frame = frame.map_err(|_| self.broken("its stream fell silent"))?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|why| self.broken(&why.to_string()))?;
            lines.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                match line.trim_end_matches(['\r', '\n']).split_once(':') {
                    Some(("id", value)) => id = Some(value.trim_start().to_owned()),
                    Some(("data", value)) => data = Some(value.trim_start().to_owned()),
                    Some(_) => {}
                    // The end of an event, or of a comment.
                    None => {
                        if let Some(data) = data.take() {
                            let value = serde_json::from_str(&data);
                            take(value.map_err(|why| {
                                self.foreign(&format!("it answers no JSON: {why}"))
                            })?)?;
                        }
                        *last = id.take().or_else(|| last.take());
                    }
                }
            }
            if lines.len() > EVENT_BYTES_MAX {
                return Err(self.foreign("its stream has no end of a line"));
            }
        }
    }

    /// Sends it, and gives the head of the answer.
    async fn begin(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let stream = self.connect().await?;
        let begun = match &self.tls {
            None => begin(stream, request).await,
            Some(connector) => {
                let name = self.server_name()?;
                let stream = timeout(CONNECT_WITHIN, connector.connect(name, stream)).await;
                let stream = stream.map_err(|_| self.broken("no TLS within 10 s"))?;
                begin(stream.map_err(|why| self.of_tls(&why))?, request).await
            }
        };
        begun.map_err(|why| self.broken(&why))
    }

    async fn connect(&self) -> Result<TcpStream, Error> {
        let Address { host, port, .. } = &self.address;
        let since = Instant::now();
        let tried = loop {
            let tried = timeout(CONNECT_WITHIN, TcpStream::connect((host.as_str(), *port))).await;
            let is_refused =
                matches!(&tried, Ok(Err(why)) if why.kind() == io::ErrorKind::ConnectionRefused);
            // It may be that it was begun on the line before.
            let may_begin = self.address.is_here() && !self.has_answered();
            if !is_refused || !may_begin || since.elapsed() >= BEGINS_WITHIN {
                break tried;
            }
            sleep(BEGINS_AGAIN_AFTER).await;
        };
        let no_server = |why: String| Error::NoServer {
            address: self.address.text.clone(),
            why,
        };
        let tried = tried.map_err(|_| no_server("it does not answer within 10 s".to_owned()))?;
        let stream = tried.map_err(|why| {
            no_server(match why.kind() {
                io::ErrorKind::ConnectionRefused => "the connection was refused".to_owned(),
                _ => why.to_string(),
            })
        })?;
        // Without it small requests wait; that it cannot be set is no reason to ask nothing.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn request(&self, ask: &Ask<'_>) -> Request<Full<Bytes>> {
        let body = ask.body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{}{}", self.address.prefix, ask.path))
            .header(HOST, &self.address.authority)
            .header(ACCEPT, "application/json");
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &ask.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request.body(Full::new(body.into()));
        request.expect("paths are made of names and escaped text")
    }

    fn server_name(&self) -> Result<ServerName<'static>, Error> {
        let name = ServerName::try_from(self.address.host.clone());
        name.map_err(|_| Error::Address(self.address.text.clone()))
    }

    fn of_tls(&self, why: &io::Error) -> Error {
        let source = why.get_ref().and_then(|why| why.downcast_ref());
        match source {
            Some(rustls::Error::InvalidCertificate(why)) => Error::Untrusted {
                address: self.address.text.clone(),
                why: of_certificate(why),
            },
            Some(rustls::Error::InvalidMessage(_)) => {
                self.broken("it does not speak TLS; is it http:// rather than https://?")
            }
            _ => self.broken(&why.to_string()),
        }
    }

    fn foreign(&self, why: &str) -> Error {
        Error::Foreign {
            address: self.address.text.clone(),
            why: why.to_owned(),
        }
    }

    pub(super) fn broken(&self, why: &str) -> Error {
        Error::Broken {
            address: self.address.text.clone(),
            why: why.to_owned(),
        }
    }
}

/// What is wrong with a certificate, and what to do.
fn of_certificate(why: &rustls::CertificateError) -> String {
    use rustls::CertificateError;
    let text = why.to_string();
    match why {
        CertificateError::UnknownIssuer => {
            "nobody known has signed it; name the authority that did with --ca-cert".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("{text}; give the server a new one")
        }
        _ if text.contains("CaUsedAsEndEntity") => {
            "it is an authority's own; make the server one with basicConstraints=CA:FALSE (openssl req -x509 … -addext \
             basicConstraints=critical,CA:FALSE)"
                .to_owned()
        }
        _ => text,
    }
}

impl Address {
    /// Whether it is this machine.
    fn is_here(&self) -> bool {
        let ip = self.host.parse::<IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// It, and whether it is TLS.
    fn read(text: &str) -> Result<(Self, bool), Error> {
        let none = || Error::Address(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| none())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(none()),
        };
        let authority = uri.authority().ok_or_else(none)?;
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(none());
        }
        let host = authority.host();
        let said = authority.as_str().rsplit_once(':');
        let port = said.filter(|(_, port)| !port.ends_with(']'));
        if port.is_some() && authority.port_u16().is_none() {
            return Err(none());
        }
        let address = Self {
            text: text.trim_end_matches('/').to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            authority: HeaderValue::try_from(authority.as_str()).map_err(|_| none())?,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        };
        Ok((address, secure))
    }
}

async fn begin<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|why| why.to_string())?;
    // What happens to the connection is seen by who waits for the answer.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|why| {
        if why.is_parse() {
            return "it does not speak HTTP; is it https:// rather than http://?".to_owned();
        }
        "the connection broke".to_owned()
    })
}

/// Reads all of the answer.
async fn whole(response: Response<Incoming>) -> Result<Reply, String> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|why| format!("its answer broke off: {why}"))?;
    let retry_after = parts.headers.get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Reply {
        status: parts.status,
        retry_after: retry_after.map(Duration::from_secs),
        body: body.to_bytes(),
    })
}

/// A path with those parameters that have a value.
pub(super) fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, value) in query {
        if let Some(value) = value {
            text.append_pair(name, value);
        }
    }
    match text.finish() {
        none if none.is_empty() => path.to_owned(),
        text => format!("{path}?{text}"),
    }
}

/// Where systems keep whom they trust; the first that is there counts.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

fn tls(ca_cert: Option<&Path>) -> Result<TlsConnector, Error> {
    let given = ca_cert.map(Path::to_owned);
    let named = given.or_else(|| std::env::var_os("SSL_CERT_FILE").map(Into::into));
    let found = SYSTEM_ROOTS
        .iter()
        .map(Path::new)
        .find(|path| path.exists());
    let path = named.or_else(|| found.map(Path::to_owned));
    let mut roots = RootCertStore::empty();
    if let Some(path) = path {
        let unreadable = |why: String| Error::Unreadable {
            path: path.clone(),
            why,
        };
        let pem = std::fs::read(&path).map_err(|why| Error::unreadable(&path, &why))?;
        let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certs = certs.map_err(|why| unreadable(why.to_string()))?;
        // A system's list may have some that are of no use.
        let (usable, _) = roots.add_parsable_certificates(certs);
        if usable == 0 {
            return Err(unreadable("there is no certificate in it".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
