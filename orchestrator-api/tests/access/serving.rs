//! Real connections: what they bear, what cuts them, and how they end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Method;
use axum::routing::get;
use futures_util::stream;
use orchestrator_api::access::audit;
use orchestrator_api::serve::tls::{Certificates, TlsError};
use orchestrator_api::serve::{Drained, Limits, serve};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Fixture;
use crate::tls::{Client, Files, Pair, expired, pair, text};

const NEVER: Duration = Duration::from_secs(1 << 30);

/// A server with a route that answers at once, and one that answers when it is told to.
struct Serving {
    to: SocketAddr,
    asked: Arc<Notify>,
    go_on: Arc<Notify>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Drained>,
}

impl Serving {
    async fn start(tls: Option<Arc<ServerConfig>>, limits: Limits) -> Self {
        let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (asked.clone(), go_on.clone());
        let slow = async move || {
            tell.notify_one();
            wait.notified().await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(async || "fast"))
            .route("/slow", get(slow));
        let (to, stop, ended) = listen(tls, router, limits).await;
        Self {
            to,
            asked,
            go_on,
            stop,
            ended,
        }
    }

    async fn plain(limits: Limits) -> Self {
        Self::start(None, limits).await
    }
}

async fn listen(
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    limits: Limits,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<Drained>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        // It goes on for as long as nobody says otherwise.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::spawn(serve(listener, tls, router, limits, stopped));
    (to, stop, ended)
}

async fn certificates(files: &Files, every: Duration) -> Certificates {
    let watched = Certificates::watch(&files.cert, &files.key, every).await;
    watched.expect("a good pair")
}

async fn over_tls(pair: &Pair, limits: Limits) -> Serving {
    let files = Files::of(pair);
    let config = certificates(&files, NEVER).await.config();
    Serving::start(Some(config.expect("a configuration")), limits).await
}

/// What comes back for these bytes until the server closes.
async fn exchange(to: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    stream.write_all(sent).await.expect("it takes them");
    let mut answer = Vec::new();
    // A server that closes without having read everything resets the connection; what it said before is there.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn it_speaks_both_protocols_over_both_versions_of_tls() {
    let pair = pair("localhost");
    let serving = over_tls(&pair, Limits::default()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for protocol in ["http/1.1", "h2"] {
            let client = Client {
                version,
                protocol,
                ..Client::of(&pair)
            };
            let mut connection = client.open(serving.to).await.expect("a connection");
            for _ in 0..3 {
                let said = connection.get("/").await.expect("an answer");
                assert_eq!(text(said).await, "fast", "{version:?} {protocol}");
            }
        }
    }
    let plain = exchange(serving.to, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!plain.contains("HTTP/1.1 200"), "{plain}");
}

#[tokio::test]
async fn a_new_certificate_is_used_without_dropping_what_is_in_progress() {
    let (old, new) = (pair("localhost"), pair("localhost"));
    let files = Files::of(&old);
    let certificates = certificates(&files, Duration::from_millis(5)).await;
    let config = certificates.config().expect("a configuration");
    let mut serving = Serving::start(Some(config), Limits::default()).await;
    let mut connection = Client::of(&old).open(serving.to).await.expect("the old");
    let slow = tokio::spawn(async move {
        let said = connection.get("/slow").await.expect("an answer");
        (text(said).await, connection)
    });
    serving.asked.notified().await;

    // A pair that does not belong together, and no pair at all: the old one stays.
    for (cert, key) in [
        (&new.cert_pem, &old.key_pem),
        (&new.cert_pem, &"x".to_owned()),
    ] {
        std::fs::write(&files.key, key).expect("a file");
        std::fs::write(&files.cert, cert).expect("a file");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(Client::of(&old).connect(serving.to).await.is_ok());
    }
    std::fs::remove_file(&files.key).expect("it is there");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(Client::of(&old).connect(serving.to).await.is_ok());

    files.put(&new);
    while Client::of(&new).connect(serving.to).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(Client::of(&old).connect(serving.to).await.is_err());
    serving.go_on.notify_one();
    let (said, mut connection) = slow.await.expect("it was not cut");
    assert_eq!(said, "slow");
    let again = connection.get("/").await.expect("the connection goes on");
    assert_eq!(text(again).await, "fast");
    serving.stop.send(()).expect("it runs");
    let drained = (&mut serving.ended).await.expect("it ends");
    assert_eq!(drained, Drained { cut: 0 });
}

