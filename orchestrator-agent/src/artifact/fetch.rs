//! Brings an artifact from where it is.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::Body;
use hyper::{Response, StatusCode, Uri};
use rustix::fs::OFlags;
use tokio::sync::{mpsc, oneshot};

use super::cache::{Made, Passing, Unmade, make, too_large};
use super::{Artifact, Bounds, Failed, Source, public, uri};
use crate::net::{self, Address, within};

/// In which there has to be some progress.
const PROGRESS_WITHIN: Duration = Duration::from_secs(30);
/// The least that comes in such a time.
const PROGRESS_BYTES: usize = 64 << 10;
const REDIRECTS_MAX: usize = 5;
/// Pieces that wait for the disk.
const PIECES_MAX: usize = 4;

/// Brings an artifact here. Dropping this abandons it, and leaves nothing behind.
pub(crate) async fn fetch(
    artifact: Artifact,
    bounds: Bounds,
    authorities: Option<PathBuf>,
    passing: Passing,
) -> Result<Made, Failed> {
    let (send, receive) = mpsc::channel(PIECES_MAX);
    let (done, made) = oneshot::channel();
    let wanted = artifact.clone();
    // What reads, hashes and unpacks is not the loop's thread. It ends when nobody waits at the other end of `done`.
    tokio::task::spawn_blocking(move || {
        let made = match &wanted.source {
            Source::File(path) => open(path).map_err(Unmade::from).and_then(|mut file| {
                let is_abandoned = || done.is_closed();
                make(&wanted, bounds, passing, &mut file, &is_abandoned)
            }),
            Source::Url(_) => {
                let mut pieces = Pieces {
                    receive,
                    rest: Bytes::new(),
                };
                make(&wanted, bounds, passing, &mut pieces, &|| done.is_closed())
            }
        };
        let _ = done.send(made);
    });
    let named = |failed| match &artifact.source {
        Source::File(path) => name(&path.to_string_lossy(), failed),
        Source::Url(url) => name(public(url), failed),
    };
    let mut end = End::Marked;
    if let Source::Url(url) = &artifact.source {
        let downloaded = download(url, bounds.bytes_max, authorities, send).await;
        end = downloaded.map_err(named)?;
    }
    let broken = |_| Err(Failed::Away("a part of the agent has failed".to_owned()).into());
    let made = made.await.unwrap_or_else(broken);
    made.map_err(|unmade| {
        named(match (unmade, end) {
            (Unmade::Failed(failed), _) => failed,
            (Unmade::Hash(why), End::Marked) => Failed::Wrong(why),
            (Unmade::Hash(why), End::Unmarked) => Failed::Away(format!(
                "{why} (it was sent without a length: it may have been cut)"
            )),
        })
    })
}

/// How an answer shows where it ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// By its length, or by a last piece: what is cut is an error.
    Marked,
    /// With the connection: what is cut looks whole.
    Unmarked,
}

fn name(source: &str, failed: Failed) -> Failed {
    match failed {
        Failed::Away(why) => Failed::Away(format!("artifact: {source}: {why}")),
        Failed::Wrong(why) => Failed::Wrong(format!("artifact: {source}: {why}")),
    }
}

fn open(path: &Path) -> Result<impl Read + use<>, Failed> {
    let away = |why: io::Error| Failed::Away(why.to_string());
    // Of a pipe that nobody writes to, opening would not end.
    let mut file = OpenOptions::new();
    let file = file
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = file.open(path).map_err(away)?;
    match file.metadata().map_err(away)?.is_file() {
        true => Ok(file),
        false => Err(Failed::Away("it is no file".to_owned())),
    }
}

/// Sends the bytes, and an empty piece at the end.
async fn download(
    url: &str,
    bytes_max: u64,
    authorities: Option<PathBuf>,
    send: mpsc::Sender<Bytes>,
) -> Result<End, Failed> {
    let mut at = uri(url).map_err(Failed::Wrong)?;
    for _ in 0..=REDIRECTS_MAX {
        let (from, authorities) = (at.clone(), authorities.clone());
        // The system's authorities are many files.
        let address =
            tokio::task::spawn_blocking(move || Address::anywhere(&from, authorities.as_deref()));
        let address = address.await.map_err(|why| away(&why))?;
        let address = address.map_err(|why| away(&why))?;
        let mut connection = address.connect().await.map_err(|why| away(&why))?;
        let path = at.path_and_query().map_or("/", |path| path.as_str());
        let request = address.request("GET", path).header("connection", "close");
        let request = request.body(Full::default()).map_err(|why| away(&why))?;
        let answer = connection.send(request, PROGRESS_WITHIN).await;
        let answer = answer.map_err(|why| away(&why))?;
        match answer.status() {
            StatusCode::OK => return receive(answer, bytes_max, &send).await,
            status if status.is_redirection() => {
                let to = answer.headers().get("location");
                let to = to.and_then(|to| to.to_str().ok()).unwrap_or_default();
                at = redirected(&at, to).map_err(Failed::Wrong)?;
            }
            status => return Err(Failed::Away(format!("the answer is {status}"))),
        }
    }
    Err(Failed::Wrong(format!(
        "more than {REDIRECTS_MAX} redirects"
    )))
}

