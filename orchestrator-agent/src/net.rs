//! HTTP/1.1 as a client, over TCP or TLS, with a bound to everything.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::disk;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The next address of a name is tried after this, whatever becomes of the one before.
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// The most bytes of the head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Whatever it is, or an error when the time is over.
pub(crate) async fn within<T>(limit: Duration, doing: impl Future<Output = T>) -> io::Result<T> {
    let over = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(limit, doing).await.map_err(over)
}

/// Where a server is, and how to know it.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// What goes before every path.
    prefix: String,
    /// What comes from there is trusted only as far as its hash goes, so it may come without TLS.
    anywhere: bool,
}

/// Why a server's address is none.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is not `https://host[:port][/path]`.
    #[error(
        "{0:?} is no address of a server: say something like https://orchestrator.example:4650"
    )]
    Shape(String),
    /// It is not encrypted, and not this machine.
    #[error("{0}: say https://…; without TLS only to this machine: tokens would be read by others")]
    Open(String),
    /// The file with the certificates of authorities.
    #[error("{path} cannot be read: {why}")]
    Authorities {
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Whether two addresses are of one server, however they are written.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    let parts = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_owned();
        let port = uri.port_u16().or(match scheme.as_str() {
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        })?;
        let host = uri.host()?.to_ascii_lowercase();
        Some((
            scheme,
            host,
            port,
            uri.path().trim_end_matches('/').to_owned(),
        ))
    };
    one == other || parts(one).is_some_and(|one| parts(other) == Some(one))
}

impl Address {
    /// Reads an address. Over TLS it trusts the authorities in the file, or those of the system.
    pub(crate) fn new(url: &str, authorities: Option<&Path>) -> Result<Self, AddressError> {
        let shape = || AddressError::Shape(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| shape())?;
        let host = bare(uri.host().ok_or_else(shape)?);
        if uri.query().is_some()
            || uri
                .authority()
                .is_some_and(|all| all.as_str().contains('@'))
        {
            return Err(shape());
        }
        let (tls, port) = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| shape())?;
                (
                    Some((trusting(authorities, authorities.is_none())?, name)),
                    443,
                )
            }
            Some("http") if is_here(&host) => {
                // By these is known who sends artifacts.
                if authorities.is_some() {
                    trusting(authorities, false)?;
                }
                (None, 80)
            }
            Some("http") => return Err(AddressError::Open(url.to_owned())),
            _ => return Err(shape()),
        };
        Ok(Self {
            port: uri.port_u16().unwrap_or(port),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host,
            tls,
            anywhere: false,
        })
    }

    /// Where a file is, for whoever knows its hash. Over TLS it trusts the system's authorities, and those in the file.
    pub(crate) fn anywhere(uri: &Uri, authorities: Option<&Path>) -> Result<Self, AddressError> {
        let shape = || AddressError::Shape(uri.host().unwrap_or_default().to_owned());
        let host = bare(uri.host().ok_or_else(shape)?);
        let (tls, port) = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| shape())?;
                (Some((trusting(authorities, true)?, name)), 443)
            }
            _ => (None, 80),
        };
        Ok(Self {
            port: uri.port_u16().unwrap_or(port),
            prefix: String::new(),
            host,
            tls,
            anywhere: true,
        })
    }

    /// A port of this machine, for checks.
    pub(crate) fn here(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            tls: None,
            prefix: String::new(),
            anywhere: false,
        }
    }

    /// A request to it.
    pub(crate) fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let host = match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header("host", host)
            .header(
                "user-agent",
                concat!("orchestrator-agent/", env!("CARGO_PKG_VERSION")),
            )
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        within(CONNECT_WITHIN, async {
            let stream = self.tcp().await?;
            match &self.tls {
                None => Connection::over(stream).await,
                Some((config, name)) => {
                    let tls = TlsConnector::from(config.clone());
                    let stream = tls.connect(name.clone(), stream).await;
                    Connection::over(stream.map_err(in_words)?).await
                }
            }
        })
        .await?
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let found = found.filter(|address| self.may(address));
        let stream = first(found.map(TcpStream::connect)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Whatever a name resolves to, without TLS it is this machine.
    fn may(&self, address: &SocketAddr) -> bool {
        self.tls.is_some() || self.anywhere || address.ip().is_loopback()
    }
}

/// What to do about a server with which there is no TLS.
fn in_words(why: io::Error) -> io::Error {
    use rustls::CertificateError::UnknownIssuer;
    use rustls::{Error, InvalidMessage};
    let failed = why.get_ref().and_then(|why| why.downcast_ref());
    let what = match failed {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "it does not speak TLS; is it http:// rather than https://?"
        }
        Some(Error::InvalidCertificate(UnknownIssuer)) => {
            "nobody known has signed its certificate; name the authority that did with --ca-cert"
        }
        _ => return why,
    };
    io::Error::new(why.kind(), what)
}

/// What to do about a server that answers in no HTTP.
fn not_http(why: hyper::Error) -> io::Error {
    match why.is_parse() {
        true => io::Error::other(format!(
            "its answer is no HTTP ({why}); is it https:// rather than http://?"
        )),
        false => io::Error::other(why),
    }
}

