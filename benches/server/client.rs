//! As little HTTP as measures a server and not its client.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection that is kept.
pub(crate) struct Line {
    stream: BufReader<TcpStream>,
    head: String,
    body: Vec<u8>,
}

impl Line {
    pub(crate) async fn open(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream: BufReader::new(stream),
            head: String::new(),
            body: Vec::new(),
        }
    }

    /// The answer's status; its body is in `body` then.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) -> u16 {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        if !body.is_empty() {
            let length = body.len();
            request += &format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        }
        request += "\r\n";
        request += body;
        self.send(&request).await;
        let (status, length) = self.head().await;
        self.body.resize(length.unwrap_or(0), 0);
        let read = self.stream.read_exact(&mut self.body).await;
        read.expect("a whole body");
        status
    }

    /// What is asked for, as JSON.
    pub(crate) async fn json(&mut self, method: &str, path: &str, body: &str) -> Value {
        let status = self.ask(method, path, body).await;
        let text = String::from_utf8_lossy(&self.body);
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {text}"
        );
        serde_json::from_str(&text).expect("JSON")
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Goes on as a stream of events.
    pub(crate) async fn listen(mut self, path: &str) -> Events {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
        self.send(&request).await;
        let (status, length) = self.head().await;
        assert_eq!((status, length), (200, None), "a stream");
        Events {
            line: self,
            text: String::new(),
        }
    }

    async fn send(&mut self, text: &str) {
        let sent = self.stream.get_mut().write_all(text.as_bytes()).await;
        sent.expect("it listens");
    }

    async fn head(&mut self) -> (u16, Option<usize>) {
        let (mut status, mut length) = (0, None);
        loop {
            self.head.clear();
            let read = self.stream.read_line(&mut self.head).await;
            assert!(read.expect("a head") > 0, "it hung up");
            let line = self.head.trim_end();
            if line.is_empty() {
                return (status, length);
            }
            if status == 0 {
                let word = line.split(' ').nth(1).and_then(|word| word.parse().ok());
                status = word.expect("a status");
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().ok();
            }
        }
    }
}

/// What a server sends when there is news.
pub(crate) struct Events {
    line: Line,
    text: String,
}

impl Events {
    /// The data of the next event; `None` when the server is gone.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event = self.text.drain(..end + 2).collect::<String>();
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                match data {
                    Some(data) => return Some(data.to_owned()),
                    // A sign of life.
                    None => continue,
                }
            }
            let Line { stream, head, body } = &mut self.line;
            head.clear();
            if stream.read_line(head).await.unwrap_or(0) == 0 {
                return None;
            }
            let length = usize::from_str_radix(head.trim_end(), 16).expect("its length");
            body.resize(length + 2, 0);
            stream.read_exact(body).await.ok()?;
            self.text += std::str::from_utf8(&body[..length]).expect("text");
        }
    }
}