async fn receive(
    answer: Response<hyper::body::Incoming>,
    bytes_max: u64,
    send: &mpsc::Sender<Bytes>,
) -> Result<End, Failed> {
    let is_marked = answer.body().size_hint().exact().is_some()
        || answer.headers().contains_key("transfer-encoding");
    let end = if is_marked {
        End::Marked
    } else {
        End::Unmarked
    };
    let length = answer.headers().get("content-length");
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let mut body = answer.into_body();
    let mut pace = Pace::from(Instant::now());
    loop {
        let piece = within(PROGRESS_WITHIN, net::next(&mut body)).await;
        let piece = piece.and_then(|piece| piece).map_err(|why| away(&why))?;
        let is_last = piece.is_none();
        if piece.as_ref().is_some_and(Bytes::is_empty) {
            continue;
        }
        let bytes = piece.as_ref().map_or(0, Bytes::len);
        if !is_last && !pace.is_kept(Instant::now(), bytes) {
            let least = PROGRESS_BYTES >> 10;
            let text = format!("it comes too slowly: less than {least} KiB in 30 s");
            return Err(Failed::Away(text));
        }
        // Who does not listen any more says why.
        if send.send(piece.unwrap_or_default()).await.is_err() || is_last {
            return Ok(end);
        }
    }
}

/// Whether enough comes: what trickles for ever keeps others from their turn.
struct Pace {
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn from(since: Instant) -> Self {
        Self { since, bytes: 0 }
    }

    fn is_kept(&mut self, now: Instant, bytes: usize) -> bool {
        self.bytes += bytes;
        if now.duration_since(self.since) < PROGRESS_WITHIN {
            return true;
        }
        let kept = self.bytes >= PROGRESS_BYTES;
        *self = Self::from(now);
        kept
    }
}

fn away(why: &dyn std::error::Error) -> Failed {
    let mut text = why.to_string();
    let mut source = why.source();
    while let Some(why) = source {
        text += &format!(": {why}");
        source = why.source();
    }
    Failed::Away(text)
}

/// Where a redirect leads.
fn redirected(from: &Uri, to: &str) -> Result<Uri, String> {
    let scheme = from.scheme_str().unwrap_or_default();
    let authority = from.authority().map_or("", |all| all.as_str());
    let whole = match to {
        to if to.contains("://") => to.to_owned(),
        to if to.starts_with("//") => format!("{scheme}:{to}"),
        to if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        to => {
            let (directory, _) = from.path().rsplit_once('/').unwrap_or_default();
            format!("{scheme}://{authority}{directory}/{to}")
        }
    };
    let read = uri(&whole).map_err(|why| format!("a redirect: {why}"))?;
    match scheme == "https" && read.scheme_str() != Some("https") {
        true => Err("a redirect from https:// to http://".to_owned()),
        false => Ok(read),
    }
}

/// What was sent, as something to be read. That the sender is gone before the last piece is an error.
struct Pieces {
    receive: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let gone = || io::Error::other("nobody wants it any more");
            self.rest = self.receive.blocking_recv().ok_or_else(gone)?;
        }
        let count = bytes.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut bytes[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::{Cache, Unpack};
    use super::*;

    #[tokio::test]
    async fn without_a_length_only_what_is_not_whole_is_tried_again_soon() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for (sent, unpack, expected) in [
            ("abc", Unpack::Not, "here"),
            ("ab", Unpack::Not, "away"),
            ("abcd", Unpack::Not, "wrong"),
            ("abc", Unpack::TarGz, "wrong"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let source = Source::Url(format!("http://{}/", listener.local_addr().unwrap()));
            let sends = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                let answer = format!("HTTP/1.1 200 Said\r\n\r\n{sent}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let dir = tempfile::tempdir().unwrap();
            let bounds = Bounds {
                bytes_max: 3,
                ..Bounds::default()
            };
            let passing = Cache::open(dir.path().join("artifacts"), bounds)
                .unwrap()
                .place();
            let sha256 = hash.to_owned();
            let artifact = Artifact {
                source,
                sha256,
                unpack,
            };
            let (fetched, ()) = tokio::join!(fetch(artifact, bounds, None, passing), sends);
            let found = match &fetched {
                Ok(_) => "here",
                Err(Failed::Away(_)) => "away",
                Err(Failed::Wrong(_)) => "wrong",
            };
            assert_eq!(found, expected, "{sent}: {fetched:?}");
        }
    }

    #[test]
    fn what_trickles_is_too_slow() {
        let mut now = Instant::now();
        let mut pace = Pace::from(now);
        let mut later = |secs, bytes| {
            now += Duration::from_secs(secs);
            pace.is_kept(now, bytes)
        };
        // Not much at first, and then enough.
        assert!(later(29, 1));
        assert!(later(1, PROGRESS_BYTES));
        assert!(later(20, 1));
        // What came before is no longer counted.
        assert!(!later(10, PROGRESS_BYTES - 2));
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let from: Uri = "https://a:1/dir/file?x".parse().unwrap();
        for (to, whole) in [
            ("https://b/c", "https://b/c"),
            ("//b/c", "https://b/c"),
            ("/c?y", "https://a:1/c?y"),
            ("c", "https://a:1/dir/c"),
        ] {
            assert_eq!(redirected(&from, to).unwrap().to_string(), whole);
        }
        for (to, sentence) in [
            ("http://b/c", "from https:// to http://"),
            ("ftp://b/c", "a redirect: \"ftp://b/c\" is neither"),
            ("file:///etc/passwd", "neither"),
        ] {
            let why = redirected(&from, to).unwrap_err();
            assert!(why.contains(sentence), "{why}");
        }
    }
}
