//! Certificates and clients for tests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Two PEM files in a directory.
pub(crate) struct Files {
    pub(crate) dir: TempDir,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    pub(crate) fn of(pair: &Pair) -> Self {
        let dir = crate::dir();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let this = Self { dir, cert, key };
        this.put(pair);
        this
    }

    pub(crate) fn put(&self, pair: &Pair) {
        std::fs::write(&self.cert, &pair.cert_pem).expect("a file");
        std::fs::write(&self.key, &pair.key_pem).expect("a file");
    }
}

/// A certificate that vouches for itself, with its key.
pub(crate) struct Pair {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    der: CertificateDer<'static>,
}

pub(crate) fn pair(name: &str) -> Pair {
    made(params(name))
}

pub(crate) fn expired(name: &str) -> Pair {
    let mut params = params(name);
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2002, 1, 1);
    made(params)
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new([name.to_owned()]).expect("a name")
}

fn made(params: CertificateParams) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    Pair {
        cert_pem: cert.pem(),
        key_pem: key.serialize_pem(),
        der: cert.der().clone(),
    }
}

/// A client that believes this certificate.
pub(crate) struct Client {
    pub(crate) trusts: CertificateDer<'static>,
    pub(crate) version: &'static SupportedProtocolVersion,
    pub(crate) protocol: &'static str,
}

impl Client {
    pub(crate) fn of(pair: &Pair) -> Self {
        Self {
            trusts: pair.der.clone(),
            version: &rustls::version::TLS13,
            protocol: "http/1.1",
        }
    }

    pub(crate) async fn connect(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusts.clone()).expect("a certificate");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.version])
            .expect("a version that the provider has")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![self.protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }

    pub(crate) async fn open(&self, to: SocketAddr) -> std::io::Result<Connection> {
        let io = TokioIo::new(self.connect(to).await?);
        Ok(if self.protocol == "h2" {
            let made = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = made.expect("a connection");
            tokio::spawn(connection);
            Connection::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.expect("a connection");
            tokio::spawn(connection);
            Connection::One(sender)
        })
    }
}

pub(crate) enum Connection {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Connection {
    pub(crate) async fn get(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
    ) -> hyper::Result<Response<Incoming>> {
        let request = Request::builder().method(method);
        let request = request.uri(format!("https://localhost{path}"));
        let request = request.body(body).expect("a request");
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    use http_body_util::BodyExt;
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}
