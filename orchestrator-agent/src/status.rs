//! The status page: a JSON document for whoever connects to the socket in the data directory.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::net::within;

const WITHIN: Duration = Duration::from_secs(5);
const BYTES_MAX: u64 = 16 << 20;

/// A question after the status, and where the answer goes.
pub(crate) type Question = oneshot::Sender<Value>;

/// Answers, one after the other. An agent without the page works as well.
pub(crate) async fn serve(path: PathBuf, questions: mpsc::Sender<Question>) {
    // Left by a former agent; that no other one lives the lock says.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).and_then(|listener| {
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

/// What the agent of this data directory says of itself.
pub async fn ask(data_dir: &Path) -> io::Result<Value> {
    within(WITHIN, async {
        let stream = UnixStream::connect(data_dir.join("agent.sock")).await?;
        let mut text = String::new();
        stream.take(BYTES_MAX).read_to_string(&mut text).await?;
        Ok(serde_json::from_str(&text)?)
    })
    .await?
}
