//! Server-sent events, read from whatever pieces they come in.

use std::io;

/// Collects pieces until an event is whole.
#[derive(Debug)]
pub(super) struct Events {
    bytes_max: usize,
    bytes: Vec<u8>,
    /// Up to here there is no end of a line.
    searched: usize,
    data: String,
}

impl Events {
    /// An event that is longer is an error.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: Vec::new(),
            searched: 0,
            data: String::new(),
        }
    }

    /// Takes a piece in.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The data of the next event that is whole.
    pub(super) fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            let found = self.bytes[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            let Some(at) = found else {
                self.searched = self.bytes.len();
                return match self.bytes.len() + self.data.len() > self.bytes_max {
                    true => Err(io::Error::other("an event that is too long")),
                    false => Ok(None),
                };
            };
            let end = self.searched + at;
            let line = self.bytes[..end]
                .strip_suffix(b"\r")
                .unwrap_or(&self.bytes[..end]);
            let event = match std::str::from_utf8(line) {
                Ok("") if self.data.is_empty() => None,
                Ok("") => Some(std::mem::take(&mut self.data)),
                Ok(line) => {
                    if let Some(data) = line.strip_prefix("data:") {
                        if !self.data.is_empty() {
                            self.data.push('\n');
                        }
                        self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
                    }
                    None
                }
                Err(why) => return Err(io::Error::other(why)),
            };
            self.bytes.drain(..=end);
            self.searched = 0;
            if self.data.len() > self.bytes_max {
                return Err(io::Error::other("an event that is too long"));
            }
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_same_events() {
        let text =
            ": alive\n\nid: 7\ndata: {\"a\":1}\n\ndata:x\r\ndata: y\r\n\r\nevent: e\n\ndata: cut";
        for size in 1..text.len() {
            let mut events = Events::new(100);
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                events.push(piece);
                while let Some(event) = events.next().unwrap() {
                    found.push(event);
                }
            }
            assert_eq!(found, ["{\"a\":1}", "x\ny"], "in pieces of {size}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        let mut events = Events::new(10);
        events.push(b"data: 123");
        assert!(events.next().unwrap().is_none());
        events.push(b"4567890");
        assert!(events.next().is_err());
        let mut events = Events::new(10);
        events.push(b"data: 12345\ndata: 67890\n");
        assert!(events.next().is_err());
    }
}