#[tokio::test]
async fn clients_refuse_a_certificate_that_is_expired_or_another_names() {
    for (pair, why) in [
        (expired("localhost"), "expired"),
        (pair("elsewhere.example"), "not valid for name"),
    ] {
        let serving = over_tls(&pair, Limits::default()).await;
        let refused = Client::of(&pair).connect(serving.to).await;
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_is_refused_at_the_start() {
    let (one, other) = (pair("localhost"), pair("localhost"));
    let files = Files::of(&one);
    let watch = async || {
        let watched = Certificates::watch(&files.cert, &files.key, NEVER).await;
        watched.expect_err("refused")
    };
    std::fs::write(&files.key, &other.key_pem).expect("a file");
    let why = watch().await;
    assert!(matches!(why, TlsError::Unusable { .. }), "{why}");
    std::fs::write(&files.key, "no PEM").expect("a file");
    let why = watch().await;
    assert!(matches!(why, TlsError::Pem { .. }), "{why}");
    std::fs::remove_file(&files.key).expect("it is there");
    let why = watch().await;
    let TlsError::Unreadable { file, .. } = why else {
        panic!("{why}")
    };
    assert!(file.starts_with(files.dir.path()));
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_head_too_slowly_is_cut_off() {
    let serving = Serving::plain(Limits::default()).await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(serving.to).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("open");
    let mut answer = Vec::new();
    let mut drip = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            read = stream.read_buf(&mut answer) => {
                if read.unwrap_or(0) == 0 {
                    break;
                }
            }
            _ = drip.tick() => {
                // Cut off between two drops is cut off too.
                let _ = stream.write_all(b"x-drop: 1\r\n").await;
            }
        }
    }
    let took = begun.elapsed().as_secs();
    assert!((29..=32).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_cut_off() {
    let pair = pair("localhost");
    let serving = over_tls(&pair, Limits::default()).await;
    let begun = Instant::now();
    assert_eq!(exchange(serving.to, b"").await, "");
    let took = begun.elapsed().as_secs();
    assert!((9..=12).contains(&took), "no handshake: {took} s");

    for protocol in ["http/1.1", "h2"] {
        let client = Client {
            protocol,
            ..Client::of(&pair)
        };
        let begun = Instant::now();
        let mut stream = client.connect(serving.to).await.expect("a handshake");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let took = begun.elapsed().as_secs();
        assert!(
            (29..=32).contains(&took),
            "{protocol}, no request: {took} s"
        );
    }
}

/// A server with an answer that has no end. It says so when it gives one up.
async fn endless(
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
) -> (SocketAddr, oneshot::Sender<()>, mpsc::Receiver<()>) {
    struct Open(mpsc::Sender<()>);
    impl Drop for Open {
        fn drop(&mut self) {
            // Nobody has to look.
            let _ = self.0.try_send(());
        }
    }
    let (given_up, seen) = mpsc::channel(1);
    let answer = async move || {
        let more =
            async |open: Open| Some((Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 4096])), open));
        Body::from_stream(stream::unfold(Open(given_up.clone()), more))
    };
    let router = Router::new().route("/", get(answer));
    let (to, stop, _ended) = listen(tls, router, limits).await;
    (to, stop, seen)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_reads_no_more_is_cut_off() {
    let limits = Limits {
        stalled_within: Duration::from_millis(100),
        ..Limits::default()
    };
    let (to, _stop, mut given_up) = endless(None, limits).await;
    let mut plain = TcpStream::connect(to).await.expect("a connection");
    let asked = plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    asked.await.expect("it takes them");
    given_up.recv().await.expect("it is given up");

    let pair = pair("localhost");
    let files = Files::of(&pair);
    let config = certificates(&files, NEVER).await.config();
    let config = config.expect("a configuration");
    let (to, _stop, mut given_up) = endless(Some(config), limits).await;
    let client = Client {
        protocol: "http/1.1",
        ..Client::of(&pair)
    };
    let mut stream = client.connect(to).await.expect("a handshake");
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    asked.await.expect("it takes them");
    given_up.recv().await.expect("it is given up");
}

#[tokio::test]
async fn who_reads_slowly_is_not_cut_off() {
    let limits = Limits {
        stalled_within: Duration::from_millis(500),
        ..Limits::default()
    };
    let (to, _stop, mut given_up) = endless(None, limits).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    // So that a little makes room for more.
    socket.set_recv_buffer_size(8192).expect("a small one");
    let mut stream = socket.connect(to).await.expect("a connection");
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    asked.await.expect("it takes them");
    let mut some = [0; 4096];
    let begun = Instant::now();
    let mut read_at = begun;
    while begun.elapsed() < 3 * limits.stalled_within {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if read_at.elapsed() > limits.stalled_within / 2 {
            // This machine was so slow itself that nothing follows from it.
            return;
        }
        let read = stream.read(&mut some).await.expect("it is not cut off");
        assert!(read > 0, "it is not at its end");
        read_at = Instant::now();
    }
    assert!(given_up.try_recv().is_err(), "it is still being answered");
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_the_server_goes_on() {
    let fixture = Fixture::closed();
    let (to, _stop, _ended) = listen(None, fixture.app.clone(), Limits::default()).await;
    let head = |headers: &[u8]| [b"GET /read HTTP/1.1\r\nhost: x\r\n", headers, b"\r\n"].concat();
    let many = b"x: y\r\n".repeat(500);
    let huge = [b"x: ".as_slice(), &b"y".repeat(1 << 20), b"\r\n"].concat();
    let long = [
        b"authorization: Bearer ".as_slice(),
        &b"y".repeat(4096),
        b"\r\n",
    ]
    .concat();
    for (headers, status) in [
        (many.as_slice(), "431"),
        (&huge, "431"),
        (b"\x00\xff\r\n", "400"),
        (
            &[&long, b"connection: close\r\n".as_slice()].concat(),
            "401",
        ),
        (
            b"authorization: Bearer \xff\xfe\r\nconnection: close\r\n",
            "401",
        ),
    ] {
        let answer = exchange(to, &head(headers)).await;
        let line = answer.lines().next().unwrap_or_default();
        // A reset may have overtaken what was said.
        let said = line.contains(status) || (line.is_empty() && headers.len() > 1 << 16);
        assert!(said, "{status}: {line}");
    }
    let answer = exchange(to, &head(b"connection: close\r\n")).await;
    assert!(answer.contains("401 Unauthorized"), "{answer}");
    assert!(answer.contains("www-authenticate: Bearer"), "{answer}");

    exchange(
        to,
        b"POST /deploy HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    .await;
    let who = async || {
        let lines = audit::list(&*fixture.store, None, 1).await.expect("lines");
        lines.items.first().map(|line| line.who.clone())
    };
    while who().await.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(who().await.as_deref(), Some("unknown, from 127.0.0.1"));
}

#[tokio::test]
async fn who_still_sends_when_he_is_answered_is_heard_out() {
    let pair = pair("localhost");
    let serving = over_tls(&pair, Limits::default()).await;
    let client = Client {
        protocol: "h2",
        ..Client::of(&pair)
    };
    let mut connection = client.open(serving.to).await.expect("a connection");
    let (part, parts) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(parts, async |mut parts| {
        let part = parts.recv().await?;
        Some((Ok::<_, Infallible>(part), parts))
    });
    part.send("{".into()).await.expect("it is open");
    // There is no such method, so that nobody reads what comes with it.
    let said = connection.send(Method::POST, "/", Body::from_stream(body));
    let said = said.await.expect("an answer");
    assert_eq!(said.status(), 405);
    assert_eq!(text(said).await, "");
    // What came behind that answer came before this one.
    let other = connection.get("/").await.expect("an answer");
    assert_eq!(text(other).await, "fast");
    part.send("}".into()).await.expect("it was not reset");

    let serving = Serving::plain(Limits::default()).await;
    let mut stream = TcpStream::connect(serving.to).await.expect("a connection");
    let refused = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{";
    stream.write_all(refused).await.expect("it takes them");
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.expect("an answer");
    assert!(answer[..read].starts_with(b"HTTP/1.1 405"));
    let more = b"}GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(more).await.expect("it takes them");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("it was not reset");
    assert!(answer.ends_with("fast"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wants_is_not_waited_for_for_long() {
    let serving = Serving::plain(Limits::default()).await;
    for (headers, within) in [
        // It may be on its way.
        ("content-length: 2\r\n", 2),
        ("transfer-encoding: chunked\r\n", 2),
        // Whatever comes is too much.
        ("content-length: 1048577\r\n", 0),
        // It is not: its sender waits for a word.
        ("content-length: 2\r\nexpect: 100-continue\r\n", 0),
    ] {
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let begun = Instant::now();
        let answer = exchange(serving.to, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{headers}: {answer}");
        assert_eq!(begun.elapsed().as_secs(), within, "{headers}");
    }
}

#[tokio::test]
async fn who_finds_no_room_waits_for_it() {
    let limits = Limits {
        connections_max: 1,
        ..Limits::default()
    };
    let serving = Serving::plain(limits).await;
    let mut first = TcpStream::connect(serving.to).await.expect("a connection");
    first
        .write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("open");
    serving.asked.notified().await;
    let to = serving.to;
    let second = tokio::spawn(async move {
        exchange(
            to,
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished());
    serving.go_on.notify_one();
    assert!(second.await.expect("no panic").ends_with("fast"));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_requests_in_progress_have_their_time_and_no_more() {
    let slow = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n";

    let serving = Serving::plain(Limits::default()).await;
    let to = serving.to;
    let asked = tokio::spawn(async move { exchange(to, slow).await });
    serving.asked.notified().await;
    serving.stop.send(()).expect("it runs");
    while TcpStream::connect(to).await.is_ok() {
        tokio::task::yield_now().await;
    }
    serving.go_on.notify_one();
    assert!(asked.await.expect("no panic").ends_with("slow"));
    assert_eq!(serving.ended.await.expect("it ends"), Drained { cut: 0 });

    let serving = Serving::plain(Limits::default()).await;
    let to = serving.to;
    let asked = tokio::spawn(async move { exchange(to, slow).await });
    let idle = TcpStream::connect(to).await.expect("a connection");
    serving.asked.notified().await;
    let begun = Instant::now();
    serving.stop.send(()).expect("it runs");
    assert_eq!(serving.ended.await.expect("it ends"), Drained { cut: 1 });
    let took = begun.elapsed().as_secs();
    assert!((24..=27).contains(&took), "{took} s");
    assert_eq!(asked.await.expect("no panic"), "");
    drop(idle);
}