/// The first that comes of several: each begins a little after the one before, or as soon as that has failed. Of an
/// address that says nothing at all nobody would hear for minutes.
async fn first<T: Send + 'static>(
    tries: impl Iterator<Item = impl Future<Output = io::Result<T>> + Send + 'static>,
) -> io::Result<T> {
    let mut tries = tries.fuse();
    let mut under_way = JoinSet::new();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    loop {
        let next = tries.next();
        let is_more = next.is_some();
        if let Some(next) = next {
            under_way.spawn(next);
        }
        tokio::select! {
            ended = under_way.join_next() => match ended {
                Some(Ok(Ok(won))) => return Ok(won),
                Some(Ok(Err(why))) => last = why,
                Some(Err(why)) => last = io::Error::other(why),
                None => return Err(last),
            },
            () = sleep(NEXT_AFTER), if is_more => {}
        }
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A host without the brackets of an address of many colons.
fn bare(host: &str) -> String {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

fn trusting(authorities: Option<&Path>, systems: bool) -> Result<Arc<ClientConfig>, AddressError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = authorities {
        let failed = |why: String| AddressError::Authorities {
            path: path.display().to_string(),
            why,
        };
        let all = std::fs::read(path).map_err(|why| failed(disk::unread(&why)))?;
        for certificate in CertificateDer::pem_slice_iter(&all) {
            let certificate = certificate.map_err(|why| failed(why.to_string()))?;
            roots
                .add(certificate)
                .map_err(|why| failed(why.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is no certificate in it".to_owned()));
        }
    }
    if systems {
        let found = rustls_native_certs::load_native_certs();
        // One that cannot be read leaves the others good.
        roots.add_parsable_certificates(found.certs);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(AddressError::Tls)?;
    Ok(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// A connection, for one request after the other. It closes with this.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    carried: JoinHandle<()>,
}

impl Connection {
    /// Speaks over a stream that is there.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> io::Result<Self> {
        let made = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = made.await.map_err(io::Error::other)?;
        let carried = tokio::spawn(async {
            // Whoever waits for an answer hears of it.
            let _ = connection.await;
        });
        Ok(Self { sender, carried })
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// The head of the answer; the body is to be read by one of the functions below.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> io::Result<Response<Incoming>> {
        within(limit, async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
        .await?
        .map_err(not_http)
    }

    /// The whole answer.
    pub(crate) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
        limit: Duration,
    ) -> io::Result<(StatusCode, Bytes)> {
        within(limit, async {
            let response = self.send(request, limit).await?;
            let (head, mut body) = response.into_parts();
            Ok((head.status, whole(&mut body, bytes_max).await?))
        })
        .await?
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.carried.abort();
    }
}

/// The next bytes; `None` at the end.
pub(crate) async fn next(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// All bytes, if they are no more than so many.
pub(crate) async fn whole(body: &mut Incoming, bytes_max: usize) -> io::Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(bytes) = next(body).await? {
        if all.len() + bytes.len() > bytes_max {
            return Err(io::Error::other(format!(
                "an answer of more than {bytes_max} bytes"
            )));
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    #[test]
    fn a_server_is_the_same_however_it_is_written() {
        let same = [
            ("https://h:4650", "https://h:4650/"),
            ("https://H", "https://h:443"),
            ("http://127.0.0.1:80/a/", "http://127.0.0.1/a"),
            ("what", "what"),
        ];
        for (one, other) in same {
            assert!(is_same(one, other), "{one} {other}");
        }
        let others = [
            ("https://h:1", "https://h:2"),
            ("https://h", "http://h:443"),
            ("https://h/a", "https://h/b"),
            ("https://h", "https://g"),
            ("what", "that"),
        ];
        for (one, other) in others {
            assert!(!is_same(one, other), "{one} {other}");
        }
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_keeps_no_other_from_it() {
        type Try = Pin<Box<dyn Future<Output = io::Result<u8>> + Send>>;
        let silent = || -> Try { Box::pin(std::future::pending()) };
        let refuses =
            || -> Try { Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) }) };
        let answers = |number| -> Try { Box::pin(async move { Ok(number) }) };
        for tries in [
            vec![answers(1), silent()],
            vec![silent(), answers(1), answers(2)],
            vec![silent(), refuses(), silent(), answers(1)],
        ] {
            assert_eq!(first(tries.into_iter()).await.unwrap(), 1);
        }
        let why = first([refuses(), refuses()].into_iter()).await.unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::ConnectionRefused);
        let none: [Try; 0] = [];
        let why = first(none.into_iter()).await.unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn without_tls_only_to_this_machine() {
        for good in [
            "http://127.0.0.1:1",
            "http://localhost",
            "http://[::1]:4650/api/",
        ] {
            Address::new(good, None).unwrap();
        }
        for open in [
            "http://10.0.0.1:1",
            "http://localhost.example",
            "http://0.0.0.0",
        ] {
            let why = Address::new(open, None).unwrap_err();
            assert!(matches!(why, AddressError::Open(_)), "{why}");
        }
        for wrong in [
            "",
            "a",
            "ftp://localhost",
            "localhost:1",
            "http://a@localhost",
            "http://localhost?x",
        ] {
            let why = Address::new(wrong, None).unwrap_err();
            assert!(matches!(why, AddressError::Shape(_)), "{wrong}: {why}");
        }
    }
}
