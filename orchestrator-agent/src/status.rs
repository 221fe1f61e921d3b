//! The status page: a JSON document for whoever connects to the socket in the data directory.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::net::within;

/// What fits into the address of a socket, with the zero at its end.
const SOCKET_PATH_BYTES: usize = 108;
const WITHIN: Duration = Duration::from_secs(5);
const BYTES_MAX: u64 = 16 << 20;

/// A question after the status, and where the answer goes.
pub(crate) type Question = oneshot::Sender<Value>;

/// Answers, one after the other. An agent without the page works as well.
pub(crate) async fn serve(path: PathBuf, questions: mpsc::Sender<Question>) {
    // Left by a former agent; that no other one lives the lock says.
    let _ = std::fs::remove_file(&path);
    let bound = Short::of(&path).and_then(|short| UnixListener::bind(&short.path));
    let listener = bound.and_then(|listener| {
        // Whatever the umask is.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    let listener = match listener {
        Ok(listener) => listener,
        Err(why) => {
            tracing::warn!(path = %path.display(), %why, "no status page");
            return std::future::pending().await;
        }
    };
    loop {
        let answered = async {
            let (mut stream, _) = listener.accept().await?;
            let (question, answer) = oneshot::channel();
            questions.send(question).await.map_err(io::Error::other)?;
            let status = answer.await.map_err(io::Error::other)?;
            within(WITHIN, stream.write_all(status.to_string().as_bytes())).await?
        };
        if let Err(why) = answered.await {
            tracing::debug!(%why, "nobody takes the status");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Another path to a file in a directory whose own may be too long for a socket.
struct Short {
    path: PathBuf,
    _directory: Option<File>,
}

impl Short {
    fn of(path: &Path) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().len() < SOCKET_PATH_BYTES {
            return Ok(Self {
                path: path.to_owned(),
                _directory: None,
            });
        }
        let directory = File::open(directory)?;
        let way = format!("/proc/self/fd/{}", directory.as_raw_fd());
        Ok(Self {
            path: Path::new(&way).join(name),
            _directory: Some(directory),
        })
    }
}

/// What the agent of this data directory says of itself.
pub async fn ask(data_dir: &Path) -> io::Result<Value> {
    within(WITHIN, async {
        let short = Short::of(&data_dir.join("agent.sock"))?;
        let stream = UnixStream::connect(&short.path).await?;
        let mut text = String::new();
        stream.take(BYTES_MAX).read_to_string(&mut text).await?;
        Ok(serde_json::from_str(&text)?)
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_asked_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for depth in [0, 3] {
            let long = "d".repeat(60);
            let data = (0..depth).fold(dir.path().to_owned(), |path, _| path.join(&long));
            std::fs::create_dir_all(&data).unwrap();
            let (questions, mut asked) = mpsc::channel::<Question>(1);
            let served = serve(data.join("agent.sock"), questions);
            let answers = async {
                let question = asked.recv().await.unwrap();
                question
                    .send(serde_json::json!({ "depth": depth }))
                    .unwrap();
            };
            let asks = async {
                loop {
                    // Until it listens.
                    match ask(&data).await {
                        Ok(status) => break status,
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            };
            let status = tokio::select! {
                () = served => unreachable!("it serves on"),
                (status, ()) = async { tokio::join!(asks, answers) } => status,
            };
            assert_eq!(status["depth"], depth);
            let mode = std::fs::metadata(data.join("agent.sock"))
                .unwrap()
                .permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
        }
    }
}
