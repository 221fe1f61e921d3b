//! The listening side: connections are accepted, counted, handed to a router, and drained at the end.
//!
//! A loop of our own, because each of its steps has a bound: how many connections there are, in all and of one
//! address; how long one may take for its handshake and for the head of a request; for how long it may take nothing of
//! an answer; how long the end may take. How long a body may take is the business of its route; the rest of one that no
//! route wants is read with a bound, too.
//!
//! Over TLS it speaks HTTP/2 and HTTP/1.1, as the client prefers, and HTTP/1.1 without TLS.

mod places;
mod rest;
pub mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use self::places::{Place, Places};

/// The head of a request is at most so long. Of headers there are at most a hundred on HTTP/1.1, which hyper sees to:
/// told so, it clears room for all of them for every request.
const HEAD_BYTES_MAX: usize = 64 << 10;
const STREAMS_MAX: u32 = 200;
/// How long to wait when there is no room for another connection in the process.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// What a listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many connections at the same time. Others wait to be accepted.
    pub connections_max: usize,
    /// So many of one address, or of one network of IPv6; others are closed at once. This machine's own are not
    /// counted: whatever is here could do worse, and a proxy may be.
    pub per_address_max: usize,
    /// A TLS handshake is over within this.
    pub handshake_within: Duration,
    /// The head of a request is there within this, and on HTTP/1.1 also the next one on the same connection.
    pub head_within: Duration,
    /// Who takes nothing of what is sent to him for so long is cut off, be it that he is gone or that he does not
    /// read. However little he takes is enough, so that nobody is cut off for being slow.
    pub stalled_within: Duration,
    /// Who has not answered a ping on HTTP/2 within this is gone.
    pub ping_within: Duration,
    /// Requests in progress have this long at the end.
    pub drain_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            per_address_max: 500,
            handshake_within: Duration::from_secs(10),
            head_within: Duration::from_secs(30),
            stalled_within: Duration::from_secs(30),
            ping_within: Duration::from_secs(20),
            drain_within: Duration::from_secs(25),
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// Connections that were cut off, because they did not end in time.
    pub cut: usize,
}

/// Serves until `stop` is ready, then accepts nothing more, lets what is in progress end, and closes what does not.
///
/// A request carries the address that it came from as [`ConnectInfo`].
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> Drained {
    let places = Places::new(limits.connections_max, limits.per_address_max);
    let (stopping, stopped) = watch::channel(false);
    let server = Server {
        tls: tls.map(TlsAcceptor::from),
        router,
        limits,
        stopped,
    };
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        if let Some((stream, peer, place)) = accepted {
            connections.spawn(server.clone().connection(stream, peer, place));
        }
    }
    drop(listener);
    // All of them may have ended by themselves.
    let _ = stopping.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    let in_time = timeout(limits.drain_within, all).await.is_ok();
    let cut = if in_time { 0 } else { connections.len() };
    connections.shutdown().await;
    if cut > 0 {
        tracing::warn!(cut, "connections were cut off: they did not end in time");
    }
    Drained { cut }
}

/// The next connection that there is room for.
async fn accept(listener: &TcpListener, places: &Places) -> Option<(TcpStream, SocketAddr, Place)> {
    let room = places.room().await;
    match listener.accept().await {
        Ok((stream, peer)) => match room.take(peer.ip()) {
            Some(place) => Some((stream, peer, place)),
            None => {
                tracing::debug!(%peer, "closed: the address has too many connections");
                None
            }
        },
        Err(why) => {
            // The connection was gone already, or the process has too many files open.
            tracing::warn!(%why, "a connection was not accepted");
            sleep(AFTER_REFUSAL).await;
            None
        }
    }
}

#[derive(Clone)]
struct Server {
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn connection(self, stream: TcpStream, peer: SocketAddr, _place: Place) {
        // Without it answers are late, and no more than that.
        let _ = stream.set_nodelay(true);
        if let Err(why) = cut_when_stalled(&stream, self.limits.stalled_within) {
            tracing::debug!(%peer, %why, "nothing cuts this one off when it reads no more");
        }
        let Some(tls) = self.tls.clone() else {
            return self.http1(stream, peer).await;
        };
        match timeout(self.limits.handshake_within, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let protocol = stream.get_ref().1.alpn_protocol();
                if protocol == Some(b"h2") {
                    self.http2(stream, peer).await;
                } else {
                    self.http1(stream, peer).await;
                }
            }
            Ok(Err(why)) => tracing::debug!(%peer, %why, "the handshake failed"),
            Err(_) => tracing::debug!(%peer, "the handshake took too long"),
        }
    }

    async fn http1(self, io: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr) {
        let mut stopped = self.stopped.clone();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_within)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(io), self.service(peer, None));
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = becomes_true(&mut stopped) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        said(ended, peer);
    }

    async fn http2(self, io: impl AsyncRead + AsyncWrite + Unpin + Send, peer: SocketAddr) {
        let mut stopped = self.stopped.clone();
        let (begun, mut began) = watch::channel(false);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.limits.ping_within)
            .keep_alive_timeout(self.limits.ping_within)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .serve_connection(TokioIo::new(io), self.service(peer, Some(begun)));
        let mut connection = pin!(connection);
        // The pings begin only after the preface.
        let no_head = async {
            let began = timeout(self.limits.head_within, becomes_true(&mut began)).await;
            if began.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = no_head => return tracing::debug!(%peer, "no request came in time"),
            () = becomes_true(&mut stopped) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        said(ended, peer);
    }

    fn service(
        &self,
        peer: SocketAddr,
        begun: Option<watch::Sender<bool>>,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + use<> {
        let router = TowerToHyperService::new(self.router.clone());
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            if let Some(begun) = &begun {
                begun.send_replace(true);
            }
            request.extensions_mut().insert(ConnectInfo(peer));
            router.call(rest::is_read(request))
        })
    }
}

/// Only the kernel can tell a slow reader from one who reads no more: seen from here a socket is full until a third of
/// some megabytes is gone, which takes who is slow longer than any bound.
#[cfg(target_os = "linux")]
fn cut_when_stalled(stream: &TcpStream, within: Duration) -> std::io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(within))
}

/// Elsewhere such a connection keeps its place until the other side closes it.
#[cfg(not(target_os = "linux"))]
fn cut_when_stalled(_: &TcpStream, _: Duration) -> std::io::Result<()> {
    Ok(())
}

async fn becomes_true(flag: &mut watch::Receiver<bool>) {
    // Whoever could say it is gone: then this connection is, or will soon be.
    let _ = flag.wait_for(|flag| *flag).await;
}

fn said(ended: hyper::Result<()>, peer: SocketAddr) {
    if let Err(why) = ended {
        // A client that goes away, or is too slow: nothing that anybody here can mend.
        tracing::debug!(%peer, %why, "a connection ended early");
    }
}
